"""Class names: which values may be one, their order, what they mean in words, and what an error costs."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.config import read_yaml
from tunewright.errors import ConfigError, DataError, unknown
from tunewright.types import Example

MAX_INTEGER_LABELS = 100
"""More distinct integers than this are quantities, not classes."""

_INTEGER = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)


def check_labels(examples: Sequence[Example], path: str) -> None:
    """Refuses labels that are numbers to be estimated, or that leave nothing to decide.

    Raises:
        DataError: Floats, more than `MAX_INTEGER_LABELS` distinct integers, or a single class.
    """
    counts = Counter(example.label for example in examples if example.label is not None)
    if all(_FLOAT.fullmatch(label) for label in counts):
        floats = [label for label in counts if not _INTEGER.fullmatch(label)]
        if floats:
            raise DataError(
                f"{path}: labels are floats, such as {floats[0]}. Allowed: class names or integers. "
                "Write classes as words, or choose another column with --label."
            )
        if len(counts) > MAX_INTEGER_LABELS:
            raise DataError(
                f"{path}: {len(counts)} distinct integers as labels: looks like a quantity. Allowed: at most "
                f"{MAX_INTEGER_LABELS}. Group them into classes, or choose another column with --label."
            )
    if len(counts) < 2:
        raise DataError(
            f"{path}: only one class in the training rows: {next(iter(counts))!r}. At least two are needed. "
            "Add rows of another class, or choose another column with --label."
        )


def are_integers(labels: Iterable[str]) -> bool:
    """Whether the class names are numbers, which say nothing."""
    return all(_INTEGER.fullmatch(label) for label in labels)


def label_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels, sorted: by value where all are integers."""
    distinct = set(labels)
    if are_integers(distinct):
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    return tuple(sorted(distinct))


def in_words(label: str) -> str:
    """A class name as words: `card_arrival`, `cardArrival` and `Card-Arrival` are "card arrival"; acronyms stay."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    words = re.sub(r"[_\-/.:\s]+", " ", spaced).split()
    text = " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in words)
    return text or label


def read_labelled(path: str) -> dict[str, Any]:
    """A YAML file that says something of each label, which is text whatever it looks like.

    Raises:
        ConfigError: Unreadable file, or no such lines.
    """
    return read_yaml(Path(path).expanduser(), as_text=True)


def error_costs(labels: Sequence[str], path: str, *, also_known: Collection[str] = ()) -> NDArray[np.float64]:
    """What each answer costs, from a YAML file: true label -> answer -> cost; 1 where it says nothing, 0 if right.

    Args:
        labels: Of the task, in order.
        path: The file.
        also_known: True labels that may be named, though no answer can be right there.

    Returns:
        [true label, answer].

    Raises:
        ConfigError: Unreadable file, unknown labels, costs that are none; all at once.
    """
    costs_CC = 1.0 - np.eye(len(labels))
    faults: list[str] = []
    for true, answers in read_labelled(path).items():
        if true not in labels and true not in also_known:
            faults.append(f"{path}: {unknown('label', true, labels)}")
        if not isinstance(answers, dict):
            faults.append(f"{path}: {true!r} must hold `answer: cost` lines. Got {answers!r:.80}.")
            continue
        for answer, given in answers.items():
            cost = float(given) if isinstance(given, str) and _FLOAT.fullmatch(given) else math.nan
            if answer not in labels:
                faults.append(f"{path}: {unknown('answer', answer, labels)}")
            elif not 0 <= cost < math.inf:
                faults.append(f"{path}: the cost of {answer!r} for {true!r} must be a number from 0 on. Got {given!r}.")
            elif true in labels:
                costs_CC[labels.index(true), labels.index(answer)] = cost
    if not faults and (costs_CC == 1.0 - np.eye(len(labels))).all():
        faults.append(f"{path} makes all errors cost the same. Give a cost that is not 1, or leave --error-costs out.")
    if faults:
        raise ConfigError(faults)
    return costs_CC


def describe(labels: Sequence[str], path: str | None, *, also_known: Collection[str] = ()) -> dict[str, str]:
    """Label -> description, from a YAML file or from the names themselves.

    Args:
        labels: The task's; each must be in the file.
        path: YAML file, or None.
        also_known: Labels that the file may hold besides: those seen in the test rows only.

    Raises:
        ConfigError: Unreadable file, unknown or missing labels, descriptions that are no text; all at once.
    """
    if path is None:
        return {label: in_words(label) for label in labels}
    content = read_labelled(path)
    faults = [
        f"{path}: {unknown('label', key, labels)}" for key in content if key not in labels and key not in also_known
    ]
    missing = [label for label in labels if label not in content]
    if missing:
        faults.append(f"{path}: no description of {', '.join(missing)}. Add a line `{missing[0]}: what it means`.")
    for key, value in content.items():
        if not isinstance(value, str) or not value.strip():
            faults.append(f"{path}: the description of {key!r} must be a few words. Got {value!r}.")
    if faults:
        raise ConfigError(faults)
    return {label: str(content[label]).strip() for label in labels}
