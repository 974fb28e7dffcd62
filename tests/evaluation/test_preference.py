"""Judgements of pairs: counts by hand, tests and intervals against scipy, and judges that do not read."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binomtest

from tunewright.evaluation.preference import Preference, preferences
from tunewright.runs.judgements import HUMAN, Choice, Judgement


def looks(choices: Sequence[tuple[str, str, Choice]], judge: str = HUMAN) -> list[Judgement]:
    """(row, `ab` or `ba` as shown, choice)."""
    names = {"a": "full", "b": "lora"}
    return [Judgement(row=r, judge=judge, shown=(names[s[0]], names[s[1]]), choice=c) for r, s, c in choices]


def only(found: Sequence[Preference]) -> Preference:
    (preference,) = found
    return preference


def test_a_person_sees_each_row_once() -> None:
    """Who stood where does not matter; ties are not decided."""
    made = [(f"r{k}", "ab", "A") for k in range(9)] + [(f"s{k}", "ba", "B") for k in range(6)]
    made += [("t", "ab", "B"), ("u", "ba", "A"), ("v", "ba", "tie")]
    found = only(preferences(looks(made)))  # type: ignore[arg-type]
    assert (found.a, found.b, found.wins, found.losses, found.ties) == ("full", "lora", 15, 2, 1)
    expected = binomtest(15, 17)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.share is not None
    interval = expected.proportion_ci(method="wilson")
    assert (found.share.low, found.share.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.agreement is None
    assert found.trouble == ""
    said = " ".join(found.sentences())
    assert "full better on 15, lora on 2, neither on 1 of 18" in said
    assert "full is preferred" in said


def test_little_is_not_called_a_preference() -> None:
    found = only(preferences(looks([("r", "ab", "A"), ("s", "ba", "B"), ("t", "ab", "B")])))
    assert "full is not shown to be preferred" in " ".join(found.sentences())
    assert only(preferences(looks([("r", "ab", "tie")]))).share is None


def test_a_model_that_contradicts_itself_has_not_decided() -> None:
    made = looks(
        [("r", "ab", "A"), ("r", "ba", "B"), ("s", "ab", "A"), ("s", "ba", "A"), ("t", "ab", "B"), ("t", "ba", "A"),
         ("u", "ab", "tie"), ("u", "ba", "tie")], "m",
    )  # fmt: skip
    assert preferences([made[0], *made]) == preferences(made)  # the same look twice is one
    found = only(preferences(made))
    assert (found.wins, found.losses, found.ties) == (1, 1, 2)
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.n) == (0.75, 4)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_judge_that_always_says_the_same_is_told(letter: Choice) -> None:
    found = only(preferences(looks([(f"r{k}", order, letter) for k in range(8) for order in ("ab", "ba")], "m")))
    assert (found.wins, found.losses, found.ties) == (0, 0, 8)
    assert found.agreement is not None
    assert found.agreement.value == 0
    assert found.trouble.startswith(f"it always says {letter}")
    assert f"Warning: it always says {letter}" in " ".join(found.sentences())


def test_a_judge_that_leans_to_the_first_is_told() -> None:
    rng = np.random.default_rng(0)
    made = [(f"r{k}", order, "A" if rng.random() < 0.8 else "B") for k in range(40) for order in ("ab", "ba")]
    assert "leans to the answer shown first" in only(preferences(looks(made, "m"))).trouble  # type: ignore[arg-type]


def test_judges_and_pairs_are_apart() -> None:
    other = Judgement(row="r", judge=HUMAN, shown=("full", "majority"), choice="A")
    found = preferences([*looks([("r", "ab", "A")]), *looks([("r", "ab", "B")], "m"), other])
    assert [(each.judge, each.b) for each in found] == [(HUMAN, "lora"), ("m", "lora"), (HUMAN, "majority")]
