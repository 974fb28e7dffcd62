"""Rows in, rows out: the user's own columns with the answers beside them."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunewright.data.examples import to_examples
from tunewright.data.tables import Table, read_table
from tunewright.errors import AdapterError, DataError
from tunewright.runs import write_text
from tunewright.types import Example, Prediction

_FORMATS = (".csv", ".tsv", ".jsonl")


def read_examples(path: str, about: Mapping[str, object], *, labelled: bool) -> tuple[Table, tuple[Example, ...]]:
    """The rows of a file, by the columns the adapter was trained on.

    Raises:
        DataError: The file cannot be used.
        AdapterError: The adapter does not say which columns it reads.
    """
    columns = about.get("columns")
    if not isinstance(columns, dict):
        raise AdapterError("the adapter does not say which columns it reads. Train it with `tunewright compare`.")
    table = read_table(path)
    return table, to_examples(table, columns, labelled=labelled)


def check_output(out: str | None) -> None:
    """Before any work: the format is known and nothing is overwritten.

    Raises:
        DataError: Another ending than csv, tsv or jsonl, or the file exists.
    """
    if out is None:
        return
    if Path(out).suffix not in _FORMATS:
        raise DataError(f"cannot write {out}: unknown ending {Path(out).suffix!r}. Allowed: {', '.join(_FORMATS)}.")
    if Path(out).exists():
        raise DataError(f"{out} exists. Choose another --out or remove it.")


def write_answers(
    table: Table, predictions: Sequence[Prediction], labels: Sequence[str], out: str | None, ending: str
) -> str | None:
    """The same rows with `predicted` and one `p_<label>` for each label.

    Args:
        table: What was read.
        predictions: In the rows' order.
        labels: In the probabilities' order.
        out: File to write; None returns the text.
        ending: `.csv`, `.tsv` or `.jsonl`.
    """
    names = _free("predicted", table.columns), [_free(f"p_{label}", table.columns) for label in labels]
    rows = [
        {**row, names[0]: p.label, **{n: round(v, 6) for n, v in zip(names[1], p.probabilities, strict=True)}}
        for row, p in zip(table.rows, predictions, strict=True)
    ]
    text = _jsonl(rows) if ending == ".jsonl" else _separated(rows, "\t" if ending == ".tsv" else ",")
    if out is None:
        return text
    write_text(Path(out), text)
    return None


def _free(name: str, taken: Sequence[str]) -> str:
    """A column name that the file does not have yet."""
    while name in taken:
        name += "_"
    return name


def _jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _separated(rows: Sequence[Mapping[str, object]], delimiter: str) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
