"""Decoder models: rows of any mixture of adapters give features, scores of candidates, and text.

Shapes: B rows, R rows that run together, M hidden states that are read, D width, C candidates.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.pytorch_utils import Conv1D

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Weights
from tunewright.backbones import causal
from tunewright.backbones.base import Encoding, Generation, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.fused import fuse
from tunewright.backbones.generation import Generating, generate
from tunewright.backbones.prefixed import PREFIX_BYTES, Prefixed, fixed_text
from tunewright.backbones.prompted import Frame
from tunewright.backbones.scoring import Behind, Seen, Tree, batches_of, branches, tree_scores
from tunewright.backbones.writer import GENERATED_ROWS
from tunewright.runtime import quiet_libraries
from tunewright.types import Example

_BRANCH_TOKENS = 4096
"""Tokens of candidates that run at a time."""


class Decoder(Prefixed):
    """A frozen decoder that runs rows of any mixture of adapters.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
        prefix_bytes: Of the prefixes kept between passes, at most.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, prefix_bytes: int = PREFIX_BYTES
    ) -> None:
        if any(isinstance(module, Conv1D) for module in checkpoint.model.modules()):
            self._stored_layer = _transposed
        plain = replace(checkpoint, model=_plain_linears(checkpoint.model))
        super().__init__(plain, dtype=dtype, device=device, prefix_bytes=prefix_bytes)

    def _adopt(self) -> None:
        with quiet_libraries():
            self._model.set_attn_implementation(causal.NAME)  # type: ignore[operator]
        fuse(self._model)
        _attend_as_others(self._model)

    @property
    def width(self) -> int:
        """D, of the features; the smaller OPT models narrow them again."""
        config = self._checkpoint.config
        return int(getattr(config, "word_embed_proj_dim", config.hidden_size))

    @property
    def reasons(self) -> bool:
        return self.writes

    @property
    def max_tokens(self) -> int:
        """Longest input, soft prompt or prefix included."""
        return _max_positions(self._checkpoint.config)

    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        """Tokenises, cutting texts so that each input has at most `limit` tokens; a pair's texts stand on lines."""
        if examples and examples[0].choices:
            return super().encode(examples, limit)
        lines = [e if e.text_pair is None else replace(e, text_pair=f"\n{e.text_pair}") for e in examples]
        empty = Encoding(ids=(self.pad_id,), type_ids=(0,))
        return [e if e.ids else empty for e in super().encode(lines, limit)]

    def _frame(self, adapter: Adapter) -> Frame:
        """The fixed text runs once, tokenised apart from the rows; it begins as every text does."""
        fixed = self.fixed_ids(fixed_text(adapter))
        return Frame(kept_tokens=len(fixed), begin_ids=() if fixed else self.begin_ids, template=adapter.template)

    @property
    def shows_words(self) -> bool:
        return self.writes

    def word_rows(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.head().rows(ids)

    def encode_answer(self, text: str, *, after: str = ":", ends: bool = False) -> tuple[int, ...]:
        """As it goes on after a text: a space goes between unless that ends in white space."""
        words = text if after[-1:].isspace() else f" {text.lstrip()}"
        before = f"a{after[-1:]}"
        context, whole = self.token_ids(before), self.token_ids(before + words)
        # Some tokenizers put a space of their own before every text: what follows a word shows none.
        ids = whole[len(context) :] if whole[: len(context)] == context else self.token_ids(words)
        return (*ids, *self._checkpoint.end_ids[:1]) if ends else tuple(ids)

    def answer_log_probs(self, rows: Sequence[Row], answers: Sequence[tuple[int, ...]]) -> list[Tensor]:
        head = self.head()

        def one_pass(members: Sequence[int], weights: Weights | None) -> Sequence[Tensor]:
            mine, lengths = [rows[k] for k in members], [len(answers[k]) for k in members]
            texts = [(*rows[k].encoding.ids, *answers[k][:-1]) for k in members]
            batch = replace(self.batch(mine, texts, weights), reads=lengths)
            hidden_MD = self.run(batch).hidden_MD
            assert hidden_MD is not None
            tokens_M = [token for k in members for token in answers[k]]
            log_probs_M = head.log_probs(hidden_MD, range(len(tokens_M)), tokens_M, weights)
            return list(log_probs_M.split(lengths))

        return self.by_pass(rows, one_pass)

    def generate(
        self,
        rows: Sequence[Row],
        generators: Sequence[torch.Generator] | None = None,
        *,
        decoding: Decoding | None = None,
        most_rows: int = GENERATED_ROWS,
    ) -> list[Generation]:
        found = generate(self, self._requests(rows, generators, decoding), most_rows)
        return [found[k] for k in range(len(rows))]

    def generating(self) -> Generating:
        return Generating(self)

    def _scored(
        self, rows: Sequence[Row], trees: Sequence[Tree], weights: Weights | None, *, normalised: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Last hidden state of rows that run together, [R, D], and scores of each row's candidates."""
        head, seen = self.head(), Seen()
        batch = self.batch(rows, [row.encoding.ids for row in rows], weights)
        ran = self.run(batch, seen)
        assert ran.hidden_MD is not None
        parts = [ran.hidden_MD]
        for members in batches_of(trees, _BRANCH_TOKENS):
            starts = [sum(batch.lengths()[batch.which[k]]) + len(batch.texts[k]) for k in members]
            mine = [trees[k] for k in members]
            nodes = branches(mine, starts, [batch.which[k] for k in members], self._device)
            loras, past = [rows[k].adapter.update for k in members], Behind(seen.layers, members)
            ids = [token for tree in mine for token in tree.tokens]
            parts.append(self.go_on(ids, nodes, ran.prefixes, past, loras, weights))
        return ran.hidden_MD, tree_scores(head, torch.cat(parts), trees, weights, normalised=normalised)


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


def _transposed(num_in: int, num_out: int) -> nn.Module:
    """A layer as GPT-2 keeps it."""
    return Conv1D(num_out, num_in)


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
