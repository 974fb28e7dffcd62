"""The matrices behind a decision, each cell against its own oracle."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.evaluation.bootstrap import lower_bound, resampled_values
from tunewright.evaluation.evidence import Entry, weigh
from tunewright.evaluation.metrics import IntArray, Scorer
from tunewright.evaluation.statistics import minimum_detectable_difference, rows_needed, score_lower_bound
from tunewright.types import Estimate


def answers(rng: np.random.Generator, true_N: IntArray) -> list[IntArray]:
    """Three candidates that are right on different shares of the rows."""
    return [np.where(rng.random(true_N.size) < share, true_N, 1 - true_N) for share in (0.9, 0.6, 0.8)]


ANY = Estimate(value=0.5, low=0.0, high=1.0, n=1)


def entries_of(scorer: Scorer, predicted_KN: list[IntArray]) -> list[Entry]:
    return [
        Entry(id=str(k), method="m", family="fine-tuning", backbone="b", stats_NM=stats_NM, price=k, test=ANY)
        for k, stats_NM in enumerate(of(scorer, predicted_N) for predicted_N in predicted_KN)
    ]


def test_accuracy_has_score_bounds_in_both_directions() -> None:
    rng = np.random.default_rng(0)
    true_N = rng.integers(2, size=90)
    predicted_KN = answers(rng, true_N)
    scorer = label_scorer("accuracy", true_N, 2)
    evidence = weigh(entries_of(scorer, predicted_KN), scorer, rng, 20_000)
    right_KN = [predicted_N == true_N for predicted_N in predicted_KN]
    for a, b in permutations(range(3), 2):
        wins, losses = int((right_KN[a] & ~right_KN[b]).sum()), int((right_KN[b] & ~right_KN[a]).sum())
        gap = evidence.values_K[a] - evidence.values_K[b]
        assert gap - evidence.slack_KK[a, b] == pytest.approx(score_lower_bound(wins, losses, 90), abs=1e-9)
        assert evidence.disagreement_KK[a, b] == pytest.approx((wins + losses) / 90, rel=0.05)
    assert abs(evidence.slack_KK[0, 1] - evidence.slack_KK[1, 0]) > 1e-3


def test_macro_f1_has_bootstrap_bounds_in_both_directions() -> None:
    rng = np.random.default_rng(1)
    true_N = (rng.random(60) < 0.15).astype(np.int64)
    predicted_KN = answers(rng, true_N)
    scorer = label_scorer("macro-f1", true_N, 2)
    evidence = weigh(entries_of(scorer, predicted_KN), scorer, np.random.default_rng(2), 400)
    values_RK = resampled_values(
        scorer, [of(scorer, x_N) for x_N in predicted_KN], np.random.default_rng(2), num_resamples=400
    )
    for a, b in permutations(range(3), 2):
        gap = scorer.value(of(scorer, predicted_KN[a])) - scorer.value(of(scorer, predicted_KN[b]))
        bound = lower_bound(values_RK[:, a] - values_RK[:, b], gap, 60)
        assert gap - evidence.slack_KK[a, b] == pytest.approx(bound, abs=1e-9)
    a_P, b_P = [0, 0, 1], [1, 2, 2]
    values_P = evidence.values_K[a_P] - evidence.values_K[b_P]
    centred_RP = values_RK[:, a_P] - values_RK[:, b_P] - values_P
    error_P = (values_RK[:, a_P] - values_RK[:, b_P]).std(axis=0, ddof=1)
    largest = int((np.abs(values_P) / error_P).argmax())
    tail = stats.t.sf(np.abs(values_P[largest]) / error_P[largest] * np.sqrt(59 / 60), 59)
    as_far = (np.abs(centred_RP) / error_P).max(axis=1) >= stats.norm.isf(tail) - 1e-12
    expected = max((1 + as_far.sum()) / 401, evidence.pairs[largest].p_value)
    assert evidence.pairs[largest].p_adjusted == pytest.approx(expected, abs=1e-12)
    assert [pair.p_value for pair in evidence.pairs] != [1.0, 1.0, 1.0]


def test_open_candidates_and_detectable_difference_use_the_pairs_with_the_best() -> None:
    rng = np.random.default_rng(3)
    true_N = np.zeros(50, dtype=np.int64)
    predicted_KN = [(np.arange(50) < wrong).astype(np.int64) for wrong in (12, 9, 10)]
    scorer = label_scorer("accuracy", true_N, 2)
    evidence = weigh(entries_of(scorer, predicted_KN), scorer, rng, 500)
    assert (evidence.best, evidence.floor, evidence.something_works) == (1, None, True)
    assert [item.id for item in evidence.not_separated] == ["2", "0"]
    for item, other in zip(evidence.not_separated, (2, 0), strict=True):
        gap = float(evidence.values_K[other] - evidence.values_K[1])
        assert item.difference == gap
        assert item.rows_needed == rows_needed(gap, float(evidence.disagreement_KK[other, 1]), alpha=0.05 / 3)
    typical = float(np.median(evidence.disagreement_KK[1, [0, 2]]))
    assert evidence.minimum_detectable_difference == minimum_detectable_difference(typical, 50, alpha=0.05 / 3)


def test_an_interval_agrees_with_its_test() -> None:
    """Few disagreements: where McNemar's test does not see a difference, the interval holds zero, and has a width."""
    rng = np.random.default_rng(0)
    true_N = np.zeros(100, dtype=np.int64)
    all_right, four_wrong = true_N.copy(), (np.arange(100) < 4).astype(np.int64)
    scorer = label_scorer("accuracy", true_N, 2)
    (pair,) = weigh(entries_of(scorer, [four_wrong, all_right]), scorer, rng, 500).pairs
    assert pair.p_value == pytest.approx(0.125)
    assert pair.low < -0.08
    assert pair.high == pytest.approx(0.0, abs=0.005)
    (same,) = weigh(entries_of(scorer, [all_right, all_right]), scorer, rng, 500).pairs
    assert same.low == pytest.approx(-0.037, abs=0.001)
    assert same.high == pytest.approx(0.037, abs=0.001)
