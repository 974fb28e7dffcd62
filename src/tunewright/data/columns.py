"""Which column is the text, its pair and the label or target: as given, else by name, else by rule; always said."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tunewright.data.formats import clip
from tunewright.data.tables import Table
from tunewright.errors import DataError, unknown
from tunewright.types import Notice, TaskKind

# fmt: off
TEXT_NAMES = (
    "text", "sentence", "question", "message", "review", "utterance", "query", "content", "body", "tweet",
    "comment", "document", "input", "post", "messages", "headline", "abstract", "description", "title", "statement",
    "phrase", "prompt", "premise", "sentence1", "question1", "text1", "text_a", "sentence_a",
)
# fmt: on
"""The first wins over all others; two of the others are ambiguous."""

# fmt: off
LABEL_NAMES = (
    "label", "labels", "intent", "class", "category", "target", "topic", "sentiment", "emotion", "tag",
    "output", "y", "gold", "rating", "polarity",
)
# fmt: on
"""As for the texts."""

# fmt: off
INPUT_NAMES = (
    "input", "mr", "meaning_representation", "source", "src", "instruction", "article", "code", "dialogue", "context",
    *(name for name in TEXT_NAMES if name != "input"),
)
TARGET_NAMES = (
    "target", "ref", "reference", "human_reference", "output", "answer", "response", "completion", "summary",
    "translation", "tgt", "highlights", "query_sql", "sql", "docstring", "answers", "reply",
)
# fmt: on
"""As for texts and labels, where texts are generated."""

PAIRS = (
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("claim", "evidence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
)
"""Names of texts that come in pairs."""

FEW = 100
"""By rule, a label column has 2 to this many distinct values, each twice on average."""

LONGEST = 1.5
"""By rule, the text column is this many times longer, on average, than any other."""

_FLAGS = {"text": "--text", "text_pair": "--text-pair", "label": "--label", "target": "--target"}
_LABELLED = {role: _FLAGS[role] for role in ("text", "text_pair", "label")}
_ROLES: Mapping[TaskKind, Mapping[str, str]] = {
    "classify": _LABELLED,
    "multi-label": _LABELLED,
    "choose": _LABELLED,
    "generate": {"text": "--input", "text_pair": "--text-pair", "target": "--target"},
}
"""Role -> the flag that names its column."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A column, and how it was found."""

    column: str
    how: str


def find_columns(table: Table, kind: TaskKind = "classify", **given: str | None) -> tuple[dict[str, str], Notice]:
    """Role (`text`, `text_pair`, `label` or `target`) -> column, and the sentence that says so.

    A name given wins; then names in use (`TEXT_NAMES`, `LABEL_NAMES`, `PAIRS`); then the rules: the text is the column
    with the longest cells, the label the only one with few distinct values. Where texts are generated, the target is
    the only other column with words.

    Args:
        table: The rows.
        kind: Of the task.
        given: Role -> column; None or absent for one that is to be found.

    Raises:
        DataError: Unknown column (nearest offered), one column for two roles, ambiguous, none found.
    """
    chosen = {role: Choice(column=name, how="as given") for role, name in given.items() if name is not None}
    check_columns(table, {role: choice.column for role, choice in chosen.items()}, _ROLES[kind])
    return _said(_searched(table, chosen, _ROLES[kind]))


def match_columns(
    table: Table, own: Mapping[str, str], *, given: Mapping[str, str]
) -> tuple[dict[str, str], Notice | None]:
    """The columns in which another table holds the same roles; the sentence where one had to be looked for.

    Args:
        table: The rows.
        own: Role -> column, as in training. Just these roles are filled.
        given: Role -> column that wins over the own one.

    Raises:
        DataError: As `find_columns`; or a role that the training had not.
    """
    for role in sorted(given.keys() - own.keys()):
        raise DataError(f"{_FLAGS[role]} has no use: there was no {role} in training, only {', '.join(own)}. Drop it.")
    chosen = {role: Choice(column=column, how="as given") for role, column in given.items()}
    free = _free(table, chosen)
    chosen |= {r: Choice(column=c, how="as in training") for r, c in own.items() if r not in given and c in free}
    check_columns(table, {role: choice.column for role, choice in chosen.items()})
    if chosen.keys() == own.keys():
        return {role: chosen[role].column for role in own}, None
    roles, said = _said(_searched(table, chosen, {role: _FLAGS[role] for role in own}))
    check_columns(table, {role: roles.get(role, column) for role, column in own.items()})
    return roles, said


def _searched(table: Table, chosen: dict[str, Choice], flags: Mapping[str, str]) -> dict[str, Choice]:
    """The choices with those of the other roles, by name or by rule."""
    if "target" not in flags and "text_pair" in flags and "text" not in chosen and "text_pair" not in chosen:
        chosen |= _pair_by_name(_free(table, chosen))
    for role, find in _SEARCH:
        choice = find(table, _free(table, chosen), flags) if role in flags and role not in chosen else None
        if choice is not None:
            chosen[role] = choice
    return chosen


def _said(chosen: Mapping[str, Choice]) -> tuple[dict[str, str], Notice]:
    roles = {role: chosen[role].column for role in _FLAGS if role in chosen}
    said = ", ".join(f"{role} = `{clip(column)}` ({chosen[role].how})" for role, column in roles.items())
    return roles, Notice(code="columns", message=f"Columns: {said}.", count=0)


def check_columns(table: Table, roles: Mapping[str, str], flags: Mapping[str, str] = _FLAGS) -> None:
    """Refuses columns that the table does not have.

    Args:
        table: The rows.
        roles: Role -> column.
        flags: Role -> flag, for the message.

    Raises:
        DataError: Unknown column, with the nearest name; or one column for two roles.
    """
    for role, column in roles.items():
        if column not in table.columns:
            raise no_column(table, column, f"Name it with {flags[role]}.")
    if len(set(roles.values())) < len(roles):
        said = ", ".join(f"{role} = {column!r}" for role, column in roles.items())
        raise DataError(f"{table.path}: one column for two roles: {said}. Each must be another column. Change a flag.")


def check_shown(tables: Iterable[Table], columns: Sequence[str]) -> None:
    """Refuses tables without a column that a template shows.

    Raises:
        DataError: With the nearest name.
    """
    for table in tables:
        for name in columns:
            if name not in table.columns:
                raise no_column(table, name, "The template shows it: each file needs it.")


def no_column(table: Table, column: str, todo: str) -> DataError:
    """The error for a column that a table lacks, with the nearest name."""
    return DataError(f"{table.path}: {unknown('column', column, map(clip, table.columns), todo=todo)}")


def _free(table: Table, chosen: Mapping[str, Choice]) -> list[str]:
    taken = {choice.column for choice in chosen.values()}
    return [column for column in table.columns if column not in taken]


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().casefold())


def _named(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Columns of the first name, or else of any."""
    columns = list(columns)
    best = [column for column in columns if _plain(column) == names[0]]
    return best or [column for column in columns if _plain(column) in names]


def _pair_by_name(free: list[str]) -> dict[str, Choice]:
    by_name = {_plain(column): column for column in free}
    for first, second in PAIRS:
        if first in by_name and second in by_name and ("text" not in by_name or first == "text"):
            return {
                "text": Choice(column=by_name[first], how="by name"),
                "text_pair": Choice(column=by_name[second], how="by name"),
            }
    return {}


def _by_name(role: str, table: Table, free: list[str], flags: Mapping[str, str]) -> Choice | None:
    texts = INPUT_NAMES if "target" in flags else TEXT_NAMES
    names = {"label": LABEL_NAMES, "target": TARGET_NAMES}.get(role, texts)
    return _only(table, role, _named(free, names), "by name", flags)


def _text_by_rule(table: Table, free: list[str], flags: Mapping[str, str]) -> Choice | None:
    answers = set(_named(free, TARGET_NAMES if "target" in flags else LABEL_NAMES))
    worded = [column for column in free if column not in answers and not _is_numeric(table, column)]
    lengths = {column: sum(len(row[column] or "") for row in table.rows) / len(table.rows) for column in worded}
    if not lengths:
        raise _none_found(table, "text", "no column holds words", flags)
    longest = max(lengths.values())
    rivals = [column for column, length in lengths.items() if length * LONGEST > longest]
    return _only(table, "text", rivals, f"by rule: the longest, {longest:.0f} characters on average", flags)


def _label_by_rule(table: Table, free: list[str], flags: Mapping[str, str]) -> Choice | None:
    distinct = {column: len(_values(table, column)) for column in free}
    most = min(FEW, len(table.rows) // 2)
    few = [column for column in free if 2 <= distinct[column] <= most]
    if not few:
        raise _none_found(table, "label", f"none is called so, none has 2 to {most} distinct values", flags)
    return _only(table, "label", few, f"by rule: {distinct[few[0]]} distinct values", flags)


def _target_by_rule(table: Table, free: list[str], flags: Mapping[str, str]) -> Choice | None:
    worded = [column for column in free if _values(table, column) and not _is_numeric(table, column)]
    if not worded:
        raise _none_found(table, "target", "none is called so, no other column holds words", flags)
    return _only(table, "target", worded, "by rule: the other column with words", flags)


def _only(table: Table, role: str, candidates: Sequence[str], how: str, flags: Mapping[str, str]) -> Choice | None:
    """The one candidate, or none.

    Raises:
        DataError: Several.
    """
    if len(candidates) > 1:
        shown = ", ".join(repr(clip(column)) for column in candidates)
        raise DataError(
            f"{table.path}: ambiguous {role} column. Got {len(candidates)} candidates: {shown}. "
            f"Choose one with {flags[role]}."
        )
    return Choice(column=candidates[0], how=how) if candidates else None


def _none_found(table: Table, role: str, why: str, flags: Mapping[str, str]) -> DataError:
    shown = ", ".join(repr(clip(column)) for column in table.columns)
    return DataError(f"{table.path}: no {role} column found: {why}. Columns: {shown}. Choose one with {flags[role]}.")


def _values(table: Table, column: str) -> set[str]:
    return {value for row in table.rows if (value := row[column]) is not None and value.strip()}


def _is_numeric(table: Table, column: str) -> bool:
    return all(_NUMBER.fullmatch(value.strip()) for value in _values(table, column))


_SEARCH: tuple[tuple[str, Callable[[Table, list[str], Mapping[str, str]], Choice | None]], ...] = (
    *((role, partial(_by_name, role)) for role in ("text", "label", "target")),
    ("text", _text_by_rule),
    ("label", _label_by_rule),
    ("target", _target_by_rule),
)
