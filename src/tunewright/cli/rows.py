"""Rows in, rows out: the user's own columns with the answers beside them."""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunewright.data.chats import REPLY, with_reply
from tunewright.data.choices import to_choices, without_choices
from tunewright.data.columns import check_shown, match_columns
from tunewright.data.examples import to_examples
from tunewright.data.formats import quoted
from tunewright.data.sets import strata, to_sets
from tunewright.data.tables import Table, empty_rows, read_table, typed_rows
from tunewright.errors import AdapterError, DataError, RunError, counted
from tunewright.files import write_text
from tunewright.runs.shipped import recommended
from tunewright.types import Example, Prediction

_FORMATS = (".csv", ".tsv", ".jsonl")


def read_examples(
    path: str, about: Mapping[str, object], given: Mapping[str, str | None], shown: Sequence[str] = ()
) -> tuple[Table, tuple[Example, ...]]:
    """The rows of a file, by the columns the adapter was trained on; others are said on stderr.

    Args:
        path: The file.
        about: The adapter's provenance.
        given: Role -> column of this file, None for the adapter's own. Roles that are not in it are not read.
        shown: Further columns, which the adapter's template shows.

    Raises:
        DataError: The file cannot be used.
        AdapterError: The adapter does not say which columns it reads.
    """
    columns = about.get("columns")
    if not isinstance(columns, dict):
        raise AdapterError("the adapter does not say which columns it reads. Train it with `tunewright compare`.")
    table = read_table(path)
    check_shown([table], shown)
    for notice in empty_rows([table]):
        print(f"note: {notice.message}", file=sys.stderr)
    own = {role: str(column) for role, column in columns.items() if role in given}
    choices = choice_columns(about)
    asked, is_reply = without_choices(table, choices) if choices else table, "reply_behind" in about
    if is_reply:
        asked = with_reply(table, given.get("text") or str(columns["text"]), (REPLY,))
    found, said = match_columns(asked, own, given={role: name for role, name in given.items() if name is not None})
    if said is not None:
        print(f"note: {said.message}", file=sys.stderr)
    several, mark = "label_separator" in about, about.get("target_behind")
    target = found.get("target")
    is_parted = mark is not None and target is not None and any(str(mark) in str(row[target]) for row in table.rows)
    examples = to_examples(
        asked if is_reply else table, found, several=several, reasoning=target if is_parted else None, fields=shown
    )
    if choices:
        examples, read = to_choices(examples, table, choices)
        if "label" in found:
            print(f"note: {read.message}", file=sys.stderr)
    between = about.get("label_separator")
    return table, to_sets(examples, None if between is None else str(between), path) if several else examples


def choice_columns(about: Mapping[str, object]) -> tuple[str, ...]:
    """Columns of each row's own candidates in training; none where there were none."""
    found = about.get("choices")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def check_labels_known(examples: Sequence[Example], known: Sequence[str], path: str) -> None:
    """Refuses rows of which none has a label of the adapter: every score on them would be nought.

    Raises:
        DataError: With the labels of both.
    """
    labels = {label for example in examples for label in strata(example)}
    if not labels & set(known):
        raise DataError(
            f"{path}: no row has a label the adapter knows. Got {quoted(labels)}. Allowed: {quoted(known)}. "
            "Write the labels as in training, or choose another column with --label."
        )


def check_adapter(path: Path) -> None:
    """Refuses a folder above those of the adapters, a run's or a method's, and names one of them.

    Raises:
        AdapterError: With what the run recommends, else the first of them; and their number.
    """
    levels = ("seed-*", "*/seed-*", "adapters/*/seed-*")
    found = [folder.parent for level in levels for folder in sorted(path.glob(f"{level}/adapter.json"))]
    if found and not (path / "adapter.json").exists():
        choice = f"one of them: {found[0]}"
        with contextlib.suppress(RunError):
            best = recommended(path)
            choice = next((f"the recommended one: {folder}" for folder in found if folder.resolve() == best), choice)
        raise AdapterError(f"{path} is no adapter folder, but {len(found)} below it are, one a seed. Give {choice}.")


def warn_cut(ids: Sequence[str], count: int) -> None:
    """Says on stderr how many of a file's texts are cut, and the first of them."""
    if ids:
        of = f"of {count:,} texts"
        one, many = f"{of} is longer than the model takes and was", f"{of} are longer than the model takes and were"
        print(f"warning: {counted(len(ids), one, many)} cut (first: {', '.join(ids[:5])})", file=sys.stderr)


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


def write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Writes rows as csv, tsv or jsonl, by the file's ending."""
    write_text(path, _written(rows, path.suffix))


def write_answers(
    table: Table,
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    out: str | None,
    ending: str,
    *,
    choices: Sequence[str] = (),
) -> str | None:
    """The same rows with `predicted` and one `p_<label>` for each label; from jsonl to jsonl, numbers stay numbers.

    A name that a column of the file has gets a `_` behind it, which is said on stderr.

    Args:
        table: What was read.
        predictions: In the rows' order.
        labels: In the probabilities' order.
        out: File to write; None returns the text.
        ending: `.csv`, `.tsv` or `.jsonl`.
        choices: Columns of the rows' own candidates: `predicted` is then the chosen text, and `p_` goes by column.
    """
    wanted = ["predicted", *(f"p_{name}" for name in choices or labels)]
    names = [_free(name, table.columns) for name in wanted]
    if taken := [name for name in wanted if name in table.columns]:
        said = f"the file already has {quoted(taken)}; the new ones are {quoted({*names} - {*wanted})}"
        print(f"note: {said}", file=sys.stderr)
    columns = dict(zip(labels, choices, strict=True)) if choices else {}
    given = typed_rows(table) if ending == ".jsonl" else table.rows
    rows = [
        {
            **row,
            names[0]: row[columns[p.answer]] if columns else p.answer,
            **{n: round(v, 6) for n, v in zip(names[1:], p.probabilities, strict=True)},
        }
        for row, p in zip(given, predictions, strict=True)
    ]
    text = _written(rows, ending)
    if out is None:
        return text
    write_text(Path(out), text)
    return None


def _free(name: str, taken: Sequence[str]) -> str:
    """A column name that the file does not have yet."""
    while name in taken:
        name += "_"
    return name


def _written(rows: Sequence[Mapping[str, object]], ending: str) -> str:
    if ending == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    buffer, delimiter = io.StringIO(), "\t" if ending == ".tsv" else ","
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
