"""Whether an answer comes to the right number, however it is written and whatever reasoning stands before it.

Shapes: N rows.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.,)])[-+\u2212])?[$\u20ac\u00a3]?\s?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<part>\.\d+)?(?P<power>[eE][-+]?\d{1,3}(?!\w))?"
)
"""A sign that stands at a beginning, not between two words or numbers; thousands in threes, a point before decimals."""


def numeric(answers: Sequence[str], references: Sequence[tuple[str, ...]], _: Sequence[str]) -> NDArray[np.float32]:
    """1 where the last number of the answer is that of a reference: [N, 1].

    Chain-of-thought answers end in their result (Cobbe et al. 2021; Wei et al. 2022, section 3.1). A reference without
    a number is right for no answer.
    """
    rows = ((last_number(given), map(last_number, right)) for given, right in zip(answers, references, strict=True))
    return np.array([[number is not None and number in rights] for number, rights in rows], np.float32)


def last_number(text: str) -> Decimal | None:
    """The last number in a text, exactly; None without one. `$1,250.50.` is 1250.5, `5-3` ends in 3."""
    found = [match for match in _NUMBER.finditer(text) if match["whole"] or match["part"]]
    if not found:
        return None
    sign, whole, part, power = (found[-1][name] or "" for name in ("sign", "whole", "part", "power"))
    minus = "-" if sign[:1] in ("-", "\u2212") else ""
    return Decimal(f"{minus}{whole.replace(',', '')}{part}{power}")
