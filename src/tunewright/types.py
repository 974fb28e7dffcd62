"""Records shared by every layer: what is asked, of which rows, and what was answered.

Everything here is frozen, plain data: no torch, no numpy, no behaviour beyond checks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Family = Literal["no training", "soft prompts", "fine-tuning", "outside"]
"""The three answers to the question, each with the same tuning budget; and what answered elsewhere."""

FAMILIES: tuple[Family, ...] = ("no training", "soft prompts", "fine-tuning")
"""Of methods."""

TaskKind = Literal["classify", "multi-label", "choose", "generate"]
"""Choose one of some labels, all that fit of some labels, one of the row's own texts, or answer a text with a text."""

BETWEEN_LABELS = "|"
"""Stands between the labels of a set where it is one string, in the order of `data.labels.label_order`."""

Scalar = str | int | float | bool
Params = Mapping[str, Scalar]
"""One point of a method's search space: name -> value, as written to `trials.jsonl`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row of the user's data."""

    id: str
    """Stable name of the row: `<split or file>:<1-based data row>`, such as `train:17`."""
    text: str
    text_pair: str | None = None
    label: str | None = None
    """None for a row that is to be predicted, and where texts are generated; a set of labels as one string."""
    several: bool = False
    """Whether the label is a set."""
    target: str | None = None
    """The text to answer with; None where labels are chosen, and for a row that is to be predicted."""
    references: tuple[str, ...] = ()
    """All texts that are right, of which the target is the first; the answer is judged by the nearest of them."""
    reasoning: str | None = None
    """How one comes to the answer, where the data says it; of training rows alone, to be shown with the answer."""
    choices: tuple[str, ...] = ()
    """The row's own candidates; the label is then the number of the right one, from 1 on."""
    messages: tuple[tuple[str, str], ...] = ()
    """Role and content of each message of a conversation, of which the text is the plain form."""
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Column -> cell, of the columns that slices or the user's template ask for; methods see those of the template."""


def label_set(answer: str) -> tuple[str, ...]:
    """The labels of a set that is one string; none for the empty one."""
    return tuple(answer.split(BETWEEN_LABELS)) if answer else ()


def is_known(answer: str, labels: Sequence[str]) -> bool:
    """Whether an answer is one of the labels, or a set of them."""
    return answer in labels or set(label_set(answer)) <= set(labels)


def whole_text(example: Example) -> str:
    """The text, or both texts of a pair on lines of their own."""
    return example.text if example.text_pair is None else f"{example.text}\n{example.text_pair}"


def chosen_text(example: Example, answer: str) -> str:
    """An answer as one reads it: of a row with candidates the text of the one with that number."""
    numbers = {str(number): text for number, text in enumerate(example.choices, 1)}
    return numbers.get(answer, answer)


def with_choice(example: Example, choice: str) -> Example:
    """The row as a pair with one of its candidates, or with an answer in that place."""
    return Example(id=example.id, text=whole_text(example), text_pair=choice)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is asked. Holds no rows: whoever has a task has not seen any split."""

    name: str
    labels: tuple[str, ...]
    """Class names, in the order of every probability vector; numbers where rows have their own candidates; none where
    texts are generated."""
    descriptions: Mapping[str, str]
    """Label -> a few words saying what it means; the label's own name in words by default."""
    metric: str = "accuracy"
    kind: TaskKind = "classify"
    paired: bool = False
    """True where every example has a `text_pair`."""

    @property
    def names_labels(self) -> bool:
        """Whether its labels have words that mean something: the numbers of a row's own candidates have none."""
        return bool(self.labels) and self.kind != "choose"


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The rows, split once. Methods see `train`, the harness tunes on `dev`, and it alone reads `test`."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """Something the user should hear about the data; not an error."""

    code: str
    """Stable kebab-case name, such as `near-duplicates`."""
    message: str
    """One sentence."""
    count: int
    ids: tuple[str, ...] = ()
    """Rows concerned, at most the first 20."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A task with its rows, where they came from and what was noticed on the way."""

    task: Task
    splits: Splits
    sha256: str
    """Hash over ids, texts and labels of all splits, in order."""
    notices: tuple[Notice, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role (`text`, `text_pair`, `label`, `target`) -> the column's name in the source."""
    further: tuple[str, ...] = ()
    """The other columns, which a template may show."""
    is_reply: bool = False
    """Whether the target is what an assistant says at the end of a conversation, and no column of the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One answer, as stored in `predictions/*.jsonl` and returned by `predict`."""

    id: str
    label: str | None = None
    """None where the answer is a text."""
    probabilities: tuple[float, ...] = ()
    """Over the task's labels, in their order; sums to 1 where one is chosen. Empty for an outside answer without."""
    text: str | None = None
    """None where the answer is a label."""

    @property
    def answer(self) -> str:
        """The label or the text."""
        return str(self.label if self.text is None else self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number that is never alone: value with its interval and the rows behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DevScore:
    """How an epoch did on the dev rows."""

    epoch: int
    """1 after the first."""
    value: float
    """The task's metric."""
    loss: float
    """Mean cross entropy in nats, of a token where texts are generated; decides between equal values. 0 for answers
    that come without a likelihood."""

    def beats(self, other: "DevScore | None") -> bool:
        """Whether this epoch is to be kept rather than the other; never one that has diverged."""
        if not math.isfinite(self.loss):
            return False
        return other is None or (self.value, -self.loss) > (other.value, -other.loss)
