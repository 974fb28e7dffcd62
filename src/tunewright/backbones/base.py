"""What the executor is asked, rows that each name their adapter, and what is asked of any base, wherever it runs.

Shapes: B rows, C labels, E of a reading.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import torch
from torch import Tensor, nn

from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Decoding
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.heard import Heard
from tunewright.errors import AdapterError, ModelError
from tunewright.types import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """One tokenised input, special tokens included."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    num_cut: int = 0
    """Tokens of the text that did not fit."""
    members: "tuple[Encoding, ...]" = ()
    """The input as each member of an adapter has it, or with each of the row's candidates, all in a row above."""
    choices: tuple[tuple[int, ...], ...] = ()
    """Tokens of the row's own candidates, where they are scored as its answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a batch: an input and the adapter that answers it."""

    encoding: Encoding
    adapter: Adapter


def row_generator(encoding: Encoding, seed: int = 0) -> torch.Generator:
    """Draws the tokens of a row: by what it says alone, wherever it stands in a file or a request."""
    said = hashlib.sha256(f"{seed} {encoding.ids}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(said[:8], "big", signed=True))


def together(columns: Sequence[Sequence[Encoding]]) -> list[Encoding]:
    """Inputs as several members have them, or with several candidates, one after the other, as inputs of the whole."""
    return [
        Encoding(
            ids=tuple(i for each in members for i in each.ids),
            type_ids=tuple(i for each in members for i in each.type_ids),
            num_cut=max(each.num_cut for each in members),
            members=tuple(members),
        )
        for members in zip(*columns, strict=True)
    ]


def member_rows(row: Row) -> list[Row]:
    """The row of each member of its adapter, or with each of its candidates; itself where it has none."""
    if not row.encoding.members:
        return [row]
    pairs = zip(row.encoding.members, cycle(row.adapter.each), strict=False)
    return [Row(encoding=encoding, adapter=adapter) for encoding, adapter in pairs]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A row that wants an answer in text."""

    id: Hashable
    row: Row
    decoding: Decoding
    generator: torch.Generator | None = None
    """Draws its tokens, and nobody else's, so that neighbours change nothing; not used at temperature 0."""


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A whole answer."""

    text: str
    """Without the stop text."""
    ids: tuple[int, ...]
    """All tokens that were chosen, an end-of-text token included."""
    log_probs: tuple[float, ...]
    """Of each token, by the model itself, before temperature and top-p."""
    finish_reason: FinishReason


class Base(ABC):
    """A model that answers rows under adapters: a `Backbone`, whose weights are here, or one behind an endpoint."""

    between: Callable[[], None] | None = None
    """Called while answers from elsewhere are waited for; what it raises ends the waiting."""

    @property
    @abstractmethod
    def identity(self) -> BaseIdentity:
        """Name and hashes."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Longest input, soft prompt or prefix included."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, of the features; 0 of a base that shows none."""

    @abstractmethod
    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        """Tokenises, cutting texts so that each input has at most `limit` tokens."""

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""

    @abstractmethod
    def words(self, ids: Sequence[int]) -> list[str]:
        """What each token id stands for, as text."""

    @abstractmethod
    def features(self, rows: Sequence[Row]) -> Tensor:
        """Pooled output of each row under its adapter: fp32 [B, D]. Gradients flow to the adapters' tensors."""

    @abstractmethod
    def answer(self, adapter: Adapter, readings_BE: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Logits [B, C] from readings under this adapter."""

    @property
    def device(self) -> torch.device:
        """Where the base runs."""
        return torch.device("cpu")

    @property
    def writes(self) -> bool:
        """Whether it can write answers of its own."""
        return False

    @property
    def answers_prompts(self) -> bool:
        """Whether it can answer under a template, by how likely the labels' words are there."""
        return self.writes

    @property
    def fills_masks(self) -> bool:
        """Whether its answer stands in the place of a mask, not at the end of what it reads."""
        return False

    @property
    def reasons(self) -> bool:
        """Whether it can write reasoning and then choose among answers behind it."""
        return False

    @property
    def takes_members(self) -> bool:
        """Whether several prompts of one adapter can answer its rows together."""
        return False

    @property
    def takes_templates(self) -> bool:
        """Whether words of a template can stand around its inputs."""
        return False

    answers_apart: bool = False
    """Whether an answer takes no room from the text it answers."""

    is_here: bool = True
    """Whether its weights are: only then can adapters change it, features be seen and given texts be scored."""

    @property
    def linears(self) -> Mapping[str, nn.Linear]:
        """The linear layers a LoRA may change, by name; none of a base whose weights are elsewhere."""
        return {}

    @property
    def num_parameters(self) -> int | None:
        """Of the base; None where nobody tells."""
        return None

    @property
    def num_computing(self) -> int:
        """Parameters that take part here in the matrix products of each token."""
        return 0

    def computing(self, read: float, written: float) -> float:
        """Parameters times tokens of the matrix products of a request.

        Args:
            read: Tokens of its text, and what stands before it.
            written: Tokens of its answer.
        """
        return self.num_computing * (read + written)

    def tokens_through(self, name: str, read: float, written: float) -> float:  # noqa: ARG002
        """Tokens that run through a part of the layers, by its name, of a request that reads and writes so many."""
        return read + written

    @property
    def num_vocabulary_values(self) -> int:
        """Parameters that take part here in the choice of each token that is written."""
        return 0

    @property
    def kept_values(self) -> int:
        """Keys and values that a token before all rows leaves where it runs once for them; 0 where with each."""
        return 0

    @property
    def precision(self) -> str | None:
        """Of the frozen weights, such as `float32`; None where nobody tells."""
        return None

    @property
    def about(self) -> Mapping[str, object]:
        """What an adapter's provenance has to say of its base."""
        return {}

    @property
    def tells_scores(self) -> bool:
        """Whether it says how likely labels are, not only which it would write."""
        return True

    batch_tokens: int | None = None
    """Tokens, padding included, that run together at most; None for what is usual."""

    @property
    def priced_as(self) -> str | None:
        """Its name among the prices of tokens; None of a base that runs here."""
        return None

    @property
    def fault(self) -> str | None:
        """Why it does not answer any more; None while it does."""
        return None

    def overheard(self, answering: Callable[[], object]) -> list[Heard] | None:  # noqa: ARG002
        """What was asked elsewhere while rows were answered, known answers included; None of a base that runs here.

        Args:
            answering: Answers the rows; not called where nothing is asked elsewhere.
        """
        return None

    def encode_for(self, examples: Sequence[Example], adapter: Adapter, answer_tokens: int = 0) -> list[Encoding]:
        """Tokenises for an adapter, cutting texts so that there is room for what stands before and after them.

        Args:
            examples: Rows.
            adapter: Who will answer.
            answer_tokens: Room for an answer in text.
        """
        return self.encode(examples, adapter.max_tokens - adapter.prefix_tokens - answer_tokens)

    def check(self, adapter: Adapter) -> None:
        """Makes sure that an adapter belongs here.

        Raises:
            AdapterError: Made for another base; both hashes are named.
        """
        mine, its = self.identity, adapter.base
        if (its.sha256, its.tokenizer_sha256) != (mine.sha256, mine.tokenizer_sha256):
            raise AdapterError(
                f"the adapter belongs to {its.name} (weights {its.sha256[:12]}, "
                f"tokenizer {its.tokenizer_sha256[:12]}). "
                f"Got {mine.name} (weights {mine.sha256[:12]}, tokenizer {mine.tokenizer_sha256[:12]}). "
                "Give its own base with --model."
            )

    def readings(self, rows: Sequence[Row]) -> list[Tensor]:
        """What each row's answer is made of, fp32 [E]: its features, and of some adapters scores of phrases."""
        return self.of_members(rows) if any(row.encoding.members for row in rows) else list(self.features(rows))

    def of_members(self, rows: Sequence[Row]) -> list[Tensor]:
        """Readings of rows of which some have several members or candidates: all that these read, in their order."""
        groups = [member_rows(row) for row in rows]
        found = iter(self.readings([each for group in groups for each in group]))
        return [torch.cat(list(islice(found, len(group)))) for group in groups]

    def reading_width(self, adapter: Adapter) -> int:
        """E, of the readings of its rows: of several members, or with several candidates, all that they read."""
        if adapter.members is not None:
            return sum(self.reading_width(each) for each in adapter.each)
        return self.feature_width(adapter) * (len(adapter.labels) if adapter.pairs_choices else 1) + adapter.num_phrases

    def feature_width(self, adapter: Adapter) -> int:  # noqa: ARG002
        """D, of the features of an adapter's rows."""
        return self.width

    def phrase_work(self, adapter: Adapter) -> tuple[int, int]:  # noqa: ARG002
        """Tokens that run after each row to score an adapter's phrases, and products with a row of the head."""
        return 0, 0

    def logits(self, rows: Sequence[Row]) -> list[Tensor]:
        """Answer of each row under its adapter: fp32 [C of that adapter]."""
        asked = any(row.adapter.needs_features for row in rows)
        readings = self.readings(rows) if asked else [torch.zeros(self.width, device=self.device)] * len(rows)
        found: list[Tensor | None] = [None] * len(rows)
        for adapter, members in _groups(rows).items():
            readings_BE = torch.stack([readings[k] for k in members])
            for k, logits_C in zip(members, self.answer(adapter.record, readings_BE), strict=True):
                found[k] = logits_C
        return [logits for logits in found if logits is not None]

    def encode_answer(self, text: str, *, after: str = ":", ends: bool = False) -> tuple[int, ...]:  # noqa: ARG002
        """Tokens of an answer as it goes on after a text; only of a base that answers prompts."""
        raise self._does_not_write()

    def fixed_ids(self, text: str) -> tuple[int, ...]:  # noqa: ARG002
        """Tokens of a text that stands before all rows and runs once; none where it runs with each row."""
        return ()

    is_causal: bool = False
    """Whether a token is read by those before it alone, so that any text has a likelihood where it writes too."""

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text."""
        return ()

    @property
    def unknown_ids(self) -> frozenset[int]:
        """Tokens that stand for what the tokenizer does not know."""
        return frozenset()

    @property
    def shows_words(self) -> bool:
        """Whether it has `word_rows`."""
        return False

    def word_rows(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """With what features under a template become logits of tokens: weights [K, D] and biases [K], fp32."""
        raise self._does_not_write()

    def phrase_ids(self, adapter: Adapter) -> list[tuple[int, ...]]:  # noqa: ARG002
        """Tokens of all phrases that an adapter scores, label by label; only of a base that answers prompts."""
        raise self._does_not_write()

    def scores(self, rows: Sequence[Row], candidates: Sequence[tuple[int, ...]]) -> Tensor:  # noqa: ARG002
        """Mean log-probability per token of every candidate as each row's answer, fp32 [B, C]."""
        raise self._does_not_write()

    def answer_log_probs(
        self,
        rows: Sequence[Row],  # noqa: ARG002
        answers: Sequence[tuple[int, ...]],  # noqa: ARG002
    ) -> list[Tensor]:
        """Log-probability of every token of each row's answer, fp32; only of a base that writes, and is here."""
        raise self._does_not_write()

    def generate(
        self,
        rows: Sequence[Row],  # noqa: ARG002
        generators: Sequence[torch.Generator] | None = None,  # noqa: ARG002
    ) -> list[Generation]:
        """Answers in text; only of a base that writes."""
        raise self._does_not_write()

    def _does_not_write(self) -> ModelError:
        return ModelError(f"model {self.identity.name!r} does not write. Choose a decoder.")


@dataclass(frozen=True)
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
