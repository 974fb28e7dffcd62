"""Whether a query answers as the right one does: both are run, and what they find is compared.

Shapes: N rows.
"""

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
    """What came of a query."""

    rows: tuple[tuple[Value, ...], ...] = ()
    fault: str | None = None
    """Why it found nothing, in few words; the same for all queries with the same fault."""


Execute = Callable[[str], Found]
"""Runs a query, which changes nothing and ends."""

_DIGITS = 9
"""Significant digits in which two numbers must agree: sums of the same rows depend on their order."""


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
    wanted, found = execute(right), execute(given)
    if wanted.fault is not None or found.fault is not None:
        return False
    ours, theirs = ([tuple(map(_rounded, row)) for row in each.rows] for each in (found, wanted))
    return ours == theirs if _is_ordered(right) else Counter(ours) == Counter(theirs)


def _is_ordered(query: str) -> bool:
    """Whether the outermost query sorts what it finds: strings, comments and all in brackets apart."""
    plain = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", " ", query, flags=re.DOTALL)
    while (shorter := re.sub(r"\([^()]*\)", " ", plain)) != plain:
        plain = shorter
    return re.search(r"\border\s+by\b", plain, re.IGNORECASE) is not None


def _rounded(value: Value) -> Value:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) and math.isfinite(value) else value
