"""Rows that may have several labels: a cell as a set of labels, and what is noticed of them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tunewright.data.formats import clip, quoted
from tunewright.data.labels import label_order
from tunewright.errors import DataError, counted
from tunewright.types import BETWEEN_LABELS, Example, Notice, label_set

SEPARATOR = ","
"""Between the labels of a cell, where the user names no other."""

_RARE = 10
"""Training rows of a label below which its threshold and its part of a macro score say little."""


def to_sets(examples: Sequence[Example], separator: str | None, path: str) -> tuple[Example, ...]:
    """The rows with their labels as sets: each once, in one order.

    Args:
        examples: Whose labels are cells as they stand: labels with something between them, or a JSON list.
        separator: What stands between them; `SEPARATOR` when absent.
        path: The file, for the message.

    Raises:
        DataError: A list that is none, or a label with the character that stands between labels here.
    """
    return tuple(replace(each, label=_joined(each, separator, path), several=True) for each in examples)


def _joined(example: Example, separator: str | None, path: str) -> str | None:
    if example.label is None:
        return None
    labels = label_order(_parts(example, SEPARATOR if separator is None else separator, path))
    if any(BETWEEN_LABELS in label for label in labels):
        raise DataError(
            f"{path}: row {example.id} has the labels {quoted(labels)}. {BETWEEN_LABELS!r} stands between labels here "
            "and cannot be part of one. Name what separates them with --label-separator, or write them without it."
        )
    return BETWEEN_LABELS.join(labels)


def _parts(example: Example, separator: str, path: str) -> list[str]:
    text = str(example.label)
    parts: object = text.split(separator)
    if text.startswith("["):
        try:
            parts = json.loads(text)
        except ValueError:
            parts = None
    if not isinstance(parts, list) or any(isinstance(part, dict | list | bool) or part is None for part in parts):
        raise DataError(
            f"{path}: the labels of row {example.id} are no list of names: {clip(text)!r}. Allowed: a JSON list, or "
            f"labels with {separator!r} between them. Mend the row or name the --label-separator."
        )
    return [name for part in parts if (name := str(part).strip())]


def strata(example: Example) -> tuple[str, ...]:
    """The classes of a row by which splits are stratified: its labels, or that it has none."""
    if not example.several:
        return (str(example.label),)
    return label_set(str(example.label)) or ("",)


def check_sets(train: Sequence[Example], path: str) -> None:
    """Refuses training rows that leave nothing to decide.

    Raises:
        DataError: All rows have the same labels.
    """
    sets = {example.label for example in train}
    if len(sets) < 2:
        raise DataError(
            f"{path}: all training rows have the same labels: {next(iter(sets))!r}. At least two sets are needed. Add "
            "rows with others, or choose another column with --label."
        )


def set_notices(train: Sequence[Example]) -> list[Notice]:
    """How many labels rows have, which are rare, and whether this is such a task at all."""
    sizes, counts = [len(label_set(str(e.label))) for e in train], label_counts(train)
    mean, empty = sum(sizes) / len(sizes), sizes.count(0)
    found = [Notice(code="label-sets", count=len(train), message=f"Training rows have {mean:.2f} labels on average.")]
    if empty:
        said = f"{counted(empty, 'training row has', 'training rows have')} no label at all."
        found.append(Notice(code="empty-sets", count=empty, message=said))
    if max(sizes) < 2:
        said = "No training row has several labels: --task classify fits, or another --label-separator is needed."
        found.append(Notice(code="single-labels", count=len(train), message=said))
    rare = [label for label, count in counts.items() if count < _RARE]
    if rare:
        said = counted(len(rare), "label has", "labels have")
        said += f" fewer than {_RARE} training rows ({quoted(rare)}): little is learned of them."
        found.append(Notice(code="rare-labels", count=len(rare), message=said))
    return found


def label_counts(examples: Iterable[Example]) -> Counter[str]:
    """Label -> rows that have it."""
    return Counter(label for example in examples for label in label_set(str(example.label)))
