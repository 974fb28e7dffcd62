"""Folds of all rows: stratified by label, with every group of twins in one fold, and a train and dev split of the rest.

Each row is held out once in each repeat. Nothing of a held-out fold, nor a twin of it, is in its train or dev rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.config import RunConfig
from tunewright.data.load import Given, group_rows, limit_train, to_dataset
from tunewright.data.splits import WEIGHTS, check_train, split_rows
from tunewright.data.targets import by_input, limit_dev
from tunewright.errors import ConfigError, counted
from tunewright.types import Dataset, Splits

_SEARCH = {name: weight for name, weight in WEIGHTS.items() if name != "test"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """One fold of one repeat: `test` is held out; methods are tuned and trained on the rest."""

    repeat: int
    number: int
    splits: Splits

    @property
    def name(self) -> str:
        """`r0-f3`: also a folder's name."""
        return f"r{self.repeat}-f{self.number}"


def split_folds(given: Given, config: RunConfig, num_folds: int) -> tuple[Dataset, tuple[Fold, ...]]:
    """All rows as folds, and as one train and dev split for what is shipped.

    Args:
        given: The rows.
        config: The settings; `rows` limits the training rows of each fold.
        num_folds: At least 2.

    Returns:
        The dataset: train and dev of all rows, and all of them once more as test rows, for each is answered while it
        is held out. And the folds of every repeat, in order.

    Raises:
        ConfigError: Dev or test rows are given.
        DataError: A class has fewer different texts than there are folds, or none in the training rows of a fold.
    """
    extra = ", ".join(counted(len(rows), f"{split} row") for split, rows in given.rows.items() if split != "train")
    if extra:
        raise ConfigError(
            f"`folds` takes its dev and test rows from the data. Got {num_folds} folds and {extra} besides. "
            "Leave those out, or use --folds 1."
        )
    examples = given.rows["train"]
    parts = [f"fold {number + 1}" for number in range(num_folds)]
    groups, noticed = group_rows(examples, parts, config.data, "use fewer --folds")
    split_rng, rows_rng, *repeat_rngs = np.random.default_rng(config.seed).spawn(2 + config.repeats)
    labels, folds = [str(example.label) for example in examples], list[Fold]()
    for repeat, rng in enumerate(repeat_rngs):
        fold_rng, *rngs = rng.spawn(1 + num_folds)
        held = assign_folds(labels, groups, num_folds, fold_rng)
        splits = [_held_out(given, groups, held, number, config, rng) for number, rng in enumerate(rngs)]
        folds += [Fold(repeat=repeat, number=number, splits=each) for number, each in enumerate(splits)]
    rows = {**split_rows(examples, groups, _SEARCH, split_rng), "test": examples}
    check_train(examples, rows["train"], config.data)
    return to_dataset(given, rows, noticed, config, rows_rng), tuple(folds)


def _held_out(
    given: Given, groups: Sequence[int], folds: Sequence[int], number: int, config: RunConfig, rng: np.random.Generator
) -> Splits:
    """One fold, and the split of all others."""
    examples = given.rows["train"]
    split_rng, rows_rng = rng.spawn(2)
    rest = [row for row, fold in enumerate(folds) if fold != number]
    rows = split_rows([examples[row] for row in rest], [groups[row] for row in rest], _SEARCH, split_rng)
    check_train(examples, rows["train"], config.data)
    train, _ = limit_train(rows["train"], config.rows, rows_rng)
    dev, test = rows["dev"], tuple(example for example, fold in zip(examples, folds, strict=True) if fold == number)
    if config.task == "generate":
        dev, test = limit_dev(by_input(dev, given.asked))[0], by_input(test, given.asked)
    return Splits(train=train, dev=dev, test=test)


def assign_folds(
    labels: Sequence[str], groups: Sequence[int], num_folds: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """The fold of each row.

    Groups are placed one by one, the largest first, each where the sum over classes of squared counts grows least, then
    where fewest rows are. Where no row has a twin, the folds differ by at most one row in every class and, as far as
    that allows, in all.

    Args:
        labels: Of each row.
        groups: For each row its group; a group is never divided.
        num_folds: Folds.
        rng: The source of randomness.
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    twins = list(members.values())
    counts: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    folds = [0] * len(groups)
    for position in sorted(rng.permutation(len(twins)).tolist(), key=lambda position: -len(twins[position])):
        held = Counter(labels[row] for row in twins[position])
        chosen = min(range(num_folds), key=lambda fold: (_crowding(counts[fold], held), counts[fold].total()))
        counts[chosen].update(held)
        for row in twins[position]:
            folds[row] = chosen
    return tuple(folds)


def _crowding(fold: Counter[str], group: Counter[str]) -> int:
    """By how much the sum of squared class counts grows, but for what is the same in every fold."""
    return sum(fold[label] * count for label, count in group.items())
