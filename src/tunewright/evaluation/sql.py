"""Whether a query answers as the right one does: both are run, and what they find is compared.

Shapes: N rows.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Value = str | bytes | int | float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What came of a query; of its rows only as much as comparing them takes, for many queries are kept."""

    in_order: bytes = b""
    """Hash of the rows as they came."""
    in_any_order: bytes = b""
    """Hash of them as a multiset."""
    fault: str | None = None
    """Why it found nothing, in few words; the same for all queries with the same fault."""


Execute = Callable[[str], Found]
"""Runs a query, which changes nothing and ends."""

_DIGITS = 9
"""Significant digits in which two numbers must agree: sums of the same rows depend on their order."""


def found(rows: Sequence[tuple[Value, ...]]) -> Found:
    """Of rows: equal hashes where they are equal, numbers as numbers."""
    hashes = [hashlib.sha256(repr([*map(_plain, row)]).encode()).digest() for row in rows]
    in_order, in_any_order = (hashlib.sha256(b"".join(each)).digest() for each in (hashes, sorted(hashes)))
    return Found(in_order=in_order, in_any_order=in_any_order)


def stats(execute: Execute, answers: Sequence[str], references: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
    """1 where the answer finds the rows that a reference finds: [N, 1].

    Execution accuracy (Yu et al. 2018, "Spider", section 5): rows as a multiset, in their order where the reference
    orders them; columns by position. A query that fails is wrong, and so is every answer to a reference that fails.
    """
    rows = zip(answers, references, strict=True)
    return np.array([[any(_agree(execute, given, right) for right in rights)] for given, rights in rows], np.float32)


def faults(execute: Execute, queries: Sequence[str]) -> tuple[str, ...]:
    """How many queries failed, fault by fault, the most frequent first."""
    counts = Counter(fault for query in queries if (fault := execute(query).fault) is not None)
    return tuple(f"{count} of {len(queries)} queries {fault}" for fault, count in counts.most_common())


def _agree(execute: Execute, given: str, right: str) -> bool:
    theirs, ours = execute(right), execute(given)
    if theirs.fault is not None or ours.fault is not None:
        return False
    return ours.in_order == theirs.in_order if _is_ordered(right) else ours.in_any_order == theirs.in_any_order


def _is_ordered(query: str) -> bool:
    """Whether the outermost query sorts what it finds: strings, comments and all in brackets apart."""
    plain = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", " ", query, flags=re.DOTALL)
    while (shorter := re.sub(r"\([^()]*\)", " ", plain)) != plain:
        plain = shorter
    return re.search(r"\border\s+by\b", plain, re.IGNORECASE) is not None


def _plain(value: Value) -> Value:
    """A number in the digits that count, a whole one as an integer: equal ones then read the same."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
