"""Rows become examples one to one; missing texts and labels are named."""

import re
from dataclasses import replace

import pytest

from tunewright.data.examples import to_examples
from tunewright.data.tables import Table
from tunewright.errors import DataError
from tunewright.types import Example

COLUMNS = {"text": "message", "text_pair": "reply", "label": "intent"}


def table(*rows: dict[str, str | None]) -> Table:
    return Table(name="tickets", path="tickets.csv", columns=tuple(rows[0]), rows=rows)


def row(message: str | None = "m", reply: str | None = "r", intent: str | None = "i") -> dict[str, str | None]:
    return {"who": "me", "message": message, "reply": reply, "intent": intent}


def test_one_example_a_row_in_order() -> None:
    examples = to_examples(table(row("one", "1", " a "), row(" two ", "2", "b")), COLUMNS)
    assert examples == (
        Example(id="tickets:1", text="one", text_pair="1", label="a"),
        Example(id="tickets:2", text=" two ", text_pair="2", label="b"),
    )


def test_further_columns_are_kept_where_asked_for() -> None:
    (one, two) = to_examples(table(row("a"), {**row("b"), "who": None}), COLUMNS, fields=("who", "intent"))
    assert (one.fields, two.fields) == ({"who": "me", "intent": "i"}, {"who": "", "intent": "i"})
    assert to_examples(table(row("a")), COLUMNS)[0].fields == {}
    assert hash(one) == hash(replace(one, fields={}))
    assert one != replace(one, fields={})


def test_rows_to_predict_need_no_label_column() -> None:
    unlabelled = Table(name="t", path="t.csv", columns=("message",), rows=({"message": "x"},))
    columns = {"text": "message"}
    assert to_examples(unlabelled, columns, source="new") == (Example(id="new:1", text="x"),)
    with pytest.raises(DataError, match="unknown column 'intent'"):
        to_examples(unlabelled, {**columns, "label": "intent"})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(), row(message=""), row(message=" \n"), row(message=None)],
            r"missing texts in column 'message': 3 of 4 rows \(row 2, 3, 4\)\. Every row needs one\. Fill",
        ),
        ([row(), row(reply="")], r"missing texts in column 'reply': 1 of 2 rows \(row 2\)"),
        (
            [row(), *[row(intent=None)] * 9],
            r"missing labels in column 'intent': 9 of 10 rows \(row 2, 3, 4, 5, 6, \.\.\.\)",
        ),
        ([row(), row(intent="NaN")], r"missing labels in column 'intent': 1 of 2 rows \(row 2\)"),
    ],
)
def test_missing_cells(rows: list[dict[str, str | None]], message: str) -> None:
    with pytest.raises(DataError) as caught:
        to_examples(table(*rows), COLUMNS)
    assert re.search(message, str(caught.value))


def test_nan_is_a_text() -> None:
    assert to_examples(table(row(message="nan")), COLUMNS)[0].text == "nan"
