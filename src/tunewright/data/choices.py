"""Rows with candidates of their own: columns as candidates, and which of them a label means."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tunewright.data.columns import no_column
from tunewright.data.examples import SHOWN, first_rows
from tunewright.data.formats import clip
from tunewright.data.tables import Table
from tunewright.errors import ConfigError, DataError
from tunewright.types import Example, Notice

FEWEST = 2


def without_choices(table: Table, columns: Sequence[str]) -> Table:
    """The table as the other roles see it.

    Raises:
        ConfigError: Fewer than two columns are named, or one twice.
        DataError: A column that the table lacks.
    """
    if len(columns) < FEWEST or len(set(columns)) < len(columns):
        got = ", ".join(columns) if columns else "none"
        raise ConfigError(
            f"`choices` must name {FEWEST} or more different columns with --task choose. Got {got}. "
            "Give them as --choices choice1,choice2."
        )
    for column in columns:
        if column not in table.columns:
            raise no_column(table, column, "Name them with --choices.")
    return replace(table, columns=tuple(name for name in table.columns if name not in columns))


def to_choices(examples: Sequence[Example], table: Table, columns: Sequence[str]) -> tuple[tuple[Example, ...], Notice]:
    """The rows with their candidates, and with numbers from 1 on as labels; the sentence that says how they were read.

    Labels are the texts of candidates where every row's label is one of its own, else names of the columns where all
    are, else positions counted from 0.

    Args:
        examples: Of the table, in order; without labels where they are to be predicted.
        table: The rows.
        columns: Of the candidates, in order.

    Raises:
        DataError: A candidate is empty, two of a row are equal, or a label means none of them.
    """
    texts = [tuple((row[column] or "").strip() for column in columns) for row in table.rows]
    _refuse(table, texts, "an empty candidate", lambda row: not all(row))
    _refuse(table, texts, "equal candidates", lambda row: len(set(row)) < len(row))
    rows = [replace(example, choices=found) for example, found in zip(examples, texts, strict=True)]
    how, read = _reading([row for row in rows if row.label is not None], columns)
    labels = [None if row.label is None else read(row) for row in rows]
    wrong = [row for row, label in zip(rows, labels, strict=True) if row.label is not None and label is None]
    if wrong:
        shown = ", ".join(f"{row.id}: {clip(str(row.label))!r}" for row in wrong[:SHOWN])
        raise DataError(
            f"{table.path}: {len(wrong)} of {len(rows)} labels mean none of the {len(columns)} candidates ({shown}). "
            f"Allowed: positions 0 to {len(columns) - 1}, or in all rows texts of candidates or names of columns. "
            "Mend them, or choose another column with --label."
        )
    message = f"Candidates of each row: {', '.join(map(clip, columns))}; labels are read as {how}."
    found = tuple(replace(row, label=label) for row, label in zip(rows, labels, strict=True))
    return found, Notice(code="choices", message=message, count=len(rows))


def _reading(rows: Sequence[Example], columns: Sequence[str]) -> tuple[str, Callable[[Example], str | None]]:
    """How the labels of these rows are read, and a label's number by that; None for one that means nothing."""
    by_name: Mapping[str, int] = {name: number for number, name in enumerate(columns, 1)}
    by_position = {str(number - 1): number for number in by_name.values()}
    if all(row.label in row.choices for row in rows):
        return "texts of candidates", lambda row: str(1 + row.choices.index(str(row.label)))
    named = all(row.label in by_name for row in rows)
    numbers = by_name if named else by_position
    how = "names of columns" if named else f"positions from 0 to {len(columns) - 1}"
    return how, lambda row: str(numbers[str(row.label)]) if row.label in numbers else None


def _refuse(
    table: Table, texts: Sequence[tuple[str, ...]], what: str, is_wrong: Callable[[tuple[str, ...]], bool]
) -> None:
    numbers = [number for (number, _), row in zip(table.numbered(), texts, strict=True) if is_wrong(row)]
    if numbers:
        raise DataError(
            f"{table.path}: {len(numbers)} of {len(texts)} rows have {what} ({first_rows(numbers)}). Every row needs "
            "as many different candidates as there are columns. Mend or remove these rows."
        )
