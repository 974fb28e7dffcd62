"""Bases that write: they answer under a template, by the words of labels or in text.

Shapes: B rows, R rows that run together, N pool rows, D width, V vocabulary, C candidates.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Template, Weights
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.answers import unit
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Encoding, Generation, Request, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.next_token import NextToken
from tunewright.backbones.reasoned import reasoned
from tunewright.backbones.scoring import Tree, grow
from tunewright.backbones.tokens import by_length, encode_framed
from tunewright.errors import ConfigError, ModelError
from tunewright.types import Example, whole_text

GENERATED_ROWS = 32
"""Answered in text at a time."""

_NO_TREE = grow([])


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around the rows of an adapter."""

    kept_tokens: int = 0
    """Before all rows, run once for them."""
    said: str = ""
    """Words that each row begins with."""
    begin_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    template: Template | None = None


class Writer(Backbone):
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
    def _frame(self, adapter: Adapter) -> Frame:
        """What stands around its rows."""

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

    @property
    def takes_templates(self) -> bool:
        return True

    def encode_for(self, examples: Sequence[Example], adapter: Adapter, answer_tokens: int = 0) -> list[Encoding]:
        """Tokenises as the adapter's template has it, so that prefix, row and answer fit the context.

        Args:
            examples: Rows.
            adapter: Who will answer.
            answer_tokens: Room for the answer; at least what its phrases or its decoding may take.

        Raises:
            ConfigError: The template leaves no room for a text.
        """
        answer = 0 if self.answers_apart else max(answer_tokens, self.answer_tokens(adapter))
        frame = self._frame(adapter)
        before, template = adapter.prefix_tokens + frame.kept_tokens, frame.template
        room, wanted = self.max_tokens - before - answer, adapter.max_tokens - adapter.prefix_tokens
        if template is None:
            self._check_room(room, fixed=before, frame=0, answer=answer)
            return self.encode(examples, min(wanted, room))
        ends = len(frame.begin_ids) + len(frame.end_ids)
        around = ends + len(self.token_ids(frame.said + template.fill("", None)))
        self._check_room(room - around, fixed=before, frame=around, answer=answer)
        shown = [frame.said] * len(examples)
        if adapter.retriever is not None:
            found = self._retrieved(examples, adapter, adapter.retriever, (room - around) // 2)
            shown = [frame.said + words for words in found]
        limits = [min(wanted + around + len(self.token_ids(words.removeprefix(frame.said))), room) for words in shown]
        ids = (frame.begin_ids, frame.end_ids)
        return encode_framed(self._checkpoint.tokenizer, examples, template, ids, limits, shown)

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

    def answer_tokens(self, adapter: Adapter) -> int:
        """Most tokens of its answers, with the reasoning before them."""
        decoded = 0 if adapter.decoding is None else adapter.decoding.max_new_tokens
        if not adapter.scores_phrases:
            return decoded
        phrases = max(map(len, self.phrase_ids(adapter)), default=0)
        if adapter.reasoning is None:
            return max(decoded, phrases)
        return decoded + len(self.encode_answer(adapter.reasoning.cue, after=".")) + phrases

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
                ids = self.encode_answer(phrase, after=adapter.before_answer)
                if not ids or owner.setdefault(ids, label) != label:
                    fault = f"labels {owner[ids]!r} and {label!r} have the same words" if ids else "a label has no word"
                    todo = "Rename a label in the data; descriptions (--descriptions) must differ too."
                    raise ConfigError(f"{fault}: {phrase!r}. {todo}")
                found.append(ids)
        return found

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
        if any(row.adapter.reasoning is not None for row in rows):
            return reasoned(self, rows)
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
