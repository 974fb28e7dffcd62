"""The prefix of a decoder: everything before the input, made once and shared by every row that names it.

A prefix is a deep prefix's keys and values, then a soft prompt and a fixed text that run under the row's own LoRA or
weights, tokenised apart from the rows: `[deep prefix][soft prompt][fixed text][row]`. While any of it trains, it is
part of the pass, once for all its rows, and gradients flow through it; else its keys and values are kept between
passes. A prefix of a sliding-window model is seen as far as the window reaches, as tokens are.

Shapes: B rows, N tokens, M hidden states that are read, D width, P virtual tokens.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Part, Prefix, SoftPrompt, Weights
from tunewright.backbones.backbone import Update
from tunewright.backbones.base import Row
from tunewright.backbones.causal import Pass, Past
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.packed import Sequences, sequences, spare_tokens
from tunewright.backbones.prefix import Kept, KeptPrefixes, Keys, stacked, unstacked
from tunewright.backbones.recomputed import recomputed
from tunewright.backbones.writer import Writer

PREFIX_BYTES = 512 * 2**20
"""Of the keys and values of prefixes that are kept between passes."""


_ALONE_TOKENS = 20
"""Of a text on average: measured with GPT-2's shape, where prefixes are all the same."""


class Prefixed(Writer):
    """A frozen decoder that runs packed texts behind prefixes.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
        prefix_bytes: Of the prefixes kept between passes, at most.
    """

    prefix_shape: tuple[int, int, int]

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, prefix_bytes: int = PREFIX_BYTES
    ) -> None:
        super().__init__(checkpoint, dtype=dtype, device=device)
        self._kept = KeptPrefixes(prefix_bytes)
        self._fixed: dict[str, tuple[int, ...]] = {}
        """Fixed text -> its tokens."""
        self._adopt()
        self.prefix_shape = (0, 0, 0)
        self.prefix_shape = self._find_prefix_shape()

    @classmethod
    def open(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, prefix_bytes: int) -> Self:
        return cls(checkpoint, dtype=dtype, device=device, prefix_bytes=prefix_bytes)

    @abstractmethod
    def _adopt(self) -> None:
        """Puts our attention into the model."""

    def _one_pass(self, rows: Sequence[Row], weights: Weights | None) -> Tensor:
        features_BD = self.run(self.batch(rows, [row.encoding.ids for row in rows], weights)).hidden_MD
        assert features_BD is not None
        return features_BD.float()

    def batch(self, rows: Sequence[Row], texts: Sequence[tuple[int, ...]], weights: Weights | None) -> "Batch":
        """Texts of rows behind their prefixes, which are looked up, or are part of the batch if they train."""
        distinct = {_prefix_key(row.adapter): row.adapter for row in rows}
        adapters, order = list(distinct.values()), list(distinct)
        openings: Sequence[Opening] = [_NO_OPENING] * len(adapters)
        if torch.is_grad_enabled() and any(t.requires_grad for a in adapters for t in _prefix_tensors(a)):
            known, openings = [_deep(a) for a in adapters], [self._opening(a) for a in adapters]
        else:
            known = self._kept_prefixes(adapters, weights)
        return Batch(
            openings=openings,
            known=known,
            texts=texts,
            which=[order.index(_prefix_key(row.adapter)) for row in rows],
            reads=[1] * len(texts),
            loras=[a.update for a in (*adapters, *(row.adapter for row in rows))],
            weights=weights,
        )

    def _kept_prefixes(self, adapters: Sequence[Adapter], weights: Weights | None) -> list[Kept | None]:
        """Keys and values of every prefix, made where they are not known yet."""
        found = [self._kept.get(_said(a), _prefix_tensors(a)) if _runs(a) else _deep(a) for a in adapters]
        missing = [k for k, a in enumerate(adapters) if found[k] is None and _runs(a)]
        if missing:
            batch = Batch(
                openings=[self._opening(adapters[k]) for k in missing],
                known=[_deep(adapters[k]) for k in missing],
                loras=[adapters[k].update for k in missing],
                weights=weights,
            )
            with torch.no_grad():
                layers = self.run(batch).prefixes
            for k, kept in zip(missing, unstacked(layers, batch.lengths()), strict=True):
                self._kept.put(_said(adapters[k]), _prefix_tensors(adapters[k]), kept)
                found[k] = kept
        return found

    def cache_of(self, vectors_PD: Tensor) -> Prefix:
        """What vectors leave behind when they run first; of a text's embeddings, the cache of the text."""
        alone = Adapter(base=self.identity, labels=(), max_tokens=self.max_tokens)
        (kept,) = self._kept_prefixes([replace(alone, soft_prompt=SoftPrompt(vectors_PD=vectors_PD))], None)
        assert kept is not None
        keys_LHPd, values_LHPd = (tensor.float().cpu() for tensor in kept)
        return Prefix(keys_LHPd=keys_LHPd, values_LHPd=values_LHPd)

    def _opening(self, adapter: Adapter) -> "Opening":
        """What is to be run of a prefix."""
        vectors = None if adapter.soft_prompt is None else adapter.soft_prompt.vectors_PD
        return Opening(vectors_PD=vectors, ids=self.fixed_ids(fixed_text(adapter)))

    def fixed_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a template's fixed text, with the token that begins every text if the base has one."""
        if text not in self._fixed:
            self._fixed[text] = (*self.begin_ids, *self.token_ids(text)) if text else ()
        return self._fixed[text]

    @cached_property
    def begin_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text."""
        tokenizer = self._checkpoint.tokenizer
        return tuple(i for i in tokenizer("")["input_ids"][:1] if i == tokenizer.bos_token_id)

    def run(self, batch: "Batch", past: Past | None = None) -> "Ran":
        """One pass over openings and texts."""
        embeds_ND = self._embed(batch)
        spare = spare_tokens(len(embeds_ND), embeds_ND) if batch.texts else 0
        embeds_ND = nn.functional.pad(embeds_ND, (0, 0, 0, spare))
        openings, texts = lay_out(batch, self._device, spare)
        num_layers, num_heads, width = self.prefix_shape
        alone = batch.alone(embeds_ND.new_zeros(num_layers, num_heads, 0, width)) if past is None else []
        known = partial(stacked, batch.known, self.prefix_shape, embeds_ND)
        one = Pass(openings, texts, known, alone=alone, reads=batch.reads, past=past)
        loras = batch.loras if openings is not None else batch.loras[len(batch.known) :]
        return Ran(hidden_MD=self._forward(one, embeds_ND, loras, batch.weights), prefixes=one.prefixes)

    def go_on(
        self,
        ids: Sequence[int],
        texts: Sequences,
        prefixes: Sequence[Keys],
        past: Past,
        loras: Sequence[Update | None],
        weights: Weights | None,
    ) -> Tensor:
        """Last hidden states, [N, D], of tokens that follow texts of an earlier pass.

        Args:
            ids: The tokens.
            texts: Where they stand.
            prefixes: Of each layer; none where there are no prefixes.
            past: What the texts saw of themselves.
            loras: Of each text.
            weights: Of all of them.
        """
        embeds_ND = self._embed(Batch(openings=(), known=(), texts=[tuple(ids)], loras=(), weights=weights))
        one = Pass(None, texts, lambda: prefixes or None, reads=texts.lengths, past=past)
        hidden_ND = self._forward(one, embeds_ND, loras, weights)
        assert hidden_ND is not None
        return hidden_ND

    def _forward(
        self, one: Pass, embeds_ND: Tensor, loras: Sequence[Update | None], weights: Weights | None
    ) -> Tensor | None:
        """The model over one pass."""
        blocks = [block for block in (one.prompts, one.texts) if block is not None]
        positions_N = torch.cat([block.position_RT.flatten()[block.place_N] for block in blocks])
        inputs = {"inputs_embeds": embeds_ND[None], "position_ids": positions_N[None], "use_cache": False}

        def model() -> Tensor:
            return functional_call(self._model, self._own_values(weights), (), inputs).last_hidden_state  # type: ignore[no-any-return]

        @contextmanager
        def again() -> Iterator[None]:
            with one.again(), self._updated(loras, one.tokens_of):
                yield

        with self._updated(loras, one.tokens_of), recomputed(self.layers[:-1], again):
            return one.run(model, self.layers[-1])

    def _embed(self, batch: "Batch") -> Tensor:
        """Soft prompts and word embeddings in the order of the pass: [N, width of the embeddings]."""
        table = self._model.get_input_embeddings().weight  # type: ignore[operator]
        fixed = [opening.ids for opening in batch.openings]
        ids_N = torch.tensor([i for ids in (*fixed, *batch.texts) for i in ids], dtype=torch.long, device=self._device)
        embeds_ND = nn.functional.embedding(ids_N, table)
        if batch.weights is not None:
            embeds_ND = batch.weights.look_up(ids_N, embeds_ND)
        embeds_ND = embeds_ND * torch.tensor(self.embedding_scale, dtype=table.dtype)
        *openings, texts_ND = embeds_ND.split([*map(len, fixed), sum(map(len, batch.texts))])
        vectors = [opening.vectors_PD for opening in batch.openings]
        pairs = [t for pair in zip(vectors, openings, strict=True) for t in pair if t is not None]
        return torch.cat([*(t.to(embeds_ND) for t in pairs), texts_ND])

    is_causal: bool = True

    @property
    def kept_values(self) -> int:
        return 2 * math.prod(self.prefix_shape)

    def _find_prefix_shape(self) -> tuple[int, int, int]:
        """By running one virtual token."""
        width = self._model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        with torch.no_grad():
            opening = Opening(vectors_PD=torch.zeros(1, width))
            layers = self.run(Batch(openings=[opening], known=[None], loras=[None])).prefixes
        num_heads, _, _, head_width = layers[0].keys_KGPd.shape
        assert len(layers) == self.num_layers
        return (self.num_layers, num_heads, head_width)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What is to be run of a prefix: vectors of a soft prompt, then tokens of a fixed text."""

    vectors_PD: Tensor | None = None
    ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids) + (0 if self.vectors_PD is None else len(self.vectors_PD))


_NO_OPENING = Opening()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one run is made of."""

    openings: Sequence[Opening]
    """Of each prefix, what is to be run."""
    known: Sequence[Kept | None]
    """Keys and values that each prefix begins with."""
    texts: Sequence[tuple[int, ...]] = ()
    which: Sequence[int] = ()
    """The prefix of each text."""
    reads: Sequence[int] = ()
    """So many of the last tokens of each text are read."""
    loras: Sequence[Update | None]
    """Of each prefix, then of each text."""
    weights: Weights | None = None

    def lengths(self) -> list[tuple[int, int]]:
        """Positions of what is known of each prefix, and of its opening."""
        known = [0 if kept is None else kept[0].shape[2] for kept in self.known]
        return list(zip(known, map(len, self.openings), strict=True))

    def alone(self, none: Tensor) -> list[Kept]:
        """The prefix of each text, where a CPU is faster with each by itself than with pads and copies of prefixes.

        Args:
            none: Keys of a prefix without tokens; gives dtype and device.
        """
        is_even = len(self.known) == 1 and sum(map(len, self.texts)) < _ALONE_TOKENS * len(self.texts)
        if is_even or any(self.openings) or torch.is_grad_enabled() or none.device.type != "cpu":
            return []
        known = [(none, none) if kept is None else (kept[0].to(none), kept[1].to(none)) for kept in self.known]
        return [known[g] for g in self.which]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of a run."""

    hidden_MD: Tensor | None
    """Last hidden states of the tokens that are read, text by text; None where there are no texts."""
    prefixes: Sequence[Keys]
    """Of each layer, where they were asked for."""


def lay_out(batch: Batch, device: torch.device, spare: int) -> tuple[Sequences | None, Sequences | None]:
    """Where openings and texts stand, and so many tokens that are neither."""
    lengths = batch.lengths()
    openings = sequences([p for _, p in lengths], [k for k, _ in lengths], range(len(lengths)), device)
    starts = [sum(lengths[g]) for g in batch.which]
    texts = sequences([len(ids) for ids in batch.texts], starts, batch.which, device, multiple=8, spare=spare)
    return openings, texts


def _prefix_key(adapter: Adapter) -> tuple[object, ...]:
    """Rows whose adapters have the same share a prefix; what is run of it depends on what updates layers."""
    if not _runs(adapter):
        return (id(adapter.prefix),)
    return fixed_text(adapter), id(adapter.soft_prompt), id(adapter.prefix), id(adapter.update)


def _prefix_tensors(adapter: Adapter) -> list[Tensor]:
    """All that the keys and values of its prefix depend on, beside what is said by no tensor."""
    parts: list[Part | None] = [adapter.prefix]
    if _runs(adapter):
        parts += [adapter.soft_prompt, adapter.update, adapter.weights]
    return [tensor for part in parts if part is not None for tensor in part.tensors().values()]


def _said(adapter: Adapter) -> tuple[str, float]:
    """What they depend on beside tensors: the fixed text and PEFT's settings, and how much the LoRA counts."""
    if adapter.tuner is not None:
        return f"{fixed_text(adapter)}\n{sorted(adapter.tuner.config.items())}", 0.0
    return fixed_text(adapter), 0.0 if adapter.lora is None else adapter.lora.scaling


def fixed_text(adapter: Adapter) -> str:
    """What stands before every row, in words."""
    return "" if adapter.template is None else adapter.template.fixed


def _runs(adapter: Adapter) -> bool:
    """Whether its prefix is more than keys and values."""
    return adapter.soft_prompt is not None or bool(fixed_text(adapter))


def _deep(adapter: Adapter) -> Kept | None:
    return None if adapter.prefix is None else (adapter.prefix.keys_LHPd, adapter.prefix.values_LHPd)
