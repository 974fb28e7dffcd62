"""A table of strings, read from one file and checked cell by cell."""

import difflib
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunewright.data.formats import Parsed, Row, parse_csv, parse_jsonl, parse_tsv, read_parquet
from tunewright.errors import DataError, counted
from tunewright.types import Notice

MAX_CELL_CHARACTERS = 1_000_000
"""A longer cell is a mistake of the export (a quote never closed, a whole file in one cell), not a text."""

TEXT_FORMATS: dict[str, Callable[[str, str], Parsed]] = {".csv": parse_csv, ".tsv": parse_tsv, ".jsonl": parse_jsonl}

SUFFIXES = (*TEXT_FORMATS, ".parquet")

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows as they stand in the source, all columns kept."""

    name: str
    """Stem of the file: `tickets` of `data/tickets.csv`."""
    path: str
    """The file as the user wrote it, for messages."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: tuple[int, ...] | None = None
    """The rows' numbers in the source, where empty ones were left out; None stands for 1, 2, ..."""
    num_empty: int = 0
    """Rows that were left out because every cell is empty."""

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number in the source."""
        return zip(range(1, len(self.rows) + 1) if self.numbers is None else self.numbers, self.rows, strict=True)


def read_table(path: str) -> Table:
    """A csv, tsv, jsonl or parquet file; the suffix tells which.

    Raises:
        DataError: Missing or empty file, unknown suffix, not UTF-8, NUL bytes, no header, ragged or malformed lines,
            a cell above `MAX_CELL_CHARACTERS`.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise missing_file(path)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES or not file.is_file():
        got = f"suffix {file.suffix!r}" if file.is_file() else "a folder"
        raise DataError(f"cannot read {path}: got {got}. Allowed: a {', '.join(SUFFIXES)} file. Convert it first.")
    columns, rows = _parsed(file, suffix, path)
    if not rows:
        raise DataError(f"{path} has no data rows: only {', '.join(columns) or 'blank lines'}. Add rows.")
    table = Table(name=file.stem, path=path, columns=columns, rows=rows)
    check_cells(table)
    return without_empty_rows(table)


def without_empty_rows(table: Table) -> Table:
    """The table without the rows that spreadsheets leave at the end; one of nothing else stays, to be refused."""
    kept = [(number, row) for number, row in table.numbered() if any(cell and cell.strip() for cell in row.values())]
    if len(kept) in (0, len(table.rows)):
        return table
    numbers, rows = zip(*kept, strict=True)
    return replace(table, numbers=numbers, rows=rows, num_empty=len(table.rows) - len(kept))


def empty_rows(tables: Iterable[Table]) -> list[Notice]:
    """How many rows were left out because they are empty."""
    num_empty = sum(table.num_empty for table in tables)
    message = f"{counted(num_empty, 'row is', 'rows are')} empty in all columns and left out."
    return [Notice(code="empty-rows", message=message, count=num_empty)] if num_empty else []


def typed_rows(table: Table) -> Sequence[Mapping[str, Any]]:
    """The rows as their file holds them: those of jsonl with numbers, lists and objects."""
    file = Path(table.path).expanduser()
    if file.suffix.lower() != ".jsonl":
        return table.rows
    lines = file.read_bytes().decode("utf-8-sig").split("\n")
    records = [json.loads(line) for line in lines if line.strip()]
    return [records[number - 1] for number, _ in table.numbered()]


def missing_file(path: str) -> DataError:
    """The error for a path that leads nowhere, with the nearest name in its folder."""
    file = Path(path).expanduser()
    if not file.parent.is_dir():
        return DataError(f"no such file: {path}. There is no folder {file.parent} either. Check the path.")
    names = sorted(entry.name for entry in file.parent.iterdir())
    near = difflib.get_close_matches(file.name, names, n=1, cutoff=0.6)
    hint = f" Did you mean {file.parent / near[0]}?" if near else ""
    return DataError(f"no such file: {path}.{hint} Allowed: a {', '.join(SUFFIXES)} file, or a folder of them.")


def _parsed(file: Path, suffix: str, path: str) -> Parsed:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Check the file's rights.") from None
    if not content.removeprefix(_BOM).strip():
        raise DataError(f"{path} is empty. It must hold a header and rows. Check the export.")
    if suffix == ".parquet":
        return read_parquet(file)
    return TEXT_FORMATS[suffix](_decode(content, path), path)


def _decode(content: bytes, path: str) -> str:
    """UTF-8 text without its byte order mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is not UTF-8: byte 0 starts UTF-16. {_converted('utf-16', path)}")
    nul = content.find(b"\0")
    if nul in (0, 1) and 0 not in content[1 - nul : _HEAD : 2] and not any(content[nul:_HEAD:2]):
        name = "utf-16le" if nul == 1 else "utf-16be"
        raise DataError(f"{path} is not UTF-8: it looks like {name}, every other byte is 0. {_converted(name, path)}")
    if nul >= 0:
        raise DataError(f"{path} holds a NUL byte at byte {nul}: not a text file. Export it again as UTF-8 text.")
    body = content.removeprefix(_BOM)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + len(content) - len(body)
        fault = f"{path} is not UTF-8: byte {offset} is 0x{body[error.start]:02x}"
        raise DataError(f"{fault}{_looks_like(body, error.start, path)}") from None


_HEAD = 200
"""Bytes that show UTF-16 without a byte order mark, in which every other one of western text is 0."""
_AROUND = 12


def _looks_like(body: bytes, start: int, path: str) -> str:
    """The encoding a file that is no UTF-8 probably has, shown by the text around the byte, and how to convert it."""
    try:
        body.decode("cp1252")
    except UnicodeDecodeError:
        return ". Save it as UTF-8 (iconv -f ITS-ENCODING -t utf-8)."
    around = body[max(0, start - _AROUND) : start + _AROUND].decode("cp1252", "replace").split("\n")
    shown = next(part for part in around if not part.isascii())
    return f". It looks like windows-1252, as {shown.strip()!r}. {_converted('windows-1252', path)}"


def _converted(encoding: str, path: str) -> str:
    new = str(Path(path).with_stem(f"{Path(path).stem}-utf8"))
    return f"Save it as UTF-8: iconv -f {encoding} -t utf-8 {shlex.quote(path)} > {shlex.quote(new)}"


def check_cells(table: Table) -> None:
    """Refuses cells that no tokenizer should see.

    Raises:
        DataError: A cell above `MAX_CELL_CHARACTERS`, or with a NUL or half a surrogate pair (JSON escapes).
    """
    for number, row in enumerate(table.rows, 1):
        for column, value in row.items():
            if value is not None and (len(value) > MAX_CELL_CHARACTERS or not _is_text(value)):
                raise _bad_cell(table, number, column, value)


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _bad_cell(table: Table, number: int, column: str, value: str) -> DataError:
    where = f"{table.path}, row {number}, column {column!r}"
    if len(value) > MAX_CELL_CHARACTERS:
        return DataError(
            f"{where}: a cell of {len(value)} characters. Allowed: at most {MAX_CELL_CHARACTERS}. Shorten or remove it."
        )
    return DataError(f"{where}: a NUL or half a surrogate pair in the text. Allowed: Unicode text. Remove it.")
