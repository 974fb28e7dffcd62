"""Slices and flips against statsmodels, scikit-learn and simulation."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.data.rules import Members
from tunewright.evaluation.metrics import IntArray, Scorer
from tunewright.evaluation.slices import by_slice, flips

RNG = np.random.default_rng(0)
TRUE_N = RNG.integers(0, 3, 240)
PREDICTED_N = np.where(RNG.random(240) < 0.75, TRUE_N, (TRUE_N + 1) % 3)
PARTS: Members = {f"lang={name}": np.flatnonzero(np.arange(240) % 8 == k) for k, name in enumerate(("de", "en", "fr"))}
"""Three eighths of the rows: the others are in no slice."""
HALVES: Members = {"len>9": np.arange(100), "len<=9": np.arange(100, 240)}


def scorer(metric: str = "accuracy", true_N: IntArray = TRUE_N) -> Scorer:
    return label_scorer(metric, true_N, 3)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_accuracy_of_each_slice() -> None:
    slices, _ = by_slice(scorer(), of(scorer(), PREDICTED_N), [PARTS, HALVES], rng())
    assert [each.rule for each in slices] == [*PARTS, *HALVES]
    for each, rows in zip(slices, [*PARTS.values(), *HALVES.values()], strict=True):
        right = sum(bool(TRUE_N[k] == PREDICTED_N[k]) for k in rows)
        low, high = proportion_confint(right, len(rows), method="wilson")
        assert (each.value.value, each.value.n) == (right / len(rows), len(rows))
        assert (each.value.low, each.value.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("slicings", "comparisons"), [([PARTS], 3), ([HALVES], 1), ([PARTS, HALVES], 4)])
def test_gap_against_statsmodels(slicings: list[Members], comparisons: int) -> None:
    """Newcombe's interval, at a level for as many comparisons as there are; two halves are one."""
    _, gaps = by_slice(scorer(), of(scorer(), PREDICTED_N), slicings, rng())
    right_N = TRUE_N == PREDICTED_N
    for gap, members in zip(gaps, slicings, strict=True):
        accuracy = {rule: right_N[rows].mean() for rule, rows in members.items()}
        assert gap.rule == min(accuracy, key=lambda rule: accuracy[rule])
        inside = np.isin(np.arange(240), members[gap.rule])
        counts = right_N[inside].sum(), inside.sum(), right_N[~inside].sum(), (~inside).sum()
        low, high = confint_proportions_2indep(*counts, method="newcomb", alpha=0.05 / comparisons)
        assert gap.difference == pytest.approx(right_N[inside].mean() - right_N[~inside].mean(), abs=1e-12)
        assert (gap.low, gap.high) == pytest.approx((low, high), abs=1e-9)


def test_of_equal_slices_the_larger_is_the_worst() -> None:
    true_N, predicted_N = np.zeros(90, dtype=np.int64), (np.arange(90) % 3 == 0).astype(np.int64)
    members = {"a=1": np.arange(30), "a=2": np.arange(30, 90)}
    judge = scorer(true_N=true_N)
    assert by_slice(judge, of(judge, predicted_N), [members], rng())[1][0].rule == "a=2"


def test_macro_f1() -> None:
    """Values by scikit-learn; the interval by a bootstrap of its own, in which the two parts are drawn apart."""
    slices, (gap,) = by_slice(scorer("macro-f1"), of(scorer("macro-f1"), PREDICTED_N), [HALVES], rng())
    for each, rows in zip(slices, HALVES.values(), strict=True):
        expected = f1_score(TRUE_N[rows], PREDICTED_N[rows], average="macro")
        assert each.value.value == pytest.approx(expected, abs=1e-9)
    own = np.random.default_rng(5)
    inside, outside = HALVES[gap.rule], np.setdiff1d(np.arange(240), HALVES[gap.rule])
    draws = []
    for _ in range(1000):
        a, b = own.choice(inside, inside.size), own.choice(outside, outside.size)
        values = [f1_score(TRUE_N[rows], PREDICTED_N[rows], average="macro") for rows in (a, b)]
        draws.append(values[0] - values[1])
    assert (gap.low, gap.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.015)
    assert gap.low < gap.difference < gap.high


def test_groups_widen_the_interval() -> None:
    """Ten copies of each row are no ten rows."""
    copies = np.repeat(np.arange(24), 10)
    true_N, predicted_N = TRUE_N[:24][copies], PREDICTED_N[:24][copies]
    members = {"a=1": np.arange(120), "a=2": np.arange(120, 240)}
    plain = label_scorer("accuracy", true_N, 3)
    grouped = label_scorer("accuracy", true_N, 3, copies)
    (narrow,), (wide,) = (by_slice(each, of(each, predicted_N), [members], rng())[1] for each in (plain, grouped))
    assert wide.difference == pytest.approx(narrow.difference, abs=1e-12)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("sizes", "accuracy"), [((40, 40, 40, 40, 40), 0.7), ((15, 30, 60, 195), 0.92), ((60, 240), 0.8)]
)
def test_the_picked_gap_is_covered(sizes: tuple[int, ...], accuracy: float) -> None:
    """All slices are equally good: the interval of the one that looks worst holds nought in 95% of the draws."""
    own = np.random.default_rng(11)
    n, num_draws = sum(sizes), 500
    ends = np.cumsum(sizes)
    members = {f"a={k}": np.arange(end - size, end) for k, (size, end) in enumerate(zip(sizes, ends, strict=True))}
    judge = scorer(true_N=np.zeros(n, dtype=np.int64))
    covered = named = 0
    for _ in range(num_draws):
        given_NM = of(judge, (own.random(n) > accuracy).astype(np.int64))
        _, (gap,) = by_slice(judge, given_NM, [members], own)
        covered += gap.low <= 0 <= gap.high
        _, (plain,) = by_slice(judge, given_NM, [{gap.rule: members[gap.rule]}], own)
        named += plain.low <= 0 <= plain.high
    assert covered / num_draws >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / num_draws)
    if len(sizes) > 2:
        assert named / num_draws < 0.93  # as if it had been named beforehand: the test can fail


def test_no_slices() -> None:
    assert by_slice(scorer(), of(scorer(), PREDICTED_N), [], rng()) == ((), ())


def test_flips() -> None:
    found = flips(("he", "she"), list("abcba"), list("accbb"))
    low, high = proportion_confint(2, 5, method="wilson")
    assert (found.terms, found.rows, found.flipped.n, found.flipped.value) == (("he", "she"), 5, 5, 0.4)
    assert (found.flipped.low, found.flipped.high) == pytest.approx((low, high), abs=1e-9)
