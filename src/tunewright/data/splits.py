"""One split into train, dev and test: stratified by label, with every group of twins on one side."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tunewright.data.sets import strata
from tunewright.errors import DataError, counted
from tunewright.types import Example

WEIGHTS: Mapping[str, int] = {"train": 7, "dev": 1, "test": 2}
"""70/10/20; splits that are given drop out, so 7:1 (12.5% dev) beside a given test and 7:2 beside a given dev."""

SHOWN = 5
"""Classes named in an error."""


def apportion(total: int, weights: Sequence[int], *, least: int = 0) -> list[int]:
    """Whole shares of a total, proportional to the weights by largest remainder (ties to the first).

    Args:
        total: What to share.
        weights: Positive.
        least: Every share's minimum, taken from the largest shares, where the total suffices.
    """
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole))
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    while total >= least * len(weights) and min(shares) < least:
        shares[shares.index(max(shares))] -= 1
        shares[shares.index(min(shares))] += 1
    return shares


def split_rows(
    examples: Sequence[Example], groups: Sequence[int], weights: Mapping[str, int], rng: np.random.Generator
) -> dict[str, tuple[Example, ...]]:
    """The rows of each split, in their original order.

    Within one row of the exact share for each class where no row has a twin; large groups are placed first, each where
    it exceeds the shares least.

    Args:
        examples: Labelled rows.
        groups: For each row its group; a group is never divided.
        weights: Split -> weight.
        rng: The source of randomness.

    Returns:
        Split -> rows. Every class of enough groups is in every split where no group holds two classes; where groups
        do, a split may lack one: see `check_train`.
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    labels = [Counter(label for row in rows for label in strata(examples[row])) for rows in members.values()]
    order = sorted(rng.permutation(len(labels)).tolist(), key=lambda position: -labels[position].total())
    table = _Shares(labels, weights)
    places = {position: table.place(labels[position]) for position in order}
    split_of_row = {row: places[position] for position, rows in enumerate(members.values()) for row in rows}
    return {
        name: tuple(example for row, example in enumerate(examples) if split_of_row[row] == index)
        for index, name in enumerate(weights)
    }


def scarce_classes(examples: Sequence[Example], groups: Sequence[int], least: int) -> dict[str, int]:
    """Each class of fewer groups than that -> how many it has."""
    rows = zip(examples, groups, strict=True)
    distinct = Counter(label for label, _ in {(label, group) for e, group in rows for label in strata(e)})
    return {label: count for label, count in sorted(distinct.items()) if count < least}


def check_classes(
    examples: Sequence[Example], groups: Sequence[int], splits: Sequence[str], path: str, remedy: str
) -> None:
    """Refuses classes that cannot be in every split, before any split is made.

    Args:
        examples: Labelled rows.
        groups: For each row its group.
        splits: Their names.
        path: The file, for the message.
        remedy: What one can do beside mending the rows, for the message.

    Raises:
        DataError: With each such class (the first `SHOWN`), its count and the need.
    """
    rows = Counter(label for example in examples for label in strata(example))
    scarce = scarce_classes(examples, groups, len(splits))
    if scarce:
        said = [f"{label!r} has {_amount(rows[label], count)}" for label, count in list(scarce.items())[:SHOWN]]
        more = f" and {counted(len(scarce) - SHOWN, 'more class', 'more classes')}" if len(scarce) > SHOWN else ""
        same = any(rows[label] > count for label, count in scarce.items())
        meant = "Different means by more than case, punctuation and spaces. " if same else ""
        raise DataError(
            f"{path}: class {', '.join(said)}{more}; need {len(splits)}, one each for {', '.join(splits)}. {meant}"
            f"Add rows, merge or remove the class, or {remedy}."
        )


def check_train(examples: Sequence[Example], train: Sequence[Example], path: str) -> None:
    """Refuses a split that left a class without a training row; dev or test without one is a notice elsewhere.

    Args:
        examples: All rows that were split.
        train: Those of them that became training rows.
        path: The file, for the message.

    Raises:
        DataError: With each such class (the first `SHOWN`).
    """
    lacking = sorted({label for e in examples for label in strata(e)} - {label for e in train for label in strata(e)})
    if lacking:
        said = ", ".join(repr(label) for label in lacking[:SHOWN])
        more = f" and {counted(len(lacking) - SHOWN, 'more class', 'more classes')}" if len(lacking) > SHOWN else ""
        raise DataError(
            f"{path}: the split left no training row for class {said}{more}: near duplicates stay together, and those "
            "of this class have other labels too. Needed: one training row a class. Mend the labels of the "
            "duplicates, add rows, try another --seed, or give the splits as files with --dev and --test."
        )


def _amount(rows: int, distinct: int) -> str:
    said = counted(rows, "row")
    return said if distinct == rows else f"{said} but only {counted(distinct, 'different text')}"


class _Shares:
    """What each split still wants of each class, while groups are placed one by one."""

    def __init__(self, groups: Sequence[Counter[str]], weights: Mapping[str, int]) -> None:
        rows: Counter[str] = Counter()
        for group in groups:
            rows.update(group)
        self._target = {label: apportion(count, list(weights.values()), least=1) for label, count in rows.items()}
        self._want = {label: list(shares) for label, shares in self._target.items()}
        self._without = {label: set(range(len(weights))) for label in rows}
        self._groups_left = Counter(label for group in groups for label in group)

    def place(self, group: Counter[str]) -> int:
        """The split in which the group exceeds the shares least, then where most is wanted; books it there."""
        chosen = min(sorted(self._allowed(group)), key=lambda split: self._cost(group, split))
        for label, count in group.items():
            self._want[label][chosen] -= count
            self._without[label].discard(chosen)
            self._groups_left[label] -= 1
        return chosen

    def _allowed(self, group: Counter[str]) -> set[int]:
        """Splits without a class that only its last groups can still bring there; else all."""
        urgent = [self._without[label] for label in group if self._groups_left[label] <= len(self._without[label])]
        return set().union(*urgent) if any(urgent) else set(range(len(next(iter(self._want.values())))))

    def _cost(self, group: Counter[str], split: int) -> tuple[int, float]:
        excess = sum(max(0, count - self._want[label][split]) for label, count in group.items())
        wanted = sum(self._want[label][split] / max(1, self._target[label][split]) for label in group)
        return excess, -wanted


def limit_rows(examples: Sequence[Example], rows: int, rng: np.random.Generator) -> tuple[Example, ...]:
    """At most that many rows, stratified, in their original order, with their ids.

    Every class keeps a row where `rows` suffices for that; else the largest classes do.

    Args:
        examples: Labelled rows.
        rows: At least 1.
        rng: The source of randomness.
    """
    if rows >= len(examples):
        return tuple(examples)
    members: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        members.setdefault(str(example.label), []).append(row)
    shares = apportion(rows, [len(positions) for positions in members.values()], least=1)
    kept: set[int] = set()
    for positions, share in zip(members.values(), shares, strict=True):
        kept.update(rng.permutation(positions)[:share].tolist())
    return tuple(example for row, example in enumerate(examples) if row in kept)


def rows_sha256(examples: Sequence[Example]) -> str:
    """Hash over the ids, in order: which rows these are."""
    return hashlib.sha256("\n".join(example.id for example in examples).encode()).hexdigest()
