"""What a method says: what to place, what to train, what to search. Everything else belongs to the harness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Candidates, Thresholds
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Base
from tunewright.backbones.inference import FeatureStore
from tunewright.data.labels import in_words
from tunewright.prompts.template import Prompt
from tunewright.prompts.verbalizer import word_fault
from tunewright.training.loop import Settings
from tunewright.training.objective import Rows
from tunewright.training.optim import Rates
from tunewright.types import Example, Family, Params, Scalar, Task, TaskKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A number to search, on a logarithmic scale."""

    low: float
    high: float
    default: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Values to choose from; the first is the default."""

    options: tuple[Scalar, ...]

    @property
    def default(self) -> Scalar:
        """Tried first."""
        return self.options[0]


Space = Mapping[str, Range | Choice]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a method may look at: the task, the base and the training rows. Never dev, never test."""

    task: Task
    backbone: Base
    store: FeatureStore
    """Features of the bare base."""
    examples: Sequence[Example]
    rows: Rows
    """The examples, tokenised to the base's limit."""
    max_tokens: int
    """Texts are cut so that text and virtual tokens have at most this many."""
    prompt: Prompt | None = None
    """The user's own."""
    judge: Callable[[Sequence[Example], Sequence[str]], float] | None = None
    """(training rows, answers) -> the task's metric, for texts whose likelihood a base does not tell."""
    documents: Sequence[str] = ()
    """Passages of the user's documents, in which no row stands that methods must not see."""
    vector_store: str | None = None
    """URL of the server that keeps and searches what rows are compared with; None: adapters bring it along."""

    @property
    def weights(self) -> Backbone:
        """The base, of which a method that trains needs more than answers; it refuses any that is elsewhere."""
        assert isinstance(self.backbone, Backbone), "refused before"
        return self.backbone

    @property
    def room_tokens(self) -> int:
        """For the input and what is learned before it: what the longest target leaves, at most `max_tokens`."""
        return min(self.max_tokens, self.context_tokens)

    @property
    def context_tokens(self) -> int:
        """For all that stands before an answer, templates too: what the longest target leaves."""
        longest = 0 if self.backbone.answers_apart else max(map(len, self.rows.answers), default=0)
        return self.backbone.max_tokens - longest

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.task.labels)

    def shares(self) -> Tensor:
        """Share of the training rows that have each label, one row with and one without added: [C]."""
        if self.rows.sets_NC is not None:
            return (self.rows.sets_NC.sum(0) + 1) / (len(self.rows.sets_NC) + 2)
        counts_C = torch.bincount(self.rows.labels_N, minlength=self.num_labels).float() + 1
        return counts_C / counts_C.sum()

    def part(self, members: Sequence[int]) -> "Material":
        """The same with some of the training rows."""
        rows = self.rows
        some = Rows(
            encodings=[rows.encodings[k] for k in members],
            labels_N=rows.labels_N[list(members)] if rows.labels_N.numel() else rows.labels_N,
            answers=[rows.answers[k] for k in members] if rows.answers else (),
            sets_NC=None if rows.sets_NC is None else rows.sets_NC[list(members)],
        )
        return replace(self, examples=[self.examples[k] for k in members], rows=some)

    def adapter(self, **parts: object) -> Adapter:
        """An adapter for this task and base with the given parts."""
        identity = self.backbone.identity
        labels = self.task.labels
        if self.task.kind == "multi-label":
            parts["thresholds"] = Thresholds(logits_C=torch.zeros(len(labels)))
        if self.task.kind == "choose":
            parts["candidates"] = Candidates()
        return Adapter(base=identity, labels=labels, max_tokens=self.max_tokens, **parts)  # type: ignore[arg-type]


_LONGEST = 0.25
"""Share of the context that a label's word may take, at most."""


def cannot_tell_words(backbone: Base, task: Task, words: str = "name", share: float = _LONGEST) -> str | None:
    """Why a base cannot answer a task by the labels' words, or None.

    Args:
        backbone: That answers prompts.
        task: Whose labels.
        words: As in `label_phrases`.
        share: Of the context that a word may take.
    """
    most = max(1, int(share * backbone.max_tokens))
    return word_fault(task, words, backbone.encode_answer, backbone.unknown_ids, most)


Place = Callable[[Material, Params, np.random.Generator], Adapter]


def word_remarks(backbone: Base, task: Task) -> list[str]:
    """What a user should hear of labels' words on a base: unusable descriptions, and names that it splits."""
    if not task.names_labels or not backbone.answers_prompts or cannot_tell_words(backbone, task) is not None:
        return []
    name, fault = backbone.identity.name, cannot_tell_words(backbone, task, "description")
    said = [] if fault is None else [f"{name} is not asked by the labels' descriptions: {fault}."]
    pieces = {label: backbone.words(backbone.encode_answer(in_words(label))) for label in task.labels}
    split = [f"{label!r} into {' '.join(each)}" for label, each in pieces.items() if len(each) > 1]
    if backbone.fills_masks and split:
        more = f" and {len(split) - _SAID} more" if len(split) > _SAID else ""
        said.append(f"{name} splits label words, which take a mask for each piece: {', '.join(split[:_SAID])}{more}.")
    return said


_SAID = 5
"""Split words that are told."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to adapt a base. Its file is the whole of it."""

    name: str
    family: Family
    summary: str
    """One sentence for the table of methods."""
    trains: str
    """What is learned, with its count: `P D + (D + 1) C`."""
    serves: str
    """What serving it costs beyond the bare base."""
    place: Place
    """The initial adapter, from the training rows alone."""
    space: Callable[[Material], Space] = lambda _material: {}
    """What to search, at the method's own scale; nothing where it is not said."""
    trained: Callable[[Adapter, Params, float], Rates] = lambda _adapter, _params, _progress: {}
    """(adapter, parameters, progress in [0, 1)) -> who trains and how fast; nobody where it is not said."""
    learns: str | None = None
    """The one part it trains that changes what the base computes; None for a method that trains none."""
    passes: float = 1.0
    """Epochs, as a multiple of what is usual for the task."""
    refuses: Callable[[Base], str | None] = lambda _backbone: None
    """Why a base cannot be used, or None."""
    by_words: bool = False
    """Whether it answers by the labels' words where the base answers prompts."""
    kinds: tuple[TaskKind, ...] = get_args(TaskKind)
    """Of tasks that it answers; all where it is not said."""
    needs: str | None = None
    """The setting that gives it what it works on; without it the method takes no part."""
    uses: str | None = None
    """A setting that few make something of, and that it can do without."""
    runs_base: bool = True
    """False for a floor, which answers without the base."""

    def refusal(self, backbone: Base, task: Task) -> str | None:
        """Why it cannot answer this task on this base, or None."""
        if task.kind not in self.kinds:
            return _WRONG_KIND[task.kind]
        if self.family != "no training" and not backbone.is_here:
            return f"{backbone.identity.name} answers elsewhere: there are no weights here to train on"
        if task.kind == "generate" and self.runs_base and not backbone.writes:
            return f"{backbone.identity.name} writes no text; give a decoder with --model"
        if task.kind == "choose" and self.by_words and not (backbone.answers_prompts and backbone.is_here):
            return _NO_CHOICE if backbone.is_here else f"{backbone.identity.name} answers elsewhere: {_UNTOLD}"
        reason = self.refuses(backbone)
        if reason is None and self.by_words and task.names_labels and backbone.answers_prompts:
            reason = cannot_tell_words(backbone, task)
        return reason


_WRONG_KIND: Mapping[TaskKind, str] = {
    "classify": "it answers with texts, not labels",
    "multi-label": "it does not answer with several labels",
    "choose": "it does not choose among texts that each row brings",
    "generate": "it chooses labels, not texts",
}


_NO_CHOICE = "candidates are scored as answers to a prompt; give a decoder or a masked model with --model"
_UNTOLD = "how likely each row's candidates are is not asked there"


def settings(method: Method, params: Params, material: Material) -> Settings:
    """How to train a method with one point of its search space.

    What the point does not name is the default; classes are weighted equally where the metric counts them so.
    """
    usual = round(method.passes * default_epochs(len(material.examples), material.num_labels))
    epochs = int(params.get("epochs", usual))
    return Settings(
        lr=float(params.get("lr", 0.0)),
        epochs=epochs,
        batch_size=int(params.get("batch_size", Settings.batch_size)),
        weight_decay=float(params.get("weight_decay", Settings.weight_decay)),
        dropout=float(params.get("dropout", Settings.dropout)),
        patience=int(params.get("patience", max(3, epochs // 3))),
        balanced=material.task.metric == "macro-f1",
    )


_ROWS_SEEN, _ROWS_SEEN_PER_LABEL, _TEXTS_SEEN = 4_000, 100, 8_000
_EPOCHS = (5, 15)


def default_epochs(num_rows: int, num_labels: int) -> int:
    """Passes over the training rows: so many that 4,000 rows are seen and 100 more for each label; 5 to 15.

    Without labels 8,000: to write is more to learn than to choose.
    """
    low, high = _EPOCHS
    rows_seen = _ROWS_SEEN + _ROWS_SEEN_PER_LABEL * num_labels if num_labels else _TEXTS_SEEN
    return min(high, max(low, round(rows_seen / max(1, num_rows))))
