"""Decoder models: everything before the input is one prefix, made once and shared by every row that names it.

A prefix is a deep prefix's keys and values, then a soft prompt that runs under the row's own LoRA or weights. While any
of it trains, it is part of the pass, once for all its rows, and gradients flow through it; else its keys and values are
kept between passes. A prefix of a sliding-window model is seen as far as the window reaches, as tokens are.

Shapes: B rows, N tokens, D width.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedConfig
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.pytorch_utils import Conv1D

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Lora, Part, Weights
from tunewright.backbones import causal
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.causal import Pass
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.fused import fuse
from tunewright.backbones.low_rank import low_rank_updates
from tunewright.backbones.packed import Sequences, sequences
from tunewright.backbones.prefix import Kept, Keys, stacked, unstacked
from tunewright.runtime import quiet_libraries
from tunewright.types import Example

_NUM_KEPT = 64
"""Prefixes whose keys and values are kept, those not used for longest dropped first."""


class Decoder(Backbone):
    """A frozen decoder that runs rows of any mixture of adapters.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """

    prefix_shape: tuple[int, int, int]

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(replace(checkpoint, model=_plain_linears(checkpoint.model)), dtype=dtype, device=device)
        self._kept: OrderedDict[tuple[int, ...], tuple[list[Tensor], list[Tensor], Kept]] = OrderedDict()
        """Tensors that a prefix was made of (their ids are theirs as long as they are held), their values, and it."""
        with quiet_libraries():
            self._model.set_attn_implementation(causal.NAME)  # type: ignore[operator]
        fuse(self._model)
        _attend_as_others(self._model)
        self.prefix_shape = (0, 0, 0)
        self._last_layer = self._model.get_submodule(self.layer_stack)[-1]  # type: ignore[index]
        self.prefix_shape = self._find_prefix_shape()

    @property
    def width(self) -> int:
        """D, of the features; the smaller OPT models narrow them again."""
        config = self._checkpoint.config
        return int(getattr(config, "word_embed_proj_dim", config.hidden_size))

    @property
    def max_tokens(self) -> int:
        """Longest input, soft prompt or prefix included."""
        return _max_positions(self._checkpoint.config)

    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        """Tokenises, cutting texts so that each input has at most `limit` tokens; a pair's texts stand on lines."""
        lines = [e if e.text_pair is None else replace(e, text_pair=f"\n{e.text_pair}") for e in examples]
        empty = Encoding(ids=(self.pad_id,), type_ids=(0,))
        return [e if e.ids else empty for e in super().encode(lines, limit)]

    def _one_pass(self, rows: Sequence[Row], weights: Weights | None) -> Tensor:
        distinct = {_prefix_key(row.adapter): row.adapter for row in rows}
        adapters, order = list(distinct.values()), list(distinct)
        which = [order.index(_prefix_key(row.adapter)) for row in rows]
        if torch.is_grad_enabled() and any(t.requires_grad for a in adapters for t in _prefix_tensors(a)):
            known, prompts = [_deep(a) for a in adapters], [_vectors(a) for a in adapters]
        else:
            known, prompts = self._kept_prefixes(adapters, weights), [None] * len(adapters)
        batch = _Batch(
            prompts=prompts,
            known=known,
            texts=[row.encoding.ids for row in rows],
            which=which,
            loras=[a.lora for a in (*adapters, *(row.adapter for row in rows))],
            weights=weights,
        )
        features_BD = self._run(batch)[0]
        assert features_BD is not None
        return features_BD.float()

    def _kept_prefixes(self, adapters: Sequence[Adapter], weights: Weights | None) -> list[Kept | None]:
        """Keys and values of every prefix, made where they are not known yet."""
        missing = [a for a in adapters if a.soft_prompt is not None and not self._knows(a)]
        if missing:
            batch = _Batch(
                prompts=[_vectors(a) for a in missing],
                known=[_deep(a) for a in missing],
                loras=[a.lora for a in missing],
                weights=weights,
            )
            with torch.no_grad():
                layers = self._run(batch)[1]
            for a, kept in zip(missing, unstacked(layers, batch.lengths()), strict=True):
                tensors = _prefix_tensors(a)
                self._kept[_ids(tensors)] = (tensors, [t.clone() for t in tensors], kept)
        found = [_deep(a) if a.soft_prompt is None else self._kept[_ids(_prefix_tensors(a))][2] for a in adapters]
        while len(self._kept) > _NUM_KEPT:
            self._kept.popitem(last=False)
        return found

    def _knows(self, adapter: Adapter) -> bool:
        """Whether its prefix is kept, of these values: an optimizer changes tensors in place and does not tell."""
        ids = _ids(_prefix_tensors(adapter))
        if ids not in self._kept:
            return False
        self._kept.move_to_end(ids)
        return all(same(now, then) for now, then in zip(*self._kept[ids][:2], strict=True))

    def _run(self, batch: "_Batch") -> tuple[Tensor | None, list[Keys]]:
        """Last hidden state at the end of each text, [B, D], or where there are no texts each layer's prefixes."""
        prompts, texts = lay_out(batch, self._device)
        embeds_ND = self._embed(batch)
        blocks = [block for block in (prompts, texts) if block is not None]
        positions_N = torch.cat([block.position_RT.flatten()[block.place_N] for block in blocks])
        run = Pass(prompts, texts, stacked(batch.known, self.prefix_shape, embeds_ND))
        loras = batch.loras if prompts is not None else batch.loras[len(batch.known) :]
        inputs = {"inputs_embeds": embeds_ND[None], "position_ids": positions_N[None], "use_cache": False}

        def model() -> Tensor:
            return functional_call(self._model, self._own_values(batch.weights), (), inputs).last_hidden_state  # type: ignore[no-any-return]

        with low_rank_updates(self.linears, loras, run.tokens_of):
            return run.run(model, self._last_layer), run.prefixes

    def _embed(self, batch: "_Batch") -> Tensor:
        """Vectors of the soft prompts, then word embeddings of the texts: [N, width of the embeddings]."""
        table = self._model.get_input_embeddings().weight  # type: ignore[operator]
        ids_N = torch.tensor([i for ids in batch.texts for i in ids], dtype=torch.long, device=self._device)
        embeds_ND = nn.functional.embedding(ids_N, table)
        if batch.weights is not None:
            embeds_ND = batch.weights.look_up(ids_N, embeds_ND)
        embeds_ND = embeds_ND * torch.tensor(self.embedding_scale, dtype=table.dtype)
        return torch.cat([*(p.to(embeds_ND) for p in batch.prompts if p is not None), embeds_ND])

    def _find_prefix_shape(self) -> tuple[int, int, int]:
        """By running one virtual token."""
        width = self._model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        with torch.no_grad():
            layers = self._run(_Batch(prompts=[torch.zeros(1, width)], known=[None], loras=[None]))[1]
        num_heads, _, _, head_width = layers[0].keys_KGPd.shape
        assert len(layers) == self.num_layers
        return (self.num_layers, num_heads, head_width)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What one run is made of."""

    prompts: Sequence[Tensor | None]
    """Vectors of the soft prompt that each prefix ends with, if it is to be run."""
    known: Sequence[Kept | None]
    """Keys and values that each prefix begins with."""
    texts: Sequence[tuple[int, ...]] = ()
    which: Sequence[int] = ()
    """The prefix of each text."""
    loras: Sequence[Lora | None]
    """Of each prefix, then of each text."""
    weights: Weights | None = None

    def lengths(self) -> list[tuple[int, int]]:
        """Positions of what is known of each prefix, and of its soft prompt."""
        known = [0 if kept is None else kept[0].shape[2] for kept in self.known]
        return list(zip(known, [0 if p is None else len(p) for p in self.prompts], strict=True))


def lay_out(batch: _Batch, device: torch.device) -> tuple[Sequences | None, Sequences | None]:
    """Where soft prompts and texts stand."""
    lengths = batch.lengths()
    prompts = sequences([p for _, p in lengths], [k for k, _ in lengths], range(len(lengths)), device)
    starts = [sum(lengths[g]) for g in batch.which]
    return prompts, sequences([len(ids) for ids in batch.texts], starts, batch.which, device)


def _prefix_key(adapter: Adapter) -> tuple[int, ...]:
    """Rows whose adapters have the same share a prefix; a soft prompt's depends on the LoRA under which it runs."""
    if adapter.soft_prompt is None:
        return (id(adapter.prefix),)
    return id(adapter.soft_prompt), id(adapter.prefix), id(adapter.lora)


def _prefix_tensors(adapter: Adapter) -> list[Tensor]:
    """All that the keys and values of its prefix depend on."""
    parts: list[Part | None] = [adapter.prefix]
    if adapter.soft_prompt is not None:
        parts += [adapter.soft_prompt, adapter.lora, adapter.weights]
    return [tensor for part in parts if part is not None for tensor in part.tensors().values()]


def _ids(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(id(tensor) for tensor in tensors)


def same(now: Tensor, then: Tensor) -> bool:
    """Whether two tensors have the same values."""
    return torch.equal(now, then)


def _deep(adapter: Adapter) -> Kept | None:
    return None if adapter.prefix is None else (adapter.prefix.keys_LHPd, adapter.prefix.values_LHPd)


def _vectors(adapter: Adapter) -> Tensor | None:
    return None if adapter.soft_prompt is None else adapter.soft_prompt.vectors_PD


def _max_positions(config: PreTrainedConfig) -> int:
    """What the base was made for; BLOOM, which has no positions, says it as `seq_length`."""
    positions = int(getattr(config, "max_position_embeddings", getattr(config, "seq_length", 2048)))
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("rope_type") in ("dynamic", "longrope"):
        # Beyond these the frequencies follow the longest row of the batch, and rows would see their neighbours.
        return min(positions, int(rope.get("original_max_position_embeddings", positions)))
    return positions


def _plain_linears(model: nn.Module) -> nn.Module:
    """GPT-2 keeps its linear layers transposed; here they are as everywhere else."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                linear = nn.Linear(child.nx, child.nf, device="meta")
                linear.weight = nn.Parameter(child.weight.detach().T.contiguous())
                linear.bias = child.bias
                setattr(module, name, linear)
    return model


def _attend_as_others(model: nn.Module) -> None:
    """Puts our attention into BLOOM."""
    for module in model.modules():
        if isinstance(module, BloomAttention):
            ones = torch.ones(1, 2, device=module.dense.weight.device)
            slopes_H = build_alibi_tensor(ones, module.num_heads, torch.float32)[:, 0, 1]
            module.forward = partial(_bloom_attention, module, slopes_H)  # type: ignore[method-assign]


def _bloom_attention(
    module: BloomAttention, slopes_H: Tensor, hidden_1ND: Tensor, residual_1ND: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """`BloomAttention.forward`, which does not use transformers' attention interface."""
    query, key, value = module._reshape(module.query_key_value(hidden_1ND))
    output, _weights = causal.attend(module, query, key, value, None, scaling=module.inv_norm_factor, slopes_H=slopes_H)
    return module.dense(output.flatten(2)) + residual_1ND, None
