"""Answers judged by the number they come to."""

from decimal import Decimal

import pytest

from tunewright.evaluation.metrics import METRICS, Scorer
from tunewright.evaluation.numbers import last_number

WRITTEN = {
    "42": "42",
    "The answer is 42.": "42",
    "She has 3 apples and buys 5, so 3 + 5 = 8 apples.": "8",
    "5-3": "3",
    "it fell to -7 degrees": "-7",
    "\u22127": "-7",
    "-$1,250.50 in all": "-1250.5",
    "$ 1,000,000": "1000000",
    "1,2": "2",
    "1,2345": "2345",
    "about 12km": "12",
    "45%": "45",
    ".5": "0.5",
    "1.5e3": "1500",
    "#### 72": "72",
    "x=-0.0": "0",
    "7.": "7",
    "The answer is note5": "5",
    "size5": "5",
    "route e5": "5",
    "e9": "9",
    "2 - 3": "3",
    "2 -3": "3",
    "(2) - 3": "3",
    "50% - 3%": "3",
    "the answer - 3": "3",
    "sub-7": "7",
    "2 + 3 = - 5": "-5",
    "it is - $5": "5",
    "first 2\n-3": "-3",
    "-1.5e-3": "-0.0015",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_last_number_is_the_one_meant(text: str) -> None:
    assert last_number(text) == Decimal(WRITTEN[text])


@pytest.mark.parametrize("text", ["", "none", "-", "$ .", ","])
def test_a_text_may_have_none(text: str) -> None:
    assert last_number(text) is None


def test_each_row_is_right_or_wrong() -> None:
    """Equal as numbers to any reference; a row without a number is right for nobody."""
    references = [("#### 1,200",), ("0.30",), ("7", "eight is 8"), ("none",), ("5",)]
    scorer = Scorer(metric=METRICS["numeric"], references=references)
    answers = ["that makes 1200.0 dollars", "3.0", "8", "none", "first 5, then 6"]
    assert scorer.stats(answers).tolist() == [[1], [0], [1], [0], [0]]
    assert scorer.is_binomial
