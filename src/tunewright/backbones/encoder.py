"""Encoder models: every position sees every other, so a soft prompt travels with its row.

Pads stand outside `[soft prompt][text]`; positions are explicit. A deep prefix shifts the text's positions by its
length, as a cache of that many tokens would (so PEFT's prefixes mean the same here).

Shapes: B rows, L positions, N virtual tokens of the batch, D width.
"""

import copy
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Prefix, Weights
from tunewright.backbones import answers, attention
from tunewright.backbones.base import Dropout, Encoding, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.low_rank import low_rank_updates
from tunewright.backbones.tokens import Layout, encode, lay_out
from tunewright.errors import AdapterError
from tunewright.runtime import quiet_libraries
from tunewright.types import Example


class Encoder:
    """A frozen encoder that runs rows of any mixture of adapters.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._masters = checkpoint.model.requires_grad_(False)
        # fp32 values stay at hand: they are what full fine-tuning starts from.
        self._model = copy.deepcopy(self._masters).to(device=device, dtype=dtype).eval()
        self._device = device
        self.dtype = dtype
        self._phrases: dict[tuple[int, tuple[str, ...]], Tensor] = {}
        with quiet_libraries():
            self.prefix_shape = self._adopt_attention()

    @property
    def identity(self) -> BaseIdentity:
        """Name and hashes of the base."""
        return self._checkpoint.identity

    @property
    def width(self) -> int:
        """D, of the features."""
        return int(self._checkpoint.config.hidden_size)

    @cached_property
    def max_tokens(self) -> int:
        """Longest input, soft prompt or prefix included; the positions the base has."""
        table = self._position_table
        positions = int(self._checkpoint.config.max_position_embeddings)
        return positions if table is None else table.num_embeddings - self._first_position

    @property
    def num_parameters(self) -> int:
        """Of the base."""
        return sum(p.numel() for p in self._masters.parameters())

    @property
    def num_computing(self) -> int:
        """Parameters that take part in the matrix products of each token: those of the layers."""
        return sum(p.numel() for name, p in self._masters.named_parameters() if name.startswith(self.layer_stack))

    @property
    def vocabulary_name(self) -> str:
        """Parameter name of the word embeddings."""
        table = self._masters.get_input_embeddings()  # type: ignore[operator]
        return next(name for name, p in self._masters.named_parameters() if p is table.weight)

    @property
    def pad_id(self) -> int:
        """Fills what is masked."""
        pad = self._checkpoint.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    @property
    def num_layers(self) -> int:
        """Layers of the encoder."""
        return int(self._checkpoint.config.num_hidden_layers)

    @cached_property
    def layer_stack(self) -> str:
        """Module name of the list of layers, such as `encoder.layer`."""
        for name, module in self._masters.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.num_layers:
                return str(name)
        raise AssertionError("an encoder without a list of layers")

    @cached_property
    def linears(self) -> dict[str, nn.Linear]:
        """The linear layers a LoRA may change: those inside the layer stack."""
        start = f"{self.layer_stack}."
        named = self._model.named_modules()
        return {name: m for name, m in named if name.startswith(start) and isinstance(m, nn.Linear)}

    def masters(self) -> dict[str, Tensor]:
        """The base's own parameters in fp32, without the unused pooler. Not to be written to."""
        return {n: p.detach() for n, p in self._masters.named_parameters() if not n.startswith("pooler.")}

    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        """Tokenises, cutting texts so that each input has at most `limit` tokens."""
        return encode(self._checkpoint.tokenizer, examples, limit)

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return list(self._checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"])

    def special_ids(self) -> set[int]:
        """Ids of [CLS], [SEP], padding and the like."""
        return set(self._checkpoint.tokenizer.all_special_ids)

    def check(self, adapter: Adapter) -> None:
        """Makes sure that an adapter belongs here.

        Raises:
            AdapterError: Trained on another base, or with a part this base cannot carry.
        """
        mine, its = self.identity, adapter.base
        if (its.sha256, its.tokenizer_sha256) != (mine.sha256, mine.tokenizer_sha256):
            raise AdapterError(
                f"the adapter belongs to {its.name} (weights {its.sha256[:12]}, "
                f"tokenizer {its.tokenizer_sha256[:12]}). "
                f"Got {mine.name} (weights {mine.sha256[:12]}, tokenizer {mine.tokenizer_sha256[:12]}). "
                "Give its own base with --model."
            )
        if adapter.prefix is not None and self.prefix_shape is None:
            raise AdapterError(f"{mine.name} cannot carry a prefix. Use a soft prompt.")
        unknown = [] if adapter.lora is None else sorted(set(adapter.lora.down) - set(self.linears))
        if unknown:
            allowed = ", ".join(self.linears)
            raise AdapterError(f"the LoRA changes {unknown[0]}, no linear layer of {mine.name}. Allowed: {allowed}.")

    def logits(self, rows: Sequence[Row]) -> list[Tensor]:
        """Answer of each row under its adapter: fp32 [C of that adapter]."""
        asked = any(row.adapter.needs_features for row in rows)
        features_BD = self.features(rows) if asked else torch.zeros(len(rows), self.width, device=self._device)
        found: list[Tensor | None] = [None] * len(rows)
        for adapter, members in _groups(rows).items():
            mine = features_BD[members]
            for k, logits_C in zip(members, self.answer(adapter.record, mine), strict=True):
                found[k] = logits_C
        return [logits for logits in found if logits is not None]

    def answer(self, adapter: Adapter, features_BD: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Logits [B, C] from features computed under this adapter."""
        return answers.answer(adapter, features_BD, lambda phrases: self._phrase_features(adapter, phrases), dropout)

    def features(self, rows: Sequence[Row]) -> Tensor:
        """Pooled output of each row under its adapter: fp32 [B, D]. Gradients flow to the adapters' tensors.

        Rows with weights of their own run apart; all others in one pass, but for LoRAs on DeBERTa.
        """
        passes: dict[tuple[int, int], list[int]] = {}
        for k, row in enumerate(rows):
            lora = None if row.adapter.lora is None or self._mixes_loras else row.adapter.lora
            passes.setdefault((id(row.adapter.weights), id(lora)), []).append(k)
        if len(passes) == 1:
            return self._one_pass(rows, rows[0].adapter.weights)
        order = [k for members in passes.values() for k in members]
        parts = [
            self._one_pass([rows[k] for k in members], rows[members[0]].adapter.weights) for members in passes.values()
        ]
        place = torch.tensor(order, device=self._device).argsort()
        return torch.cat(parts)[place]

    def hidden_states(self, rows: Sequence[Row], weights: Weights | None = None) -> tuple[Tensor, Layout]:
        """Last hidden state [B, L, D] in the base's dtype, and where the text stands in it."""
        prompts = [row.adapter.soft_prompt for row in rows]
        layout = lay_out([r.encoding for r in rows], [0 if p is None else p.length for p in prompts], self.pad_id)
        vectors = [p.vectors_PD for p in prompts if p is not None]
        embeds_BLD = self._embed(layout, vectors, weights)
        loras = [row.adapter.lora for row in rows]
        inputs = self._inputs(layout, [row.adapter.prefix for row in rows], embeds_BLD)
        with low_rank_updates(self.linears, loras):
            output = functional_call(self._model, self._own_values(weights), (), inputs)
        return output.last_hidden_state, layout

    def _one_pass(self, rows: Sequence[Row], weights: Weights | None) -> Tensor:
        hidden_BLD, layout = self.hidden_states(rows, weights)
        if self._checkpoint.pooling == "cls":
            rows_B = torch.arange(len(rows), device=self._device)
            return hidden_BLD[rows_B, layout.first_text_B.to(self._device)].float()
        text_BL = layout.text_BL.to(self._device)
        total_BD = (hidden_BLD * text_BL[..., None]).sum(1, dtype=torch.float32)
        return total_BD / text_BL.sum(1, keepdim=True)

    def _inputs(self, layout: Layout, prefixes: Sequence[Prefix | None], embeds_BLD: Tensor) -> dict[str, object]:
        """Keyword arguments of the model's own forward."""
        length_B = torch.tensor([0 if p is None else p.length for p in prefixes])
        columns_L = torch.arange(layout.ids_BL.shape[1])
        last = self._first_position + self.max_tokens - 1
        positions_BL = (self._first_position + length_B[:, None] + columns_L).clamp(max=last)
        inputs: dict[str, object] = {
            "inputs_embeds": embeds_BLD,
            "attention_mask": layout.mask_BL.to(self._device),
        }
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


@dataclasses.dataclass(frozen=True)
class _SameAdapter:
    """Groups rows by the identity of their adapter, whose tensors cannot be compared."""

    record: Adapter

    def __hash__(self) -> int:
        return id(self.record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameAdapter) and other.record is self.record


def _groups(rows: Sequence[Row]) -> dict[_SameAdapter, list[int]]:
    """Adapter -> indices of its rows."""
    groups: dict[_SameAdapter, list[int]] = {}
    for k, row in enumerate(rows):
        groups.setdefault(_SameAdapter(row.adapter), []).append(k)
    return groups
