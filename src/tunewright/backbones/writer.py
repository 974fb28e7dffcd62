"""Bases that write: they answer under a template, by the words of labels or in text.

Shapes: B rows, R rows that run together, N pool rows, D width, V vocabulary, C candidates.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Weights
from tunewright.backbones.base import Generation, Request, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.next_token import NextToken
from tunewright.backbones.prompted import Prompted
from tunewright.backbones.reasoned import reasoned
from tunewright.backbones.scoring import Tree, grow
from tunewright.errors import ModelError

GENERATED_ROWS = 32
"""Answered in text at a time."""

_NO_TREE = grow([])


class Writer(Prompted):
    """A frozen base with a language model's head.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(checkpoint, dtype=dtype, device=device)
        self._trees: dict[object, Tree] = {}
        """Labels and phrases -> their tokens."""
        self.next_token = self._next_token()

    @abstractmethod
    def encode_answer(self, text: str, *, after: str = ":", ends: bool = False) -> tuple[int, ...]:
        """Tokens of an answer as it goes on after a text.

        Args:
            text: The answer.
            after: What stands before it, of which the end counts.
            ends: Whether the end-of-text token follows.
        """

    @abstractmethod
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

    @abstractmethod
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

    @abstractmethod
    def _scored(
        self, rows: Sequence[Row], trees: Sequence[Tree], weights: Weights | None, *, normalised: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of rows that run together, [R, D], and scores of each row's candidates."""

    @staticmethod
    def _requests(
        rows: Sequence[Row], generators: Sequence[torch.Generator] | None, decoding: Decoding | None
    ) -> list[Request]:
        """One for each row, numbered."""
        usual = Decoding() if decoding is None else decoding
        own = [None] * len(rows) if generators is None else generators
        return [
            Request(
                id=k,
                row=row,
                decoding=usual if row.adapter.decoding is None else row.adapter.decoding,
                generator=generator,
            )
            for k, (row, generator) in enumerate(zip(rows, own, strict=True))
        ]

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

    def readings(self, rows: Sequence[Row]) -> list[Tensor]:
        """Features of each row; where its adapter scores phrases, followed by their scores."""
        if any(row.encoding.members for row in rows):
            return self.of_members(rows)
        if any(row.adapter.reasoning is not None for row in rows):
            return reasoned(self, rows)
        if not any(row.adapter.scores_phrases for row in rows):
            return super().readings(rows)

        def one_pass(members: Sequence[int], weights: Weights | None) -> Sequence[Tensor]:
            mine = [rows[k] for k in members]
            trees = [self._tree_of(row) for row in mine]
            hidden_RD, scores = self._scored(mine, trees, weights, normalised=False)
            return [torch.cat([h.float(), s]) for h, s in zip(hidden_RD, scores, strict=True)]

        return self.by_pass(rows, one_pass)

    def _tree_of(self, row: Row) -> Tree:
        """What is scored behind a row: its own candidates, the phrases of its adapter, or nothing."""
        if row.encoding.choices:
            return grow(row.encoding.choices)
        return self._phrase_tree(row.adapter) if row.adapter.scores_phrases else _NO_TREE

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

    def _next_token(self) -> NextToken | None:
        head = self._checkpoint.head
        if head is None:
            return None
        table = self._model.get_input_embeddings()  # type: ignore[operator]
        return NextToken(table, head.weight_VD, head.bias_V, head.softcap).requires_grad_(False)

    @property
    def writes(self) -> bool:
        return self.next_token is not None

    def head(self) -> NextToken:
        """The language model's head.

        Raises:
            ModelError: The base came without it.
        """
        if self.next_token is None:
            name = self.identity.name
            raise ModelError(f"model {name!r} has no language model's head (lm_head): it cannot write. Save it whole.")
        return self.next_token

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The base's own."""
        return self._checkpoint.tokenizer

    @property
    def num_words(self) -> int:
        """V, of the next token."""
        return int(self.head().weight.shape[0])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self._checkpoint.end_ids
