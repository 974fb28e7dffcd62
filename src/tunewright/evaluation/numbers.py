"""Whether an answer comes to the right number, however it is written and whatever reasoning stands before it.

Shapes: N rows.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(
    r"(?P<sign>[-+\u2212])?(?P<gap>[$\u20ac\u00a3]?\s?)"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{1,3}(?!\w))?"
)
"""Thousands in threes, a point before decimals."""

_SPACES = " \t\u00a0"


def numeric(answers: Sequence[str], references: Sequence[tuple[str, ...]], _: Sequence[str]) -> NDArray[np.float32]:
    """1 where the last number of the answer is that of a reference: [N, 1].

    Chain-of-thought answers end in their result (Cobbe et al. 2021; Wei et al. 2022, section 3.1). A reference without
    a number is right for no answer.
    """
    rows = ((last_number(given), map(last_number, right)) for given, right in zip(answers, references, strict=True))
    return np.array([[number is not None and number in rights] for number, rights in rows], np.float32)


def last_number(text: str) -> Decimal | None:
    """The last number in a text, exactly; None without one. `$1,250.50.` is 1250.5, `5-3` ends in 3."""
    every = list(_NUMBER.finditer(text))
    if not every:
        return None
    found = every[-1]
    minus = "-" if found["sign"] in ("-", "\u2212") and _is_sign(text, found) else ""
    return Decimal(f"{minus}{found['digits'].replace(',', '')}{found['power'] or ''}")


def _is_sign(text: str, found: re.Match[str]) -> bool:
    """Whether a minus belongs to its number: `to -7` and `= - 7`, but neither `5-3`, `5 - 3` nor `so - 7`."""
    rest = text[: found.start()]
    before = rest.rstrip(_SPACES)
    last = before[-1:]
    if before == rest and (last in (".", ",") or last == "_" or last.isalpha()):
        return False
    if last.isdigit() or (last != "" and last in ")%"):
        return False
    return not (last.isalpha() and found["gap"][:1].isspace())
