"""Which rows belong together: those with one value of a column, or those that a rule such as `len>200` holds for.

Shapes: N rows.
"""

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.data.formats import clip, quoted
from tunewright.errors import ConfigError, unknown
from tunewright.types import Example, Notice

LENGTH = "len"
"""Stands for the characters of the text, or of both."""

FEWEST = 10
"""Rows of a value that is a slice of its own; below, an interval says nothing."""

MOST = 10
"""Slices of a column, `OTHER` included."""

OTHER, EMPTY = "other", "(empty)"

Members = Mapping[str, NDArray[np.int64]]
"""Name of a slice, such as `lang=de` or `len>200` -> positions of its rows."""

_OPERATORS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "<": (operator.lt, ">="),
    "<=": (operator.le, ">"),
    ">": (operator.gt, "<="),
    ">=": (operator.ge, "<"),
    "=": (operator.eq, "!="),
}
"""Sign -> what it asks, and the sign of its opposite."""

_RULE = re.compile(r"(?P<column>[^<>=]*)(?:(?P<sign><=|>=|<|>|==?)(?P<value>[^<>=]*))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A column to slice by all its values, or a condition on one."""

    column: str
    sign: str | None = None
    value: str = ""

    def __str__(self) -> str:
        return self.column if self.sign is None else f"{self.column}{self.sign}{self.value}"


def parse_rules(given: Sequence[str]) -> tuple[Rule, ...]:
    """The slices asked for.

    Raises:
        ConfigError: Every one that is no rule, or is there twice.
    """
    faults, rules = [], list[Rule]()
    for text in given:
        match = _RULE.fullmatch(text)
        column, sign, value = ("", None, "") if match is None else match.group("column", "sign", "value")
        rule = Rule(column=column.strip(), sign=sign and sign.replace("==", "="), value=(value or "").strip())
        needs_number = rule.sign not in (None, "=") or rule.column == LENGTH
        if not rule.column or (rule.sign and not rule.value) or (needs_number and number(rule.value) is None):
            faults.append(f"`slice` must be a column, or a rule such as len>200, amount<=9.5 or lang=de. Got {text!r}.")
        elif rule in rules:
            faults.append(f"`slice` names {str(rule)!r} twice. Name each once.")
        rules.append(rule)
    if faults:
        raise ConfigError(faults)
    return tuple(rules)


def check_fields(rules: Iterable[Rule], columns: Sequence[str], path: str) -> tuple[str, ...]:
    """The columns that rules ask for.

    Raises:
        ConfigError: Every one that the table does not have, with the nearest name.
    """
    wanted = tuple(dict.fromkeys(rule.column for rule in rules if rule.column != LENGTH))
    shown = [clip(name) for name in columns]
    todo = "Name it with --slice, or `len` for the characters of the text."
    faults = [f"{path}: {unknown('column', name, shown, todo=todo)}" for name in wanted if name not in columns]
    if faults:
        raise ConfigError(faults)
    return wanted


def slice_rows(rules: Iterable[Rule], rows: Sequence[Example]) -> tuple[tuple[Members, ...], tuple[Notice, ...]]:
    """The slices of each rule, and what was joined.

    Raises:
        ConfigError: Every rule that does not tell the rows apart, or compares numbers where there are none.
    """
    slicings, notices, faults = list[Members](), list[Notice](), list[str]()
    for rule in rules:
        try:
            members, said = _by_value(rule, rows) if rule.sign is None else (_by_condition(rule, rows), [])
        except ValueError as error:
            faults.append(str(error))
            continue
        slicings.append({name: np.array(found, dtype=np.int64) for name, found in members.items()})
        notices += said
    if faults:
        raise ConfigError(faults)
    return tuple(slicings), tuple(notices)


def _by_value(rule: Rule, rows: Sequence[Example]) -> tuple[dict[str, list[int]], list[Notice]]:
    """A slice for each value; those that are rare, or beyond the most frequent, are one."""
    values = [row.fields[rule.column].strip() or EMPTY for row in rows]
    ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    frequent = [value for value, count in ranked if count >= FEWEST and value != OTHER]
    kept = frequent[: MOST if len(frequent) == len(ranked) <= MOST else MOST - 1]
    joined = [value for value, _ in ranked if value not in kept]
    if len(joined) == 1:
        kept, joined = [*kept, *joined], []
    if len(kept) + bool(joined) < 2:
        what = "the same value" if len(ranked) == 1 else f"{len(ranked)} values, none of them in {FEWEST} rows"
        raise ValueError(
            f"`slice` {rule.column!r} does not tell the {len(rows)} test rows apart: they have {what}. "
            f"Choose another column, or a rule such as {rule.column}>100."
        )
    members = {f"{rule.column}={value}": [k for k, v in enumerate(values) if v == value] for value in kept}
    if not joined:
        return members, []
    members[f"{rule.column}={OTHER}"] = [k for k, value in enumerate(values) if value in joined]
    message = (
        f"{len(joined)} of {len(ranked)} values of {rule.column!r} in the test rows are reported together, as "
        f"{rule.column}={OTHER}: {quoted(joined)}."
    )
    return members, [Notice(code="joined-slices", message=message, count=len(joined))]


def _by_condition(rule: Rule, rows: Sequence[Example]) -> dict[str, list[int]]:
    """The rows that it holds for, and those that it does not; a row without a value is in neither."""
    assert rule.sign is not None
    holds, opposite = _OPERATORS[rule.sign]
    cells = [(k, _cell(rule, row)) for k, row in enumerate(rows)]
    given = [(k, cell) for k, cell in cells if cell]
    numbers = [(k, number(cell)) for k, cell in given]
    bound = number(rule.value)
    if rule.sign == "=" and (bound is None or any(number is None for _, number in numbers)):
        found = {k for k, cell in given if cell == rule.value}
    else:
        strange = [cell for (_, cell), (_, number) in zip(given, numbers, strict=True) if number is None]
        if strange:
            raise ValueError(f"`slice` {str(rule)!r} needs numbers in {rule.column!r}. Got {clip(strange[0])!r}.")
        found = {k for k, number in numbers if number is not None and bound is not None and holds(number, bound)}
    members = {str(rule): sorted(found)}
    members[f"{rule.column}{opposite}{rule.value}"] = [k for k, _ in given if k not in found]
    if not all(members.values()):
        raise ValueError(
            f"`slice` {str(rule)!r} does not tell the {len(rows)} test rows apart: it holds for {len(found)} of "
            f"{len(given)} that have a value. Choose another rule."
        )
    return members


def _cell(rule: Rule, row: Example) -> str:
    if rule.column == LENGTH:
        return str(len(row.text) + len(row.text_pair or ""))
    return row.fields[rule.column].strip()


def number(text: str) -> float | None:
    """A finite one; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
