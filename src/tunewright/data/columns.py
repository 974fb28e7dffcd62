"""Which column is the text, its pair and the label: as given, else by name, else by rule; always said aloud."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tunewright.data.formats import clip
from tunewright.data.tables import Table
from tunewright.errors import DataError, unknown
from tunewright.types import Notice

# fmt: off
TEXT_NAMES = (
    "text", "sentence", "question", "message", "review", "utterance", "query", "content", "body", "tweet",
    "comment", "document", "input", "post", "headline", "abstract", "description", "title", "statement",
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

_FLAGS = {"text": "--text", "text_pair": "--text-pair", "label": "--label"}
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A column, and how it was found."""

    column: str
    how: str


def find_columns(
    table: Table, *, text: str | None = None, text_pair: str | None = None, label: str | None = None
) -> tuple[dict[str, str], Notice]:
    """Role (`text`, `text_pair`, `label`) -> column, and the sentence that says so.

    A name given wins; then names in use (`TEXT_NAMES`, `LABEL_NAMES`, `PAIRS`); then the rules: the text is the column
    with the longest cells, the label the only one with few distinct values.

    Raises:
        DataError: Unknown column (nearest offered), one column for two roles, ambiguous, none found.
    """
    given = {"text": text, "text_pair": text_pair, "label": label}
    chosen = {role: Choice(column=name, how="as given") for role, name in given.items() if name is not None}
    check_columns(table, {role: choice.column for role, choice in chosen.items()})
    return _said(_searched(table, chosen, _FLAGS))


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
    roles, said = _said(_searched(table, chosen, own))
    check_columns(table, {role: roles.get(role, column) for role, column in own.items()})
    return roles, said


def _searched(table: Table, chosen: dict[str, Choice], roles: Iterable[str]) -> dict[str, Choice]:
    """The choices with those of the other roles, by name or by rule."""
    wanted = set(roles)
    if "text_pair" in wanted and "text" not in chosen and "text_pair" not in chosen:
        chosen |= _pair_by_name(_free(table, chosen))
    for role, find in _SEARCH:
        choice = find(table, _free(table, chosen)) if role in wanted and role not in chosen else None
        if choice is not None:
            chosen[role] = choice
    return chosen


def _said(chosen: Mapping[str, Choice]) -> tuple[dict[str, str], Notice]:
    roles = {role: chosen[role].column for role in _FLAGS if role in chosen}
    said = ", ".join(f"{role} = `{clip(column)}` ({chosen[role].how})" for role, column in roles.items())
    return roles, Notice(code="columns", message=f"Columns: {said}.", count=0)


def check_columns(table: Table, roles: Mapping[str, str]) -> None:
    """Refuses columns that the table does not have.

    Raises:
        DataError: Unknown column, with the nearest name; or one column for two roles.
    """
    for role, column in roles.items():
        if column not in table.columns:
            shown = [clip(name) for name in table.columns]
            raise DataError(f"{table.path}: {unknown('column', column, shown, todo=f'Name it with {_FLAGS[role]}.')}")
    if len(set(roles.values())) < len(roles):
        said = ", ".join(f"{role} = {column!r}" for role, column in roles.items())
        raise DataError(f"{table.path}: one column for two roles: {said}. Each must be another column. Change a flag.")


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


def _text_by_name(table: Table, free: list[str]) -> Choice | None:
    return _only(table, "text", _named(free, TEXT_NAMES), "by name")


def _label_by_name(table: Table, free: list[str]) -> Choice | None:
    return _only(table, "label", _named(free, LABEL_NAMES), "by name")


def _text_by_rule(table: Table, free: list[str]) -> Choice | None:
    labels = set(_named(free, LABEL_NAMES))
    lengths = {column: _mean_length(table, column) for column in free if column not in labels}
    lengths = {column: length for column, length in lengths.items() if length > 0 and not _is_numeric(table, column)}
    if not lengths:
        raise _none_found(table, "text", "no column holds words")
    longest = max(lengths.values())
    rivals = [column for column, length in lengths.items() if length * LONGEST > longest]
    return _only(table, "text", rivals, f"by rule: the longest, {longest:.0f} characters on average")


def _label_by_rule(table: Table, free: list[str]) -> Choice | None:
    distinct = {column: len(_values(table, column)) for column in free}
    most = min(FEW, len(table.rows) // 2)
    few = [column for column in free if 2 <= distinct[column] <= most]
    if not few:
        raise _none_found(table, "label", f"none is called so, none has 2 to {most} distinct values")
    return _only(table, "label", few, f"by rule: {distinct[few[0]]} distinct values")


def _only(table: Table, role: str, candidates: Sequence[str], how: str) -> Choice | None:
    """The one candidate, or none.

    Raises:
        DataError: Several.
    """
    if len(candidates) > 1:
        shown = ", ".join(repr(clip(column)) for column in candidates)
        raise DataError(
            f"{table.path}: ambiguous {role} column. Got {len(candidates)} candidates: {shown}. "
            f"Choose one with {_FLAGS[role]}."
        )
    return Choice(column=candidates[0], how=how) if candidates else None


def _none_found(table: Table, role: str, why: str) -> DataError:
    shown = ", ".join(repr(clip(column)) for column in table.columns)
    return DataError(f"{table.path}: no {role} column found: {why}. Columns: {shown}. Choose one with {_FLAGS[role]}.")


def _values(table: Table, column: str) -> set[str]:
    return {value for row in table.rows if (value := row[column]) is not None and value.strip()}


def _mean_length(table: Table, column: str) -> float:
    return sum(len(row[column] or "") for row in table.rows) / len(table.rows)


def _is_numeric(table: Table, column: str) -> bool:
    return all(_NUMBER.fullmatch(value.strip()) for value in _values(table, column))


_SEARCH = (("text", _text_by_name), ("label", _label_by_name), ("text", _text_by_rule), ("label", _label_by_rule))
