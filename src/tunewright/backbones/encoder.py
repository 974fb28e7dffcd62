"""Encoder models: every position sees every other, so a soft prompt travels with its row.

Pads stand outside `[soft prompt][text]`; positions are explicit. A deep prefix shifts the text's positions by its
length, as a cache of that many tokens would (so PEFT's prefixes mean the same here).

Shapes: B rows, L positions, N virtual tokens of the batch, D width.
"""

import inspect
from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tunewright.adapters.parts import Prefix, Weights
from tunewright.backbones import attention
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.fused import fuse
from tunewright.backbones.recomputed import recomputed
from tunewright.backbones.tokens import Layout, lay_out
from tunewright.runtime import quiet_libraries


class Encoder(Backbone):
    """A frozen encoder that runs rows of any mixture of adapters.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(checkpoint, dtype=dtype, device=device)
        with quiet_libraries():
            self.prefix_shape = self._adopt_attention()
        fuse(self._model)

    @cached_property
    def max_tokens(self) -> int:
        """Longest input, soft prompt or prefix included; the positions the base has."""
        table = self._position_table
        positions = int(self._checkpoint.config.max_position_embeddings)
        return positions if table is None else table.num_embeddings - self._first_position

    def pass_of(self, row: Row) -> tuple[int, ...]:
        """LoRAs on DeBERTa run apart too."""
        lora = None if self._mixes_loras else row.adapter.lora
        return (*super().pass_of(row), id(lora))

    def hidden_states(self, rows: Sequence[Row], weights: Weights | None = None) -> tuple[Tensor, Layout]:
        """Last hidden state [B, L, D] in the base's dtype, and where the text stands in it."""
        prompts = [row.adapter.soft_prompt for row in rows]
        layout = lay_out([r.encoding for r in rows], [0 if p is None else p.length for p in prompts], self.pad_id)
        made = {id(p): p.vectors_PD for p in prompts if p is not None}
        vectors = [made[id(p)] for p in prompts if p is not None]
        embeds_BLD = self._embed(layout, vectors, weights)
        updates = [row.adapter.update for row in rows]
        inputs = self._inputs(layout, [row.adapter.prefix for row in rows], embeds_BLD)
        again = partial(self._updated, updates)
        with again(), recomputed(self.layers, again):
            output = functional_call(self._model, self._own_values(weights), (), inputs)
        return output.last_hidden_state, layout

    def _one_pass(self, rows: Sequence[Row], weights: Weights | None) -> Tensor:
        return self._pooled(*self.hidden_states(rows, weights))

    def _pooled(self, hidden_BLD: Tensor, layout: Layout) -> Tensor:
        """Over the texts, as the base's pooling has it: fp32 [B, D]."""
        if self._checkpoint.pooling == "cls":
            rows_B = torch.arange(len(hidden_BLD), device=self._device)
            return hidden_BLD[rows_B, layout.first_text_B.to(self._device)].float()
        return layout.mean(hidden_BLD)

    def _inputs(self, layout: Layout, prefixes: Sequence[Prefix | None], embeds_BLD: Tensor) -> dict[str, object]:
        """Keyword arguments of the model's own forward."""
        length_B = torch.tensor([0 if p is None else p.length for p in prefixes])
        columns_L = torch.arange(layout.ids_BL.shape[1])
        last = self._first_position + self.max_tokens - 1
        positions_BL = (self._first_position + length_B[:, None] + columns_L).clamp(max=last)
        inputs: dict[str, object] = {"inputs_embeds": embeds_BLD, "attention_mask": layout.mask_BL.to(self._device)}
        if "position_ids" in self._accepted:
            inputs["position_ids"] = positions_BL.to(self._device)
        if "token_type_ids" in self._accepted:
            inputs["token_type_ids"] = layout.types_BL.to(self._device)
        if self.prefix_shape is not None:
            cache = attention.prefix_cache(prefixes, self.prefix_shape, embeds_BLD)
            if cache is not None:
                inputs["prefix"] = cache
        return inputs

    def _embed(self, layout: Layout, vectors: Sequence[Tensor], weights: Weights | None) -> Tensor:
        """Word embeddings of the texts with the soft prompts' vectors in their places: [B, L, D]."""
        table = self._model.get_input_embeddings()  # type: ignore[operator]
        ids_BL = layout.ids_BL.to(self._device)
        embeds_BLD: Tensor = table(ids_BL)
        if weights is not None:
            embeds_BLD = weights.look_up(ids_BL, embeds_BLD)
        if vectors:
            place = (layout.prompt_rows_N.to(self._device), layout.prompt_columns_N.to(self._device))
            embeds_BLD = embeds_BLD.index_put(place, torch.cat([v.to(embeds_BLD) for v in vectors]))
        return embeds_BLD

    def _adopt_attention(self) -> tuple[int, int, int] | None:
        """Switches the model to our attention if its code calls it; returns the shape of a prefix, or None."""
        before = self._checkpoint.config._attn_implementation
        seen: list[tuple[nn.Module, int, int]] = []
        ids = torch.full((1, 2), self.pad_id, device=self._device)
        try:
            self._model.set_attn_implementation(attention.NAME)  # type: ignore[operator]
            with torch.no_grad():
                self._model(input_ids=ids, attention_mask=torch.ones_like(ids), seen=seen)
        except (TypeError, ValueError):
            seen.clear()
        if len(seen) == self.num_layers and len({shape[1:] for shape in seen}) == 1:
            for layer, (module, *_) in enumerate(seen):
                module.layer_idx = layer  # type: ignore[assignment]  # DistilBERT's attention does not know its layer
            return (self.num_layers, seen[0][1], seen[0][2])
        self._model.set_attn_implementation(before)  # type: ignore[operator]
        return None

    @cached_property
    def _mixes_loras(self) -> bool:
        """Whether all linear layers see each row apart; DeBERTa's also project positions that all rows share."""
        seen: list[int] = []

        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(len(inputs[0]))

        hooks = [linear.register_forward_pre_hook(note) for linear in self.linears.values()]
        ids = torch.full((2, 2), self.pad_id, device=self._device)
        with torch.no_grad():
            self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
        for hook in hooks:
            hook.remove()
        return set(seen) == {2}

    @cached_property
    def _position_table(self) -> nn.Embedding | None:
        """The table of learned absolute positions, if the base has one."""
        named = self._masters.named_modules()
        found = [m for n, m in named if n.endswith("position_embeddings") and isinstance(m, nn.Embedding)]
        return found[0] if found else None

    @cached_property
    def _first_position(self) -> int:
        """RoBERTa and its kin count positions from the padding index on."""
        table = self._position_table
        return 0 if table is None or table.padding_idx is None else table.padding_idx + 1

    @cached_property
    def _accepted(self) -> set[str]:
        """Keyword arguments of the model's forward."""
        return set(inspect.signature(self._masters.forward).parameters)
