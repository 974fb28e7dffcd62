"""Columns as candidates, and which of them a label means."""

import json
from pathlib import Path

import pytest

from tests.commands import write_table
from tunewright.config import RunConfig
from tunewright.data.choices import to_choices, without_choices
from tunewright.data.load import load_dataset
from tunewright.data.tables import Table
from tunewright.errors import ConfigError, DataError
from tunewright.types import Example, chosen_text

COLUMNS = ("a", "b", "c")


def table(*rows: tuple[str, str, str]) -> Table:
    cells: tuple[dict[str, str | None], ...] = tuple(
        dict(zip(("text", *COLUMNS), ("t", *row), strict=True)) for row in rows
    )
    return Table(name="d", path="d.csv", columns=("text", *COLUMNS), rows=cells)


def labels(given: list[str | None], *rows: tuple[str, str, str]) -> tuple[list[str | None], str]:
    examples = [Example(id=f"d:{k}", text="t", label=label) for k, label in enumerate(given, 1)]
    found, said = to_choices(examples, table(*rows), COLUMNS)
    assert [each.choices for each in found] == list(rows)
    return [each.label for each in found], said.message


def test_a_label_is_a_text_a_column_or_a_position() -> None:
    """In this order, each for all rows of a file or for none."""
    fruits, numbers = ("fig", "plum", "pear"), ("0", "2", "1")
    assert labels(["plum", "fig"], fruits, fruits) == (
        ["2", "1"], "Candidates of each row: a, b, c; labels are read as texts of candidates.",
    )  # fmt: skip
    assert labels(["c", "a"], fruits, fruits)[0] == ["3", "1"]
    assert labels(["0", "2"], fruits, fruits) == (
        ["1", "3"], "Candidates of each row: a, b, c; labels are read as positions from 0 to 2.",
    )  # fmt: skip
    assert labels(["1", "2"], numbers, numbers)[0] == ["3", "2"]
    assert labels(["1", "2"], numbers, fruits)[0] == ["2", "3"]
    assert labels([None, None], fruits, numbers)[0] == [None, None]
    assert chosen_text(Example(id="d:1", text="t", choices=fruits), "3") == "pear"
    assert chosen_text(Example(id="d:1", text="t"), "3") == "3"


@pytest.mark.parametrize("label", ["3", "-1", "d", "plum", "01"])
def test_a_label_that_means_nothing_is_refused(label: str) -> None:
    with pytest.raises(DataError, match=rf"d\.csv: 1 of 2 labels mean none of the 3 candidates \(d:2: '{label}'\)"):
        labels(["0", label], ("fig", "plum", "pear"), ("fig", "pea", "pear"))


@pytest.mark.parametrize(
    ("row", "said"), [(("fig", " ", "pear"), "an empty candidate"), (("fig", "pear", "fig "), "equal candidates")]
)
def test_a_row_without_a_choice_is_refused(row: tuple[str, str, str], said: str) -> None:
    with pytest.raises(DataError, match=rf"d\.csv: 1 of 2 rows have {said} \(row 2\)"):
        to_choices([Example(id="d:1", text="t")] * 2, table(("fig", "plum", "pear"), row), COLUMNS)


def test_columns_are_checked() -> None:
    rows = table(("fig", "plum", "pear"))
    assert without_choices(rows, COLUMNS).columns == ("text",)
    with pytest.raises(DataError, match=r"d\.csv: unknown column 'bb'.*--choices"):
        without_choices(rows, ("a", "bb"))
    for columns, got in (((), "none"), (("a",), "a"), (("a", "a"), "a, a")):
        with pytest.raises(ConfigError, match=rf"2 or more different columns.*Got {got}\."):
            without_choices(rows, columns)


def test_a_dataset_of_candidates(tmp_path: Path) -> None:
    """Positions are the labels, though one is never right; the same premise with other candidates is no conflict."""
    rows = [
        ("same text" if k < 2 else f"row {'abcdefghij'[k % 10] * 9}{k}", f"good {k}", f"bad {k}", "1")
        for k in range(30)
    ]
    path = write_table(tmp_path / "d.csv", ("premise", "choice1", "choice2", "label"), rows)
    found = load_dataset(RunConfig(data=str(path), task="choose", choices=("choice1", "choice2"), text="premise"))
    assert (found.task.labels, found.task.kind, found.task.metric) == (("1", "2"), "choose", "accuracy")
    every = [*found.splits.train, *found.splits.dev, *found.splits.test]
    assert {each.label for each in every} == {"2"}
    assert sorted(each.choices for each in every) == sorted((good, bad) for _, good, bad, _ in rows)
    assert not {"conflicting-labels", "duplicates"} & {notice.code for notice in found.notices}
    assert "choices" in {notice.code for notice in found.notices}
    lines = [
        {**dict(zip(("premise", "choice1", "choice2", "label"), row, strict=True)), "choice1": "new"} for row in rows
    ]
    other = tmp_path / "d.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    changed = load_dataset(RunConfig(data=str(other), task="choose", choices=("choice1", "choice2"), text="premise"))
    assert changed.sha256 != found.sha256
