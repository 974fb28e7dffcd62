"""Answers of anything else to the test rows: today's system, a rule, a person, a vendor's service."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from tunewright.data.chats import REPLY, conversations, plain_text, with_reply
from tunewright.data.formats import Row, quoted
from tunewright.data.sets import to_sets
from tunewright.data.tables import Table, read_table
from tunewright.errors import ConfigError, DataError, counted
from tunewright.types import BETWEEN_LABELS, Example, Prediction, Task, is_known

ANSWER_NAMES = ("predicted", "prediction", "answer")
"""Columns of the answer, also with a `_` behind, as `predict` names it where the name is taken."""

SHOWN = 3
"""Rows named in an error."""

SUM_TOLERANCE = 0.01
"""What rounding may take from a sum of probabilities."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROW_COLUMNS = ("id", "text", "text_pair", "label", "target", "references")
"""Of test.jsonl."""

Key = tuple[str, ...]
"""What tells a row: its id, or its texts with white space as single spaces."""


def named_files(given: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Name -> file, of each `NAME=FILE`.

    Args:
        given: As typed.
        taken: Names of methods.

    Raises:
        ConfigError: Not NAME=FILE, a name that is taken or that is unsafe as a folder's; every fault at once.
    """
    found: dict[str, str] = {}
    faults: list[str] = []
    used = {name.casefold() for name in taken}
    for item in given:
        name, file = (part.strip() for part in item.partition("=")[::2])
        if not file:
            faults.append(f"`predictions` must be NAME=FILE. Got {item!r}. Write --predictions today=answers.csv.")
        elif not _NAME.fullmatch(name):
            faults.append(
                f"`predictions`: the name {name!r} is no safe folder name. Allowed: at most 64 letters, digits, '.', "
                "'_' and '-', a letter or digit first. Rename it."
            )
        elif name.casefold() in used:
            faults.append(f"`predictions`: the name {name!r} is taken by a method or another file. Choose another.")
        found[name] = file
        used.add(name.casefold())
    if faults:
        raise ConfigError(faults)
    return found


def read_outside(
    files: Mapping[str, str],
    rows: Sequence[Example],
    task: Task,
    columns: Mapping[str, str],
    separator: str | None = None,
) -> dict[str, tuple[Prediction, ...]]:
    """Name -> answers to the rows, in their order; without probabilities where the file has none, or labels are sets.

    A file names its rows by `id`, or by their texts; then rows that were not asked for are left aside.

    Args:
        files: Name -> csv, tsv, jsonl or parquet file.
        rows: To be answered, each exactly once.
        task: Whether they are labels, and which.
        columns: Role -> column of the data.
        separator: Between the labels of an answer with several, as in the data.

    Raises:
        ConfigError: With all faults of all files.
    """
    found: dict[str, tuple[Prediction, ...]] = {}
    faults: list[str] = []
    for name, path in files.items():
        try:
            given = _Given(read_table(path), rows, columns, task, separator)
        except DataError as error:
            faults.append(str(error))
            continue
        wrong = given.faults()
        faults += [f"{path}: {fault}" for fault in wrong]
        found[name] = () if wrong else given.predictions()
    if faults:
        raise ConfigError(faults)
    return found


class _Given:
    """What a file says of the rows.

    Raises:
        DataError: It has no column that names the rows, or none or several that may be the answer.
    """

    def __init__(
        self, table: Table, rows: Sequence[Example], columns: Mapping[str, str], task: Task, separator: str | None
    ) -> None:
        self._labels, self._kind = task.labels, task.kind
        several = task.kind == "multi-label"
        if columns.get("target") == REPLY:
            table = with_reply(table, columns["text"], (REPLY,))
        keys = _key_columns(table, rows, columns)
        chats = zip(*(conversations(table, column) for column in keys), strict=True)
        answer = _answer_column(table, keys, columns)
        shares = [] if several else [f"p_{label}" for label in task.labels]
        self._chances = [column for column in shares if column in table.columns]
        self._again = [c for c in table.columns if c not in shares and c.endswith("_") and c.rstrip("_") in shares]
        lines: dict[Key, list[Row]] = {}
        for line, said in zip(table.rows, chats, strict=True):
            if several or (line[answer] or "").strip():
                parts = (plain_text(chat) if chat else line[column] for chat, column in zip(said, keys, strict=True))
                lines.setdefault(_key(parts), []).append(line)
        asked = {row.id: _key([row.id] if keys == ["id"] else [row.text, row.text_pair][: len(keys)]) for row in rows}
        self._unknown = sorted(key[0] for key in lines.keys() - asked.values()) if keys == ["id"] else []
        self._lines = {row: lines.get(key, []) for row, key in asked.items()}
        cells = {row: [(line[answer] or "").strip() for line in found] for row, found in self._lines.items()}
        if several:
            made = partial(_as_set, labels=task.labels, separator=separator, path=table.path)
            cells = {row: [made(cell, row) for cell in found] for row, found in cells.items()}
        self._answers = {row: set(found) for row, found in cells.items()}
        self._choices = {row.id: row.choices for row in rows if task.kind == "choose"}

    def faults(self) -> list[str]:
        """Why not every row has exactly one usable answer; empty where each has."""
        of = f"of {len(self._answers)} test rows have"
        said = (
            (
                [row for row, found in self._answers.items() if not found],
                f"{of} no answer%s. Each needs one: for a row that is left open, write the answer that would be given, "
                "such as the most common label or the input itself.",
            ),
            (
                [row for row, found in self._answers.items() if len(found) > 1],
                f"{of} answers that differ%s. Keep one for each; the column `id` of test.jsonl tells apart rows of one "
                "text.",
            ),
            (
                self._unknown,
                f"{'id is' if len(self._unknown) == 1 else 'ids are'} of no test row%s. Take them from test.jsonl of a "
                "run folder, or name rows by their texts.",
            ),
        )
        faults = [f"{len(rows)} {sentence % _first(rows)}" for rows, sentence in said if rows]
        strange = {row: unknown for row in self._answers if (unknown := self._unknown_in(row))}
        if strange and self._kind != "generate":
            got = quoted({answer for unknown in strange.values() for answer in unknown})
            what, allowed = "label of the task", f"{quoted(self._labels)}. Write the labels as in the data."
            if self._choices:
                what, allowed = "candidate of the row", "the text of one of its candidates, as `predict` writes it."
            faults.append(
                f"{len(strange)} {of} an answer that is no {what}{_first([*strange])}: {got}. Allowed: {allowed}"
            )
        return faults + self._chance_faults()

    def _unknown_in(self, row: str) -> set[str]:
        """Answers to a row that are none."""
        answers = self._answers[row]
        if self._kind == "multi-label":
            return {answer for answer in answers if not is_known(answer, self._labels)}
        return answers - set(self._choices.get(row, self._labels))

    def _chance_faults(self) -> list[str]:
        if self._again:
            todo = "Keep those of one answer, and name them p_<label>."
            return [f"probabilities of a second answer: {quoted(self._again)}. {todo}"]
        if not self._chances:
            return []
        lacking = [f"p_{label}" for label in self._labels if f"p_{label}" not in self._chances]
        if lacking:
            todo = "Add them, or leave out all columns p_<label>."
            return [f"probabilities of some labels alone: no column {quoted(lacking)}. {todo}"]
        wrong = [row for row, found in self._lines.items() if found and not self._shares(found[0])]
        fault = f"the probabilities of {counted(len(wrong), 'test row')} are not from 0 to 1 with a sum of 1"
        return [f"{fault}{_first(wrong)}. Mend them, or leave out the columns p_<label>."] if wrong else []

    def _shares(self, line: Row) -> tuple[float, ...]:
        """Probabilities of a line; empty where there are none, or none that can be used."""
        try:
            values = [float(line[column] or "nan") for column in self._chances]
        except ValueError:
            return ()
        total = math.fsum(values)
        is_usable = all(0 <= value <= 1 for value in values) and abs(total - 1) <= SUM_TOLERANCE
        return tuple(value / total for value in values) if is_usable else ()

    def predictions(self) -> tuple[Prediction, ...]:
        """One for each row, where there is no fault."""
        given = {row: next(iter(found)) for row, found in self._answers.items()}
        if self._kind == "generate":
            return tuple(Prediction(id=row, text=text) for row, text in given.items())
        if self._choices:
            given = {row: self._labels[self._choices[row].index(text)] for row, text in given.items()}
        return tuple(
            Prediction(id=row, label=label, probabilities=self._shares(self._lines[row][0]))
            for row, label in given.items()
        )


def _key(parts: Iterable[str | None]) -> Key:
    return tuple(" ".join((part or "").split()) for part in parts)


def _as_set(cell: str, row: str, *, labels: Sequence[str], separator: str | None, path: str) -> str:
    """The labels of a cell as the data's are written, or as `predict` writes them; none in an empty one."""
    if cell in labels:  # whatever stands in its name
        return cell
    between = BETWEEN_LABELS if BETWEEN_LABELS in cell else separator
    return str(to_sets([Example(id=row, text="", label=cell)], between, path)[0].label)


def _first(ids: Sequence[str]) -> str:
    return f" (first: {', '.join(ids[:SHOWN])})"


def _key_columns(table: Table, rows: Sequence[Example], columns: Mapping[str, str]) -> list[str]:
    """The columns that name a row: `id` where it holds ids of ours, else the texts."""
    roles = [role for role in ("text", "text_pair") if role in columns]
    texts = next((t for t in ([columns[role] for role in roles], roles) if set(t) <= set(table.columns)), None)
    ids = {row.id for row in rows}
    if "id" in table.columns and (texts is None or any((line["id"] or "").strip() in ids for line in table.rows)):
        return ["id"]
    if texts is None:
        wanted = " and ".join(f"`{columns[role]}`" for role in roles)
        raise DataError(
            f"{table.path}: no column names the rows. Got {quoted(table.columns)}. Needed: `id`, as in test.jsonl of a "
            f"run folder, or {wanted}, as in the data. Add it."
        )
    return texts


def _answer_column(table: Table, keys: Sequence[str], columns: Mapping[str, str]) -> str:
    """By name, else the only other column; true labels are no answers."""
    known = {*keys, *_ROW_COLUMNS, *columns.values()}
    others = [column for column in table.columns if column not in known and not column.startswith("p_")]
    named = [column for column in others if column.strip().casefold().rstrip("_") in ANSWER_NAMES]
    if len(named) > 1:
        raise DataError(
            f"{table.path}: several columns are answers. Got {quoted(named)}. Allowed: one. Keep one of them, and "
            "its own p_<label>."
        )
    found = named or others
    if len(found) != 1:
        raise DataError(
            f"{table.path}: which column is the answer? Got {quoted(table.columns)}. Allowed: "
            f"{', '.join(ANSWER_NAMES)}, or a single column beside the rows' own. Name it `predicted`."
        )
    return found[0]


def answers_sha256(predictions: Iterable[Prediction]) -> str:
    """Hash of answers: a resumed run must have those it began with."""
    lines = [json.dumps((each.id, each.answer, each.probabilities)) for each in predictions]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
