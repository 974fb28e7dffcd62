"""Pairs of answers, with and without truth."""

import pytest

from tunewright.evaluation.sequential import always_valid
from tunewright.evaluation.shadow import Answered, compare


def test_gains_one_by_one() -> None:
    """Every case by hand: (live, shadow, verdict, corrected) -> gain."""
    cases = [
        (("a", "a", "right", None), 0),
        (("a", "b", "right", None), -1),
        (("a", "a", "wrong", None), 0),
        (("a", "b", "wrong", None), 0),  # nobody knows: counted as wrong too
        (("a", "b", "corrected", "b"), 1),
        (("a", "b", "corrected", "c"), 0),
        (("a", "a", "corrected", "c"), 0),
        (("a", "b", "corrected", "a"), -1),  # a correction that says what was answered
    ]
    asked = [
        Answered(live=live, shadow=shadow, verdict=verdict, corrected=corrected)  # type: ignore[arg-type]
        for (live, shadow, verdict, corrected), _ in cases
    ]
    found = compare([*asked, Answered(live="a", shadow="b"), Answered(live="b", shadow="b")])
    assert found.difference == always_valid([gain for _, gain in cases], -1, 1)
    assert found.num_unclear == 1
    assert found.agreement.value == pytest.approx(4 / 10)
    assert found.agreement.n == 10


def test_without_feedback() -> None:
    found = compare([Answered(live="a", shadow="a")] * 50)
    assert found.difference is None
    assert found.agreement.value == 1
    assert 0.5 < found.agreement.low < found.agreement.high == pytest.approx(1)


def test_nothing_yet() -> None:
    found = compare([])
    assert (found.agreement.n, found.agreement.low, found.agreement.high) == (0, 0, 1)


def test_a_better_version_is_shown_to_be_better() -> None:
    corrected = Answered(live="a", shadow="b", verdict="corrected", corrected="b")
    found = compare([corrected, Answered(live="a", shadow="a", verdict="right")] * 100)
    assert found.difference is not None
    assert found.difference.low > 0.3
    assert found.difference.value == 0.5
