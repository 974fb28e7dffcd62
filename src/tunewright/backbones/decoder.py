"""Decoder models: rows of any mixture of adapters give features, scores of candidates, and text.

Shapes: B rows, R rows that run together, M hidden states that are read, D width, C candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.pytorch_utils import Conv1D

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Weights
from tunewright.adapters.retriever import Retriever
from tunewright.backbones import causal
from tunewright.backbones.answers import unit
from tunewright.backbones.base import Encoding, Generation, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.fused import fuse
from tunewright.backbones.generation import Request, generate
from tunewright.backbones.prefixed import PREFIX_BYTES, Prefixed, fixed_text
from tunewright.backbones.scoring import Behind, Seen, Tree, batches_of, branches, grow, tree_scores
from tunewright.backbones.tokens import by_length, encode_framed
from tunewright.errors import ConfigError
from tunewright.runtime import quiet_libraries
from tunewright.types import Example, whole_text

_BRANCH_TOKENS = 4096
"""Tokens of candidates that run at a time."""

_NO_TREE = grow([])

GENERATED_ROWS = 32
"""Answered in text at a time."""


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
        plain = replace(checkpoint, model=_plain_linears(checkpoint.model))
        super().__init__(plain, dtype=dtype, device=device, prefix_bytes=prefix_bytes)
        self._trees: dict[object, Tree] = {}
        """Labels and phrases -> their tokens."""

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
    def max_tokens(self) -> int:
        """Longest input, soft prompt or prefix included."""
        return _max_positions(self._checkpoint.config)

    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        """Tokenises, cutting texts so that each input has at most `limit` tokens; a pair's texts stand on lines."""
        lines = [e if e.text_pair is None else replace(e, text_pair=f"\n{e.text_pair}") for e in examples]
        empty = Encoding(ids=(self.pad_id,), type_ids=(0,))
        return [e if e.ids else empty for e in super().encode(lines, limit)]

    def encode_for(self, examples: Sequence[Example], adapter: Adapter, answer_tokens: int = 0) -> list[Encoding]:
        """Tokenises as the adapter's template has it, so that prefix, row and answer fit the context.

        Args:
            examples: Rows.
            adapter: Who will answer.
            answer_tokens: Room for the answer; at least what its phrases or its decoding may take.

        Raises:
            ConfigError: The template leaves no room for a text.
        """
        answer = max(answer_tokens, self._answer_tokens(adapter))
        fixed = len(self.fixed_ids(fixed_text(adapter)))
        before = adapter.prefix_tokens + fixed
        room, wanted = self.max_tokens - before - answer, adapter.max_tokens - adapter.prefix_tokens
        if adapter.template is None:
            self._check_room(room, fixed=before, frame=0, answer=answer)
            return self.encode(examples, min(wanted, room))
        begin = () if fixed else self.begin_ids
        frame = len(begin) + len(self.token_ids(adapter.template.fill("", None)))
        self._check_room(room - frame, fixed=before, frame=frame, answer=answer)
        shown = [""] * len(examples)
        if adapter.retriever is not None:
            shown = list(self._retrieved(examples, adapter, adapter.retriever, (room - frame) // 2))
        limits = [min(wanted + frame + len(self.token_ids(words)), room) for words in shown]
        return encode_framed(self._checkpoint.tokenizer, examples, adapter.template, begin, limits, shown)

    def _retrieved(
        self, examples: Sequence[Example], adapter: Adapter, retriever: Retriever, room: int
    ) -> Iterator[str]:
        """What stands before each row: its nearest examples, the nearest last, as many as fit so many tokens."""
        vectors_BD = None
        if retriever.vectors_ND is not None and examples:
            with torch.no_grad():
                vectors_BD = unit(self._bare_features(examples, adapter.max_tokens).cpu())
        for nearest in retriever.ranked([whole_text(example) for example in examples], vectors_BD):
            sizes = accumulate(len(self.token_ids(shown)) for shown in nearest)
            yield "".join(reversed([shown for shown, size in zip(nearest, sizes, strict=True) if size <= room]))

    def _bare_features(self, examples: Sequence[Example], limit: int) -> Tensor:
        """Features of texts by themselves, as `FeatureStore` has them."""
        bare = Adapter(base=self.identity, labels=(), max_tokens=self.max_tokens)
        rows = [Row(encoding=encoding, adapter=bare) for encoding in self.encode(examples, limit)]
        found: dict[int, Tensor] = {}
        for members in by_length([len(row.encoding.ids) for row in rows]):
            found |= dict(zip(members, self.features([rows[k] for k in members]), strict=True))
        return torch.stack([found[k] for k in range(len(rows))])

    def _check_room(self, room: int, *, fixed: int, frame: int, answer: int) -> None:
        if room < 1:
            raise ConfigError(
                f"the template leaves no room for a text: {fixed} tokens before the row, {frame} around its text and "
                f"{answer} of the answer, in a context of {self.max_tokens} tokens. Shorten it, or the answer."
            )

    def _answer_tokens(self, adapter: Adapter) -> int:
        """Most tokens of its answers."""
        decoded = 0 if adapter.decoding is None else adapter.decoding.max_new_tokens
        phrases = max(map(len, self.phrase_ids(adapter)), default=0) if adapter.scores_phrases else 0
        return max(decoded, phrases)

    def encode_answer(self, text: str, *, after: str = ":", ends: bool = False) -> tuple[int, ...]:
        """Tokens of an answer as it goes on after a text.

        Args:
            text: The answer.
            after: What stands before it, of which the end counts: a space goes between unless it ends in white space.
            ends: Whether the end-of-text token follows.
        """
        words = text if after[-1:].isspace() else f" {text.lstrip()}"
        before = f"a{after[-1:]}"
        context, whole = self.token_ids(before), self.token_ids(before + words)
        # Some tokenizers put a space of their own before every text: what follows a word shows none.
        ids = whole[len(context) :] if whole[: len(context)] == context else self.token_ids(words)
        return (*ids, *self._checkpoint.end_ids[:1]) if ends else tuple(ids)

    def phrase_ids(self, adapter: Adapter) -> list[tuple[int, ...]]:
        """Tokens of all phrases that an adapter scores, label by label.

        Raises:
            ConfigError: A phrase without tokens, or of two labels.
        """
        assert adapter.verbalizer is not None
        assert adapter.template is not None
        found: list[tuple[int, ...]] = []
        owner: dict[tuple[int, ...], str] = {}
        for label, phrases in zip(adapter.labels, adapter.verbalizer.phrases, strict=True):
            for phrase in phrases:
                ids = self.encode_answer(phrase, after=adapter.template.row)
                if not ids or owner.setdefault(ids, label) != label:
                    fault = f"labels {owner[ids]!r} and {label!r} have the same words" if ids else "a label has no word"
                    todo = "Rename a label in the data; descriptions (--descriptions) must differ too."
                    raise ConfigError(f"{fault}: {phrase!r}. {todo}")
                found.append(ids)
        return found

    def answer_log_probs(self, rows: Sequence[Row], answers: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Log-probability of every token of each row's answer, given what stands before it.

        Args:
            rows: Inputs, each with its adapter.
            answers: Tokens, as of `encode_answer`; at least one for each row.

        Returns:
            For each row fp32 [tokens of its answer]; gradients flow to the adapters' tensors.

        Raises:
            ModelError: The base came without a language model's head.
        """
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

    def scores(self, rows: Sequence[Row], candidates: Sequence[tuple[int, ...]]) -> Tensor:
        """Mean log-probability per token of every candidate as each row's answer, fp32 [B, C]; gradients flow.

        The texts run once; the candidates, in a tree of what they begin with, see them and their prefixes.

        Args:
            rows: Inputs, each with its adapter.
            candidates: Tokens, as of `encode_answer`; at least one each.

        Raises:
            ModelError: The base came without a language model's head.
        """
        tree = grow(candidates)

        def one_pass(members: Sequence[int], weights: Weights | None) -> Sequence[Tensor]:
            return self._scored([rows[k] for k in members], [tree] * len(members), weights, normalised=True)[1]

        return torch.stack(self.by_pass(rows, one_pass))

    def generate(
        self,
        rows: Sequence[Row],
        generators: Sequence[torch.Generator] | None = None,
        *,
        decoding: Decoding | None = None,
        most_rows: int = GENERATED_ROWS,
    ) -> list[Generation]:
        """Answers in text, each row as its adapter's `decoding` says.

        Args:
            rows: Inputs, each with its adapter, in any mixture.
            generators: One for each row, which draws its tokens; not needed where all decode greedily.
            decoding: For rows whose adapters have none; by default that of `Decoding()`.
            most_rows: Answered at a time.

        Raises:
            ModelError: The base came without a language model's head.
        """
        usual = Decoding() if decoding is None else decoding
        own = [None] * len(rows) if generators is None else generators
        requests = [
            Request(
                id=k,
                row=row,
                decoding=usual if row.adapter.decoding is None else row.adapter.decoding,
                generator=generator,
            )
            for k, (row, generator) in enumerate(zip(rows, own, strict=True))
        ]
        found = generate(self, requests, most_rows)
        return [found[k] for k in range(len(rows))]

    def readings(self, rows: Sequence[Row]) -> list[Tensor]:
        """Features of each row; where its adapter scores phrases, followed by their scores."""
        if not any(row.adapter.scores_phrases for row in rows):
            return super().readings(rows)

        def one_pass(members: Sequence[int], weights: Weights | None) -> Sequence[Tensor]:
            mine = [rows[k] for k in members]
            trees = [self._phrase_tree(row.adapter) if row.adapter.scores_phrases else _NO_TREE for row in mine]
            hidden_RD, scores = self._scored(mine, trees, weights, normalised=False)
            return [torch.cat([h.float(), s]) for h, s in zip(hidden_RD, scores, strict=True)]

        return self.by_pass(rows, one_pass)

    def _phrase_tree(self, adapter: Adapter) -> Tree:
        assert adapter.verbalizer is not None
        assert adapter.template is not None
        key = (adapter.labels, adapter.verbalizer.phrases, adapter.template.row[-1:])
        if key not in self._trees:
            self._trees[key] = grow(self.phrase_ids(adapter))
        return self._trees[key]

    def phrase_work(self, adapter: Adapter) -> tuple[int, int]:
        tree = self._phrase_tree(adapter)
        nodes = len(tree.tokens)
        return nodes, (1 + nodes) * self.num_words if nodes else len(tree.nexts)

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
            loras, past = [rows[k].adapter.lora for k in members], Behind(seen.layers, members)
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
