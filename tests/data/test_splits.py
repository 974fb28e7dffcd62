"""Laws of the split: a partition, no group on both sides, stratified, repeatable; and of the limit on rows."""

import hashlib
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.load import GIVE_FILES
from tunewright.data.splits import WEIGHTS, apportion, check_classes, check_train, limit_rows, rows_sha256, split_rows
from tunewright.errors import DataError
from tunewright.types import Example

LABELS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=80)
SEEDS = st.integers(0, 2**32)


def rows(labels: list[str] | str) -> list[Example]:
    return [Example(id=f"t:{number}", text=f"row {number}", label=label) for number, label in enumerate(labels, 1)]


def counts(examples: tuple[Example, ...]) -> Counter[str | None]:
    return Counter(example.label for example in examples)


@given(LABELS, SEEDS, st.data())
def test_partition_with_no_group_on_both_sides(labels: list[str], seed: int, data: st.DataObject) -> None:
    examples = rows(labels)
    groups = data.draw(st.lists(st.integers(0, 20), min_size=len(labels), max_size=len(labels)))
    splits = split_rows(examples, groups, WEIGHTS, np.random.default_rng(seed))
    group_of = {example.id: group for example, group in zip(examples, groups, strict=True)}
    order = {example.id: place for place, example in enumerate(examples)}
    assert sorted((example.id for split in splits.values() for example in split), key=order.__getitem__) == list(order)
    for split in splits.values():
        assert list(split) == sorted(split, key=lambda example: order[example.id])
    sides = [{group_of[example.id] for example in split} for split in splits.values()]
    assert sum(len(side) for side in sides) == len(set(groups))


@given(
    st.lists(st.integers(4, 40), min_size=1, max_size=4),
    SEEDS,
    st.sampled_from([WEIGHTS, {"train": 7, "dev": 1}, {"train": 7, "test": 2}]),
)
def test_each_class_within_one_row_of_its_share(classes: list[int], seed: int, weights: dict[str, int]) -> None:
    sizes = Counter(dict(zip("abcd", classes, strict=False)))
    labels = np.random.default_rng(seed).permutation(list(sizes.elements())).tolist()
    splits = split_rows(rows(labels), range(len(labels)), weights, np.random.default_rng(seed))
    for name, split in splits.items():
        for label, size in sizes.items():
            exact = Fraction(size * weights[name], sum(weights.values()))
            assert abs(counts(split)[label] - exact) <= 1
            assert counts(split)[label] >= 1


@given(st.lists(st.integers(1, 9), min_size=3, max_size=12), SEEDS)
def test_every_split_gets_each_class_whatever_the_group_sizes(sizes: list[int], seed: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    splits = split_rows(rows("a" * len(groups)), groups, WEIGHTS, np.random.default_rng(seed))
    assert all(splits.values())


def test_groups_do_not_unbalance_the_shares() -> None:
    labels = ["ab"[row % 2] for row in range(1000)]
    groups = [row // 4 * 2 + row % 2 if row < 400 else row + 1000 for row in range(1000)]  # 200 twins, 600 alone
    splits = split_rows(rows(labels), groups, WEIGHTS, np.random.default_rng(0))
    assert {name: counts(split) for name, split in splits.items()} == {
        "train": {"a": 350, "b": 350},
        "dev": {"a": 50, "b": 50},
        "test": {"a": 100, "b": 100},
    }


def test_same_seed_same_split_and_another_seed_another() -> None:
    examples = rows("ab" * 50)
    first, again, other = (split_rows(examples, range(100), WEIGHTS, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_classes_too_small_for_the_splits() -> None:
    examples = rows("aaaabbcccc")
    groups = [0, 1, 2, 3, 4, 5, 6, 6, 6, 7]
    with pytest.raises(DataError) as caught:
        check_classes(examples, groups, ["train", "dev", "test"], "t.csv", GIVE_FILES)
    assert str(caught.value) == (
        "t.csv: class 'b' has 2 rows, 'c' has 4 rows but only 2 different texts; need 3, one each for train, dev, "
        "test. Different means by more than case, punctuation and spaces. Add rows, merge or remove the class, or give "
        "the splits as files with --dev and --test."
    )
    check_classes(examples, groups, ["train", "dev"], "t.csv", GIVE_FILES)


def test_classes_left_without_a_training_row() -> None:
    examples = rows("aabbcdefghaa")
    check_train(examples, examples[:10], "t.csv")
    with pytest.raises(DataError) as caught:
        check_train(examples, examples[:3], "t.csv")
    said = str(caught.value)
    assert said.startswith("t.csv: the split left no training row for class 'c', 'd', 'e', 'f', 'g' and 1 more class:")
    assert "\n" not in said


@given(st.integers(0, 1000), st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(0, 1))
def test_apportion(total: int, weights: list[int], least: int) -> None:
    shares = apportion(total, weights, least=least)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        exact = Fraction(total * weight, sum(weights))
        if least == 0:
            assert abs(share - exact) < 1
        elif total >= len(weights):
            assert 1 <= share < exact + 1 or share == 1


@given(LABELS, st.integers(1, 90), SEEDS)
def test_limit_keeps_rows_of_every_class_in_order(labels: list[str], limit: int, seed: int) -> None:
    examples = rows(labels)
    kept = limit_rows(examples, limit, np.random.default_rng(seed))
    assert len(kept) == min(limit, len(examples))
    assert list(kept) == [example for example in examples if example in set(kept)]
    sizes = Counter(labels)
    if limit >= len(sizes):
        assert set(counts(kept)) == set(sizes)
    forced = sum(1 for size in sizes.values() if size * limit < len(labels))
    for label, size in sizes.items():
        exact = Fraction(size * min(limit, len(labels)), len(labels))
        assert exact - 1 - forced <= counts(kept)[label] <= exact + 1


def test_limit_chooses_at_random_but_repeatably() -> None:
    examples = rows("ab" * 100)
    first, again, other = (limit_rows(examples, 20, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert counts(first) == {"a": 10, "b": 10}


def test_hash_of_rows() -> None:
    assert rows_sha256(rows("ab")) == hashlib.sha256(b"t:1\nt:2").hexdigest()
