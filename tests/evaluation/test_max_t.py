"""Max-T against an enumeration of all sign flips, against a naive step-down and in its limits."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from tunewright.evaluation import max_t, statistics
from tunewright.evaluation.metrics import FloatArray


def naive_step_down(observed: list[float], null: FloatArray) -> list[float]:
    """Westfall and Young's algorithm as it is written: the largest first, each against the maximum of what is left."""
    left = sorted(range(len(observed)), key=lambda k: -observed[k])
    adjusted, before = [0.0] * len(observed), 0.0
    while left:
        k = left[0]
        as_far = sum(max(draw[j] for j in left) >= observed[k] - 1e-9 for draw in null)
        before = adjusted[k] = max(before, (1 + as_far) / (1 + len(null)))
        left = left[1:]
    return adjusted


def test_step_down_is_the_naive_one() -> None:
    rng = np.random.default_rng(0)
    observed_P, null_RP = np.array([2.0, 0.1, 3.1, 1.4, 2.6, 0.9, 0.1]), np.abs(rng.normal(size=(300, 7)))
    expected = naive_step_down(observed_P.tolist(), null_RP)
    assert max_t.step_down(observed_P, null_RP).tolist() == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 3


def test_sign_flips_are_the_enumeration_of_all() -> None:
    """Three candidates on twelve rows: 4096 flips in full, with the statistics computed pair by pair."""
    rng = np.random.default_rng(1)
    is_right_KN = rng.random((3, 12)) < np.array([[0.9], [0.5], [0.2]])
    d_PN = np.array([is_right_KN[a].astype(int) - is_right_KN[b] for a, b in combinations(range(3), 2)])
    size_P = np.sqrt((d_PN**2).sum(axis=1))
    signs = np.array(list(product([-1, 1], repeat=12)))
    expected = naive_step_down((np.abs(d_PN.sum(axis=1)) / size_P).tolist(), np.abs(signs @ d_PN.T) / size_P)
    found = max_t.by_sign_flips(is_right_KN, np.triu_indices(3, 1), rng, 40_000)
    assert found.tolist() == pytest.approx(expected, abs=0.01)
    assert min(expected) < 0.05 < max(expected)


def test_one_pair_is_mcnemars_exact_test() -> None:
    is_right_KN = np.arange(60) < np.array([[50], [40]])
    is_right_KN[0, :3] = False
    (found,) = max_t.by_sign_flips(is_right_KN, np.triu_indices(2, 1), np.random.default_rng(2), 40_000)
    assert found == pytest.approx(float(statistics.mcnemar(10, 3)), abs=0.01)


def test_nothing_to_tell_apart_is_no_claim() -> None:
    same_KN = np.ones((3, 20), dtype=bool)
    assert max_t.by_sign_flips(same_KN, np.triu_indices(3, 1), np.random.default_rng(3), 50).tolist() == [1, 1, 1]
    assert max_t.by_resamples(np.zeros((50, 3)), np.zeros(3), 20).tolist() == [1, 1, 1]


def test_resamples_of_normal_differences_are_tukeys_range() -> None:
    """All pairs of four equal candidates with independent errors: the studentised range (Tukey 1953)."""
    rng = np.random.default_rng(4)
    a_P, b_P = np.triu_indices(4, 1)
    values_K = np.array([0.0, 1.0, 2.5, 4.0])
    values_RK = values_K + rng.normal(size=(40_000, 4))
    found = max_t.by_resamples(values_RK[:, a_P] - values_RK[:, b_P], values_K[a_P] - values_K[b_P], 10**9)
    largest = int(np.argmax(np.abs(values_K[a_P] - values_K[b_P])))
    assert found[largest] == pytest.approx(stats.studentized_range.sf(4.0, 4, np.inf), rel=0.1)


def test_few_rows_widen_it_as_students_t() -> None:
    """One difference of ten units, normal resamples: the p-value of t with nine degrees of freedom."""
    values_R1 = 2.0 + np.random.default_rng(5).normal(size=(200_000, 1))
    (found,) = max_t.by_resamples(values_R1, np.array([2.0]), 10)
    assert found == pytest.approx(2 * stats.t.sf(2.0 * np.sqrt(0.9), 9), rel=0.02)
