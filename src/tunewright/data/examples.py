"""From a table's rows to examples, once the columns are known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunewright.data.chats import conversations, plain_text
from tunewright.data.columns import check_columns
from tunewright.data.formats import clip
from tunewright.data.tables import Table
from tunewright.errors import DataError, unknown
from tunewright.types import Example

_ANSWERS = {"label": "labels", "target": "targets"}
"""Role of what is to be answered -> its name in an error."""

SHOWN = 5
"""Row numbers named in an error."""


def to_examples(
    table: Table,
    columns: Mapping[str, str],
    *,
    source: str | None = None,
    fields: Sequence[str] = (),
    several: bool = False,
    reasoning: str | None = None,
) -> tuple[Example, ...]:
    """One example for each row, in order: `table.rows[i]` still holds all columns of example i.

    Args:
        table: The rows.
        columns: Role (`text`, `text_pair`, `label`, `target`) -> column, as in `Dataset.columns`; without label and
            target where these are to be predicted.
        source: First part of the ids, `<source>:<1-based row>`; the table's name when None.
        fields: Further columns to keep, which the table has.
        several: Whether a row may have several labels, or none.
        reasoning: Column of the reasoning; an empty cell is none. Where it is the target's column, see `separated`.

    Raises:
        DataError: A column that the table lacks; missing or empty texts or labels, with count and first row numbers;
            malformed messages.
    """
    check_columns(table, columns)
    for role, column in columns.items():
        if not (several and role == "label"):
            _check_filled(table, role, column)
    name = table.name if source is None else source
    chats = conversations(table, columns["text"])
    examples = tuple(
        Example(
            id=f"{name}:{number}",
            text=plain_text(messages) if messages else str(row[columns["text"]]),
            messages=messages,
            text_pair=str(row[columns["text_pair"]]) if "text_pair" in columns else None,
            label=str(row[columns["label"]] or "").strip() if "label" in columns else None,
            target=str(row[columns["target"]]).strip() if "target" in columns else None,
            references=(str(row[columns["target"]]).strip(),) if "target" in columns else (),
            reasoning=None if reasoning is None else (str(row[reasoning] or "").strip() or None),
            fields={column: str(row[column] or "") for column in fields},
        )
        for (number, row), messages in zip(table.numbered(), chats, strict=True)
    )
    return separated(examples, table.path) if reasoning is not None and reasoning == columns.get("target") else examples


def check_reasoning(table: Table, column: str | None, columns: Mapping[str, str]) -> None:
    """Refuses a column that the training rows lack, or that is their text or label.

    Raises:
        DataError: With the columns there are.
    """
    taken = {name for role, name in columns.items() if role != "target"}
    if column is not None and (column not in table.columns or column in taken):
        allowed = [clip(name) for name in table.columns if name not in taken]
        raise DataError(f"{table.path}: {unknown('column', column, allowed, todo='Name it with --reasoning.')}")


MARK = "####"
"""Stands between reasoning and answer where one column holds both (Cobbe et al. 2021, GSM8K)."""


def separated(examples: Sequence[Example], path: str) -> tuple[Example, ...]:
    """Rows whose target is what follows the last mark, and whose reasoning is what stands before it.

    Raises:
        DataError: Rows without a mark or without an answer behind it.
    """
    parts = [str(example.target).rpartition(MARK) for example in examples]
    missing = [example.id for example, (_, mark, answer) in zip(examples, parts, strict=True) if not (mark and answer)]
    if missing:
        raise DataError(
            f"{path}: reasoning and target in one column are parted by {MARK}. Got {len(missing)} of {len(examples)} "
            f"rows without it ({', '.join(missing[:SHOWN])}). Mend them, or name another column "
            "(--reasoning in training, --target later)."
        )
    return tuple(
        replace(example, reasoning=before.strip() or None, target=answer.strip(), references=(answer.strip(),))
        for example, (before, _, answer) in zip(examples, parts, strict=True)
    )


def _check_filled(table: Table, role: str, column: str) -> None:
    missing = [number for number, row in table.numbered() if not _is_filled(row[column], role)]
    if missing:
        what = _ANSWERS.get(role, "texts")
        raise DataError(
            f"{table.path}: missing {what} in column {column!r}: {len(missing)} of {len(table.rows)} rows "
            f"({first_rows(missing)}). Every row needs one. Fill or remove these rows."
        )


def first_rows(numbers: Sequence[int]) -> str:
    """Numbers of the first few rows, for a message."""
    return f"row {', '.join(map(str, numbers[:SHOWN]))}{', ...' if len(numbers) > SHOWN else ''}"


def _is_filled(value: str | None, role: str) -> bool:
    """A NaN is how some exports write a missing label or target; as a text it may be meant."""
    return value is not None and value.strip() not in (("", "nan", "NaN") if role in _ANSWERS else ("",))
