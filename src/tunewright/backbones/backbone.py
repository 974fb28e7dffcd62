"""What every base that runs here is: frozen weights with a tokenizer that run rows of any mixture of adapters.

Shapes: B rows, L positions, D width, C labels, V vocabulary, E of a reading: D and the phrases that are scored.
"""

import copy
import json
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn

from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Lora, Prefix, Tuner, Weights
from tunewright.backbones import answers
from tunewright.backbones.base import Base, Encoding, Row, together
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.low_rank import TokensOf, low_rank_updates
from tunewright.backbones.shapes import check_shapes
from tunewright.backbones.stepwise import Stepwise
from tunewright.backbones.tokens import encode, written_chat
from tunewright.backbones.tuners import Injected, Linears, inject
from tunewright.errors import AdapterError
from tunewright.types import Example, with_choice

Update = Lora | Tuner
"""What changes the outputs of linear layers."""

_ASKABLE = "Use a decoder, or a masked model with its head."
_KEPT_TUNERS = 4


class Backbone(Base):
    """A frozen base. A kind of model says how long its inputs may be and how features are made.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """

    _stored_layer: Callable[[int, int], nn.Module] | None = None
    """Makes a linear layer of the checkpoint's form, where that is another than here."""
    prefix_shape: tuple[int, int, int] | None
    """(layers, key/value heads, head width) of a deep prefix; None where this model cannot carry one."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._masters = checkpoint.model.requires_grad_(False)
        # fp32 values stay at hand: they are what full fine-tuning starts from.
        self._model = copy.deepcopy(self._masters).to(device=device, dtype=dtype).eval()
        self._device = device
        self.dtype = dtype
        self._alone = threading.RLock()
        self._tuners: dict[str, Injected] = {}
        self._phrases: dict[tuple[int, tuple[str, ...]], Tensor] = {}

    @classmethod
    def open(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, prefix_bytes: int) -> Self:  # noqa: ARG003
        """The same, told how many bytes of prefixes may be kept between passes; without effect where none are."""
        return cls(checkpoint, dtype=dtype, device=device)

    @abstractmethod
    def _one_pass(self, rows: Sequence[Row], weights: Weights | None) -> Tensor:
        """Features of rows that run together, fp32 [B, D]."""

    @property
    def identity(self) -> BaseIdentity:
        """Name and hashes of the base."""
        return self._checkpoint.identity

    @property
    def device(self) -> torch.device:
        """Where the base runs."""
        return self._device

    @property
    def width(self) -> int:
        """D, of the features."""
        return int(self._checkpoint.config.hidden_size)

    @property
    def num_parameters(self) -> int:
        """Of the base."""
        return sum(p.numel() for p in self._masters.parameters())

    @property
    def num_bytes(self) -> int:
        """Of the frozen weights."""
        return self.num_parameters * self.dtype.itemsize

    @property
    def num_computing(self) -> int:
        """Parameters that take part in the matrix products of tokens: those of the layers."""
        return sum(p.numel() for name, p in self._masters.named_parameters() if name.startswith(self.layer_stack))

    def is_run(self, name: str, *, writing: bool) -> bool:  # noqa: ARG002
        """Whether a part of the base, by its name, takes part in an answer: one in text, or one from features."""
        return True

    @property
    def num_vocabulary_values(self) -> int:
        """V times the width of the word embeddings."""
        return self.word_embeddings.numel()

    @property
    def precision(self) -> str:
        """Of the frozen weights."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def vocabulary_name(self) -> str:
        """Parameter name of the word embeddings."""
        table = self._masters.get_input_embeddings()  # type: ignore[operator]
        return next(name for name, p in self._masters.named_parameters() if p is table.weight)

    @property
    def word_embeddings(self) -> Tensor:
        """What enters the base for each token id, fp32 [V, width of the embeddings]."""
        table = self.masters()[self.vocabulary_name]
        return table if self.embedding_scale == 1 else table * self.embedding_scale

    @property
    def embedding_scale(self) -> float:
        """Gemma and some BARTs multiply their word embeddings."""
        table = self._masters.get_input_embeddings()  # type: ignore[operator]
        return float(getattr(table, "scalar_embed_scale", getattr(table, "embed_scale", 1.0)))

    @property
    def pad_id(self) -> int:
        """Fills what is masked."""
        pad = self._checkpoint.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    @property
    def num_layers(self) -> int:
        """Layers of the base."""
        return int(self._checkpoint.config.num_hidden_layers)

    @cached_property
    def layer_stack(self) -> str:
        """Module name of the list of layers, such as `encoder.layer`."""
        for name, module in self._masters.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.num_layers:
                return str(name)
        raise AssertionError("a base without a list of layers")

    @cached_property
    def layers(self) -> Sequence[nn.Module]:
        """The layers, first to last."""
        return list(self._model.get_submodule(self.layer_stack).children())

    @cached_property
    def linears(self) -> dict[str, nn.Linear]:
        """The linear layers a LoRA may change: those inside the layer stack."""
        start = f"{self.layer_stack}."
        named = self._model.named_modules()
        return {name: m for name, m in named if name.startswith(start) and isinstance(m, nn.Linear)}

    def changeable(self, *, writing: bool = True) -> Linears:
        """Those of them that take part in an answer, one in text or one from features, for PEFT's own layers."""
        layers = {name: linear for name, linear in self.linears.items() if self.is_run(name, writing=writing)}
        return Linears(layers, self._checkpoint.config, self._stored_layer)

    @contextmanager
    def _updated(self, updates: Sequence[Update | None], tokens_of: TokensOf | None = None) -> Iterator[None]:
        """Within it the linear layers compute what the rows' adapters make of them; arguments as of LoRAs.

        One thread at a time: all passes share the layers.
        """
        tuner = updates[0] if updates else None
        with self._alone:
            if isinstance(tuner, Tuner):  # rows that run together have the same
                changed = self._injected(tuner).within(self.linears, tuner.values)
            else:
                loras = [update for update in updates if not isinstance(update, Tuner)]
                changed = low_rank_updates(self.linears, loras, tokens_of)
            with changed:
                yield

    def _injected(self, tuner: Tuner) -> Injected:
        """PEFT's layers for these settings; those of the last few are kept."""
        key = json.dumps(tuner.config, sort_keys=True)
        if key not in self._tuners:
            if len(self._tuners) == _KEPT_TUNERS:
                del self._tuners[next(iter(self._tuners))]
            self._tuners[key] = inject(self.changeable(), tuner)
        return self._tuners[key]

    def masters(self) -> dict[str, Tensor]:
        """The base's own parameters in fp32, without the unused pooler. Not to be written to."""
        return {n: p.detach() for n, p in self._masters.named_parameters() if not n.startswith("pooler.")}

    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        """Tokenises, cutting texts so that each input has at most `limit` tokens; with each of a row's candidates."""
        if examples and examples[0].choices:
            columns = zip(*([with_choice(e, choice) for choice in e.choices] for e in examples), strict=True)
            return together([self.encode(column, limit) for column in columns])
        return encode(self._checkpoint.tokenizer, self.in_chat(examples), limit)

    def in_chat(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Conversations as the model's own chat template has them, if it has one: up to where its answer begins.

        Raises:
            DataError: The template does not take a conversation.
        """
        tokenizer = self._checkpoint.tokenizer
        if tokenizer.chat_template is None or not any(example.messages for example in examples):
            return examples
        return [replace(e, text=written_chat(tokenizer, e), messages=()) if e.messages else e for e in examples]

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return list(self._checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"])

    def cache_of(self, vectors_PD: Tensor) -> Prefix | None:  # noqa: ARG002
        """Keys and values, fp32, that embedded tokens leave in every layer; None where later ones would change them."""
        return None

    def generating(self) -> Stepwise | None:
        """What answers in text rows that join and leave between steps; None where it answers whole batches alone.

        Raises:
            ModelError: The base came without a language model's head.
        """
        return None

    def words(self, ids: Sequence[int]) -> list[str]:
        """What each token id stands for, as text."""
        return [str(self._checkpoint.tokenizer.decode([i])) for i in ids]

    @property
    def unknown_ids(self) -> frozenset[int]:
        unknown = self._checkpoint.tokenizer.unk_token_id
        return frozenset() if unknown is None else frozenset([int(unknown)])

    def special_ids(self) -> set[int]:
        """Ids of [CLS], [SEP], padding and the like."""
        return set(self._checkpoint.tokenizer.all_special_ids)

    def check(self, adapter: Adapter) -> None:
        """Makes sure that an adapter belongs here.

        Raises:
            AdapterError: Trained on another base, or with a part this base cannot carry or of another size.
        """
        super().check(adapter)
        mine = self.identity
        for part in ("template", "retriever"):
            if getattr(adapter, part) is not None and not self.takes_templates:
                raise AdapterError(f"{mine.name} does not answer prompts and cannot carry a {part}. {_ASKABLE}")
        if adapter.members is not None and not self.takes_members:
            raise AdapterError(f"{mine.name} cannot answer under several prompts together. {_ASKABLE}")
        if adapter.reasoning is not None and not self.reasons:
            raise AdapterError(f"{mine.name} cannot reason before it answers. Use a decoder.")
        if adapter.prefix is not None and self.prefix_shape is None:
            raise AdapterError(f"{mine.name} cannot carry a prefix. Use a soft prompt.")
        unknown = [] if adapter.lora is None else sorted(set(adapter.lora.down) - set(self.linears))
        if unknown:
            allowed = ", ".join(self.linears)
            raise AdapterError(f"the LoRA changes {unknown[0]}, no linear layer of {mine.name}. Allowed: {allowed}.")
        if adapter.tuner is not None:
            if adapter.lora is not None or adapter.weights is not None:
                raise AdapterError(
                    "an adapter of PEFT's is not run together with a LoRA or weights. Train one of them."
                )
            inject(self.changeable(), adapter.tuner)
        check_shapes(adapter, self)

    def features(self, rows: Sequence[Row]) -> Tensor:
        """Pooled output of each row under its adapter: fp32 [B, D]. Gradients flow to the adapters' tensors."""
        passes = self._passes(rows)
        if len(passes) == 1:
            return self._one_pass(rows, rows[0].adapter.weights)
        order = [k for members in passes for k in members]
        parts = [self._one_pass([rows[k] for k in members], rows[members[0]].adapter.weights) for members in passes]
        place = torch.tensor(order, device=self._device).argsort()
        return torch.cat(parts)[place]

    def by_pass(
        self, rows: Sequence[Row], run: Callable[[Sequence[int], Weights | None], Sequence[Tensor]]
    ) -> list[Tensor]:
        """One result for each row, from passes over those that can run together.

        Args:
            rows: Of any mixture of adapters.
            run: (indices of some rows, the weights all of them bring along) -> their results.
        """
        found = {
            k: result
            for members in self._passes(rows)
            for k, result in zip(members, run(members, rows[members[0]].adapter.weights), strict=True)
        }
        return [found[k] for k in range(len(rows))]

    def _passes(self, rows: Sequence[Row]) -> list[list[int]]:
        """Indices of the rows of each pass."""
        passes: dict[tuple[int, ...], list[int]] = {}
        for k, row in enumerate(rows):
            passes.setdefault(self.pass_of(row), []).append(k)
        return list(passes.values())

    def pass_of(self, row: Row) -> tuple[int, ...]:
        """Rows of one pass have the same: those with weights or a tuner of their own run apart."""
        return (id(row.adapter.weights), id(row.adapter.tuner))

    def answer(self, adapter: Adapter, readings_BE: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Logits [B, C] from readings under this adapter."""
        return answers.answer(adapter, readings_BE, lambda phrases: self._phrase_features(adapter, phrases), dropout)

    def _own_values(self, weights: Weights | None) -> dict[str, Tensor]:
        """The parameters a row brings along, in the base's dtype; the vocabulary is looked up in `_embed`."""
        values: Mapping[str, Tensor] = {} if weights is None else weights.values
        skip = self.vocabulary_name
        return {n: t.to(device=self._device, dtype=self.dtype) for n, t in values.items() if n != skip}

    def _phrase_features(self, adapter: Adapter, phrases: tuple[str, ...]) -> Tensor:
        """Features of a verbalizer's phrases; those of the bare base are computed once."""
        if adapter.has_body:
            return self._features_of(adapter, phrases)
        key = (adapter.max_tokens, phrases)  # which says where they are cut
        if key not in self._phrases:
            with torch.no_grad():
                self._phrases[key] = self._features_of(adapter, phrases)
        return self._phrases[key]

    def _features_of(self, adapter: Adapter, texts: Sequence[str]) -> Tensor:
        examples = [Example(id=text, text=text) for text in texts]
        encodings = self.encode(examples, adapter.max_tokens - adapter.prefix_tokens)
        return self.features([Row(encoding=e, adapter=adapter) for e in encodings])
