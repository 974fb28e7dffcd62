"""The file formats: text or parquet in, columns and rows of strings out.

Line numbers count physical lines from 1; row numbers count data rows from 1.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import DataError

Row = dict[str, str | None]
"""Column -> cell; None where the source has no value."""

Parsed = tuple[tuple[str, ...], tuple[Row, ...]]
"""Columns in the source's order, and the rows."""

CONVENTIONAL = re.compile(r"(?i)id|idx|index|text|sentence|question|message|review|label|intent|class|category|target")
"""Header cells that nobody would write in a first data row."""

_NUMBER = re.compile(r"\s*[+-]?\d+([.,]\d+)?\s*")


def parse_csv(text: str, path: str) -> Parsed:
    """Comma separated values; semicolons where the first line has them and no comma.

    Raises:
        DataError: No header, ragged row, quotes never closed; with the line number.
    """
    first = text.lstrip().partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    return _parse(text, path, delimiter, quoted=True)


def parse_tsv(text: str, path: str) -> Parsed:
    """Tab separated values, quoted as in csv where that reading works and merges no rows, else with plain quotes.

    Rows are merged where a quoted record spans lines that each have the header's number of cells by themselves. In an
    export, a cell of several lines leaves lines that are too short; in GLUE and its like, where a quote is a character,
    one text may open it and a later one close it. A first line that starts with a quote settles for quoting.

    Raises:
        DataError: As for csv; or lines that could be one row or several, where the plain reading fails or there is one
            column only.
    """
    try:
        quoted = _parse(text, path, "\t", quoted=True)
    except DataError:
        return _parse(text, path, "\t", quoted=False)
    merged = None if text.lstrip("\r\n").startswith('"') else _merged_rows(text, path)
    if merged is None:
        return quoted
    try:
        columns, rows = _parse(text, path, "\t", quoted=False)
    except DataError:
        raise _one_or_several(path, merged) from None
    if len(columns) == 1:
        raise _one_or_several(path, merged)
    return columns, rows


def _merged_rows(text: str, path: str) -> int | None:
    """First line of the first quoted record of several lines that each look like a row; None without one."""
    widths = {line: len(cells) for line, cells in _cells(text, path, "\t", quoted=False)}
    width = next(iter(widths.values()))
    starts = [line for line, _ in _cells(text, path, "\t", quoted=True)]
    for start, end in pairwise([*starts, max(widths) + 1]):
        inside = [widths[line] for line in range(start, end) if line in widths]
        if len(inside) > 1 and set(inside) == {width}:
            return start
    return None


def _one_or_several(path: str, line: int) -> DataError:
    return DataError(
        f"{path}, line {line}: a quote opens here and closes on a later line: one row or several? Allowed: a first "
        "line in quotes where quotes hold a cell together, or no quote at the start of a cell. Mend it, or use .jsonl."
    )


def _parse(text: str, path: str, delimiter: str, *, quoted: bool) -> Parsed:
    lines = _cells(text, path, delimiter, quoted=quoted)
    _, header = next(lines)
    least = max((place for place, name in enumerate(header, 1) if name.strip()), default=len(header))
    records: list[list[str]] = []
    for line, cells in lines:
        if not least <= len(cells) <= len(header):
            raise DataError(
                f"{path}, line {line}: got {len(cells)} cells, want {len(header)} as in the header. "
                "Quote cells that hold the separator, or mend the line."
            )
        records.append(cells + [""] * (len(header) - len(cells)))
    used = _used_columns(header, records)
    header = [header[place] for place in used]
    rows: list[Row] = [dict(zip(header, [cells[place] for place in used], strict=True)) for cells in records]
    _check_header(header, rows, path)
    return tuple(header), tuple(rows)


def _used_columns(header: Sequence[str], records: Sequence[Sequence[str]]) -> list[int]:
    """Places of the columns with a name or a value; a separator at the end of a line leaves one with neither."""
    places = range(len(header))
    used = [k for k in places if header[k].strip() or any(cells[k].strip() for cells in records)]
    return used if any(name.strip() for name in header) else list(places)


def _cells(text: str, path: str, delimiter: str, *, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """First line number and cells of each record; blank lines are left out."""
    # Raised and never lowered: cells of every format are checked in one place, with one message.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    file = io.StringIO(text, newline="")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: quotes not closed or not doubled ({error}). "
            'Allowed: "a cell with ""quotes"" in it". Mend the line.'
        ) from None


def _check_header(header: Sequence[str], rows: Sequence[Row], path: str) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    fault = _data_in_header(header, rows)
    if fault is not None:
        raise DataError(
            f"{path} has no header: {fault}. The first line must name the columns. Add a line such as `text,label`."
        )
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is in the header twice. Column names must differ. Rename one.")


def _data_in_header(header: Sequence[str], rows: Sequence[Row]) -> str | None:
    """Why the first line looks like data, or None.

    An empty first name over row numbers is the index pandas writes, not a missing header.
    """
    for position, name in enumerate(header):
        indexed = position == 0 and all(str(row[name]).isdigit() for row in rows) and len(header) > 1
        if not name.strip() and not indexed:
            return f"cell {position + 1} of the first line is empty"
        if _NUMBER.fullmatch(name):
            return f"cell {position + 1} of the first line is the number {name.strip()}"
    if any(CONVENTIONAL.fullmatch(name.strip()) for name in header):
        return None
    for name in header:
        if any(row[name] == name for row in rows):
            return f"its first line holds {clip(name)!r}, which is also a value of that column"
    return None


def parse_jsonl(text: str, path: str) -> Parsed:
    """One JSON object a line; columns are all keys in order of first appearance.

    Raises:
        DataError: A line that is not JSON or not an object, with its number.
    """
    columns: dict[str, None] = {}
    records = [_record(line, number, path) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for record in records:
        columns.update(dict.fromkeys(record))
    return tuple(columns), tuple({column: cell(record.get(column)) for column in columns} for record in records)


def _record(line: str, number: int, path: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: not JSON ({error}). Allowed: one JSON object a line.") from None
    if not isinstance(record, dict):
        raise DataError(
            f"{path}, line {number}: got a JSON {type(record).__name__}, want an object such as "
            '{"text": "...", "label": "..."}. Write one object a line.'
        )
    return record


def read_parquet(file: Path) -> Parsed:
    """A parquet file.

    Raises:
        DataError: Not parquet, or two columns of one name.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(file, partitioning=None)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file} is not a parquet file: {reason}. Write it again, or name it by its format.") from None
    columns = tuple(str(name) for name in content.column_names)
    if len(set(columns)) < len(columns):
        raise DataError(f"{file} has two columns of one name: {', '.join(columns)}. Rename one.")
    values = [column.to_pylist() for column in content.columns]
    return columns, tuple(dict(zip(columns, map(cell, row), strict=True)) for row in zip(*values, strict=True))


def cell(value: object) -> str | None:
    """A typed value as the string that a csv would hold; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def quoted(names: Iterable[str], shown: int = 5) -> str:
    """The first names in quotes and how many more there are, for messages."""
    ordered = sorted(set(names))
    said = ", ".join(repr(clip(name)) for name in ordered[:shown])
    return said if len(ordered) <= shown else f"{said} and {len(ordered) - shown} more"


def clip(text: str, length: int = 40) -> str:
    """At most that many characters, for messages."""
    return text if len(text) <= length else text[: length - 3] + "..."
