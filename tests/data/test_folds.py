"""Laws of the folds: every row held out once a repeat, no twin of it to learn from, stratified, repeatable."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.commands import write_table
from tunewright.config import RunConfig
from tunewright.data.folds import Fold, assign_folds, split_folds
from tunewright.data.load import read_rows
from tunewright.errors import ConfigError, DataError
from tunewright.types import Dataset, Example

LABELS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=80)
SEEDS = st.integers(0, 2**32)
REPEATS, FOLDS = 2, 4


@given(LABELS, st.integers(2, 6), SEEDS, st.data())
def test_no_group_is_divided(labels: list[str], num_folds: int, seed: int, data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 20), min_size=len(labels), max_size=len(labels)))
    folds = assign_folds(labels, groups, num_folds, np.random.default_rng(seed))
    assert len(folds) == len(labels)
    assert set(folds) <= set(range(num_folds))
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))


@given(LABELS, st.integers(2, 6), SEEDS)
def test_each_class_within_one_row_in_every_fold(labels: list[str], num_folds: int, seed: int) -> None:
    folds = assign_folds(labels, range(len(labels)), num_folds, np.random.default_rng(seed))
    for label, count in Counter(labels).items():
        held = [
            sum(f == fold and own == label for f, own in zip(folds, labels, strict=True)) for fold in range(num_folds)
        ]
        assert sum(held) == count
        assert max(held) - min(held) <= 1


@given(st.lists(st.integers(1, 4), min_size=4, max_size=30), SEEDS)
def test_twins_of_one_class_leave_no_fold_behind_by_more_than_the_largest_group(sizes: list[int], seed: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    folds = Counter(assign_folds(["a"] * len(groups), groups, 4, np.random.default_rng(seed)))
    held = [folds[fold] for fold in range(4)]
    assert max(held) - min(held) <= max(sizes)


def test_rare_classes_do_not_pile_up_in_the_first_folds() -> None:
    """77 classes of 6 rows: each has one row too many for five folds."""
    labels = [f"class {k % 77}" for k in range(6 * 77)]
    folds = Counter(assign_folds(labels, range(len(labels)), 5, np.random.default_rng(0)))
    assert max(folds.values()) - min(folds.values()) <= 2


# --- from a file ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """40 texts; one in three of them once more with another end, one in five once more in capitals."""
    rows = [
        (f"{e.text} and so on for quite a while, they said {k}", str(e.label)) for k, e in enumerate(tiny.examples(40))
    ]
    near = [(f"{text}!! yes", label) for text, label in rows[::3]]
    exact = [(text.upper(), label) for text, label in rows[::5]]
    data = write_table(tmp_path_factory.mktemp("folds") / "d.csv", ("text", "label"), [*rows, *near, *exact])
    return RunConfig(data=str(data), folds=FOLDS, repeats=REPEATS)


@pytest.fixture(scope="module")
def found(config: RunConfig) -> tuple[Dataset, tuple[Fold, ...]]:
    return split_folds(read_rows(config), config, FOLDS)


def are_twins(one: Example, other: Example) -> bool:
    """By the definition, without the shortcuts: Jaccard similarity of sets of four characters."""
    a, b = (re.sub(r"\d+", "0", " ".join(re.findall(r"\w+", row.text.casefold()))) for row in (one, other))
    shingles, others = ({text[k : k + 4] for k in range(len(text) - 3)} for text in (a, b))
    return len(shingles & others) / len(shingles | others) >= 0.85


def test_every_row_is_held_out_once_in_each_repeat(found: tuple[Dataset, tuple[Fold, ...]]) -> None:
    dataset, folds = found
    assert [(fold.repeat, fold.number) for fold in folds] == [(r, f) for r in range(REPEATS) for f in range(FOLDS)]
    ids = [row.id for row in dataset.splits.test]
    assert len(set(ids)) == len(ids) == 62
    for repeat in range(REPEATS):
        held_out = [row.id for fold in folds if fold.repeat == repeat for row in fold.splits.test]
        assert sorted(held_out) == sorted(ids)
    parts = [{frozenset(row.id for row in f.splits.test) for f in folds if f.repeat == r} for r in range(REPEATS)]
    assert parts[0] != parts[1]


def test_no_held_out_row_and_no_twin_of_one_is_learned_from(found: tuple[Dataset, tuple[Fold, ...]]) -> None:
    """Row by row, every pair compared."""
    dataset, folds = found
    twins = {(a.id, b.id) for a, b in combinations(dataset.splits.test, 2) if are_twins(a, b)}
    assert len(twins) >= 20
    for fold in folds:
        train, dev, test = ([row.id for row in rows] for rows in (fold.splits.train, fold.splits.dev, fold.splits.test))
        assert sorted(train + dev + test) == sorted(row.id for row in dataset.splits.test)
        place = {row: name for name, rows in (("train", train), ("dev", dev), ("test", test)) for row in rows}
        assert all(place[a] == place[b] for a, b in twins)
        assert all(rows == sorted(rows, key=lambda row: int(row.split(":")[1])) for rows in (train, dev, test))
    final = {row.id: "train" for row in dataset.splits.train} | {row.id: "dev" for row in dataset.splits.dev}
    assert set(final) == {row.id for row in dataset.splits.test}
    assert all(final[a] == final[b] for a, b in twins)


def test_folds_are_stratified(found: tuple[Dataset, tuple[Fold, ...]]) -> None:
    """Groups are of at most three rows."""
    dataset, folds = found
    for label, count in Counter(row.label for row in dataset.splits.test).items():
        for fold in folds:
            held = sum(row.label == label for row in fold.splits.test)
            assert abs(held - count / FOLDS) <= 2
            assert (
                0
                < sum(row.label == label for row in fold.splits.dev)
                < sum(row.label == label for row in fold.splits.train)
            )


def test_same_seed_same_folds_and_another_seed_others(
    config: RunConfig, found: tuple[Dataset, tuple[Fold, ...]]
) -> None:
    assert split_folds(read_rows(config), config, FOLDS) == found
    other = config.model_copy(update={"seed": 1})
    assert split_folds(read_rows(other), other, FOLDS)[1] != found[1]


def test_rows_limit_the_training_rows_of_each_fold(config: RunConfig, found: tuple[Dataset, tuple[Fold, ...]]) -> None:
    few = config.model_copy(update={"rows": 12})
    dataset, folds = split_folds(read_rows(few), few, FOLDS)
    assert len(dataset.splits.train) == 12
    for fold, whole in zip(folds, found[1], strict=True):
        assert len(fold.splits.train) == 12
        assert {row.label for row in fold.splits.train} == {"food", "travel", "music"}
        assert set(fold.splits.train) < set(whole.splits.train)
        assert (fold.splits.dev, fold.splits.test) == (whole.splits.dev, whole.splits.test)


def test_given_splits_are_refused(config: RunConfig) -> None:
    both = config.model_copy(update={"test": config.data})
    with pytest.raises(ConfigError) as caught:
        split_folds(read_rows(both), both, FOLDS)
    assert str(caught.value) == (
        "`folds` takes its dev and test rows from the data. Got 4 folds and 62 test rows besides. "
        "Leave those out, or use --folds 1."
    )


def test_a_class_of_fewer_rows_than_folds(tmp_path: Path) -> None:
    rows = [(f"text number {'abcdefghij'[k % 10] * 9} {k}", "common") for k in range(10)]
    rare = [("one of three", "rare"), ("two of them", "rare"), ("and a third", "rare"), ("AND A THIRD!", "rare")]
    config = RunConfig(data=str(write_table(tmp_path / "d.csv", ("text", "label"), rows + rare)), folds=4)
    with pytest.raises(DataError) as caught:
        split_folds(read_rows(config), config, 4)
    said = str(caught.value)
    assert (
        "class 'rare' has 4 rows but only 3 different texts; need 4, one each for fold 1, fold 2, fold 3, fold 4."
        in said
    )
    assert said.endswith("Add rows, merge or remove the class, or use fewer --folds.")
    assert "\n" not in said
    assert len(split_folds(read_rows(config), config, 3)[1]) == 3
