"""Cells as sets of labels, and splits that have every label on all sides."""

from collections import Counter

import numpy as np
import pytest

from tunewright.data.sets import check_sets, label_counts, set_notices, strata, to_sets
from tunewright.data.splits import split_rows
from tunewright.errors import DataError
from tunewright.types import Example, label_set


def rows(*cells: str) -> list[Example]:
    return [Example(id=f"t:{k}", text=f"text {k}", label=cell) for k, cell in enumerate(cells, 1)]


def labels(cells: list[str], separator: str | None = None) -> list[str | None]:
    return [each.label for each in to_sets(rows(*cells), separator, "d.csv")]


def test_a_cell_is_a_set() -> None:
    """Each label once, in one order; lists are JSON; numbers sort as numbers."""
    assert labels(["joy,love", "love , joy, joy", "", '["love", "joy"]', "[10, 9]", "10,9", "[]"]) == [
        "joy|love", "joy|love", "", "joy|love", "9|10", "9|10", "",
    ]  # fmt: skip
    assert labels(["joy; sad, very"], ";") == ["joy|sad, very"]
    assert [label_set(str(each)) for each in labels(["joy,love", ""])] == [("joy", "love"), ()]
    assert to_sets([Example(id="t:1", text="t")], None, "d.csv")[0].label is None


@pytest.mark.parametrize(
    ("cell", "said"), [("a|b,c", "cannot be part of one"), ("[joy", "no list"), ('[{"a": 1}]', "no list")]
)
def test_what_is_no_set_is_refused(cell: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"d\.csv: .*t:1.*{said}"):
        labels([cell])


def test_what_leaves_nothing_to_decide_is_refused() -> None:
    with pytest.raises(DataError, match=r"all training rows have the same labels: 'a\|b'"):
        check_sets(to_sets(rows("a,b", "b,a"), None, "d.csv"), "d.csv")


def test_what_is_noticed() -> None:
    several = {each.code: each for each in set_notices(to_sets(rows("a,b", "", *["a"] * 10), None, "d.csv"))}
    assert {code: each.count for code, each in several.items()} == {"label-sets": 12, "empty-sets": 1, "rare-labels": 1}
    assert "1.00 labels" in several["label-sets"].message
    single = {each.code for each in set_notices(to_sets(rows(*["a", "b"] * 12), None, "d.csv"))}
    assert single == {"label-sets", "single-labels"}


def test_every_label_is_on_all_sides() -> None:
    """Stratified by each label: within two rows of its share, also where labels hang together."""
    rng = np.random.default_rng(0)
    cells = [",".join(np.array(list("abcd"))[rng.random(4) < [0.5, 0.3, 0.2, 0.08]]) for _ in range(300)]
    made = to_sets(rows(*cells), None, "d.csv")
    split = split_rows(made, range(300), {"train": 7, "dev": 1, "test": 2}, rng)
    assert sorted(e.id for part in split.values() for e in part) == sorted(e.id for e in made)
    whole = label_counts(made)
    for name, weight in (("train", 7), ("dev", 1), ("test", 2)):
        for label, count in label_counts(split[name]).items():
            assert abs(count - whole[label] * weight / 10) <= 2
        assert set(label_counts(split[name])) == set("abcd")
    assert Counter(strata(each) for each in made)[("",)] > 0
