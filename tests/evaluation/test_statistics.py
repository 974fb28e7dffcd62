"""Formulas against scipy, statsmodels, brute force and simulation."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tunewright.evaluation import statistics


@pytest.mark.parametrize(("num_right", "n"), [(0, 10), (1, 10), (10, 10), (83, 100), (249, 300)])
def test_wilson_is_statsmodels(num_right: int, n: int) -> None:
    estimate = statistics.wilson(num_right, n)
    low, high = proportion_confint(num_right, n, alpha=0.05, method="wilson")
    assert (estimate.value, estimate.n) == (num_right / n, n)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("wins", "losses"), [(8, 0), (3, 11), (5, 5), (40, 22), (0, 1)])
def test_mcnemar_is_statsmodels(wins: int, losses: int) -> None:
    expected = statsmodels_mcnemar([[50, wins], [losses, 7]], exact=True).pvalue
    assert statistics.mcnemar(wins, losses) == pytest.approx(min(1.0, expected), abs=1e-12)


def test_mcnemar_is_the_enumeration_of_all_swaps() -> None:
    signs = np.array(list(product([-1, 1], repeat=9)))
    share = np.mean(np.abs(signs.sum(axis=1)) >= 7 - 2)
    assert statistics.mcnemar(7, 2) == pytest.approx(share, abs=1e-12)


def test_mcnemar_without_disagreement_is_one() -> None:
    assert statistics.mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("p_values", [[0.01], [0.04, 0.01, 0.03, 0.5], [0.02, 0.02, 0.02], [0.9, 0.6, 1.0]])
def test_holm_is_statsmodels_in_the_order_given(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    assert statistics.holm(p_values) == pytest.approx(tuple(expected), abs=1e-12)


def test_holm_of_nothing_is_nothing() -> None:
    assert statistics.holm([]) == ()


def brute_score(wins: int, losses: int, n: int, delta: float) -> float:
    """The score of the multinomial likelihood at its maximum under a true difference of delta, found numerically."""

    def minus_log(loss: float) -> float:
        shares = (loss + delta, loss, 1 - 2 * loss - delta)
        counts = (wins, losses, n - wins - losses)
        return -sum(count * math.log(share) for count, share in zip(counts, shares, strict=True) if count)

    low, high = max(0.0, -delta), (1 - delta) / 2
    bounds = (low + 1e-12, high - 1e-12)
    loss = optimize.minimize_scalar(minus_log, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = 2 * loss + delta - delta**2
    return float(((wins - losses) / n - delta) / math.sqrt(variance / n))


@pytest.mark.parametrize(("wins", "losses", "n"), [(12, 2, 50), (2, 12, 50), (5, 5, 100), (1, 0, 30), (20, 31, 300)])
def test_score_bound_is_where_the_numeric_score_meets_the_quantile(wins: int, losses: int, n: int) -> None:
    bound = statistics.score_lower_bound(wins, losses, n)
    assert brute_score(wins, losses, n, float(bound)) == pytest.approx(stats.norm.ppf(0.95), abs=1e-4)


def test_score_bounds_of_many_are_those_of_each() -> None:
    """Shapes broadcast: two levels, three pairs, the last of which lost every row."""
    levels = np.array([[0.95], [0.975]])
    found = statistics.score_lower_bound(np.array([12, 2, 0]), np.array([2, 12, 50]), 50, level=levels)
    for row, level in enumerate((0.95, 0.975)):
        for column, (wins, losses) in enumerate([(12, 2), (2, 12), (0, 50)]):
            assert found[row, column] == statistics.score_lower_bound(wins, losses, 50, level=level)
    assert found[0, 2] == -1


def test_score_bound_without_disagreement() -> None:
    z = stats.norm.ppf(0.95)
    assert statistics.score_lower_bound(0, 0, 100) == pytest.approx(-(z**2) / (100 + z**2), abs=1e-6)
    assert statistics.least_slack(100) == pytest.approx(-statistics.score_lower_bound(0, 0, 100), abs=1e-6)


def test_score_bound_is_within_the_range_and_below_the_value() -> None:
    for wins, losses in product(range(8), repeat=2):
        if wins + losses <= 7:
            bound = statistics.score_lower_bound(wins, losses, 7)
            assert -1 <= bound <= (wins - losses) / 7


def test_score_bound_covers() -> None:
    """Exact chance that the bound is above the truth, summed over the multinomial: near 5%, never far above."""
    n = 40
    for win, loss in [(0.1, 0.1), (0.02, 0.05), (0.0, 0.05), (0.2, 0.05)]:
        wins, losses = (grid.ravel() for grid in np.mgrid[0 : n + 1, 0 : n + 1])
        inside = wins + losses <= n
        counts = np.stack([wins, losses, n - wins - losses], axis=1)[inside]
        chances = stats.multinomial.pmf(counts, n, [win, loss, 1 - win - loss])
        likely = chances > 1e-7
        wins_M, losses_M, _ = counts[likely].T
        assert chances[likely] @ (statistics.score_lower_bound(wins_M, losses_M, n) > win - loss) < 0.08


def test_detectable_difference_is_the_inverse_of_rows_needed() -> None:
    for n, disagreement in product([100, 300, 2000], [0.05, 0.2, 0.4]):
        detectable = statistics.minimum_detectable_difference(disagreement, n)
        assert statistics.rows_needed(detectable, disagreement) in (n, n + 1)


@pytest.mark.parametrize("num_pairs", [1, 36])
def test_rows_needed_gives_the_power_in_simulation(num_pairs: int) -> None:
    alpha = 0.05 / num_pairs
    n = statistics.rows_needed(0.05, 0.15, alpha=alpha)
    assert n is not None
    rng = np.random.default_rng(0)
    wins, losses, _ = rng.multinomial(n, [0.1, 0.05, 0.85], size=20_000).T
    z = (wins - losses) / np.sqrt(wins + losses)
    assert np.mean(np.abs(z) > stats.norm.ppf(1 - alpha / 2)) == pytest.approx(0.8, abs=0.015)


def test_rows_needed_for_no_difference_is_unknown() -> None:
    assert statistics.rows_needed(0.0, 0.1) is None


def test_method_difference_is_the_t_test_where_rows_are_exact() -> None:
    values = [0.01, 0.04, 0.00, 0.06]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = statistics.method_difference(values, 0.0)
    expected = (np.mean(values), low, high, stats.ttest_1samp(values, 0.0).pvalue, stats.sem(values))
    measured = (found.value, found.low, found.high, found.p_value, found.standard_error)
    assert measured == pytest.approx(expected, abs=1e-12)


def test_no_difference_at_all_is_no_claim() -> None:
    assert statistics.method_difference([0.0, 0.0, 0.0], 0.0).p_value == 1.0


def test_method_difference_covers_with_rows_and_seeds() -> None:
    """Truth .02; seeds move it by 1.5 points, rows by their own: the interval covers at least as promised."""
    rng = np.random.default_rng(1)
    row_error = 0.023
    covered = 0
    for _ in range(2_000):
        values = 0.02 + rng.normal(0, row_error) + rng.normal(0, 0.015, size=3)
        found = statistics.method_difference(values.tolist(), row_error)
        covered += found.low <= 0.02 <= found.high
    assert covered / 2_000 >= 0.94


def test_corrected_resampled_t_is_scipys_t_of_a_wider_error() -> None:
    """Without training rows in common it is the one-sample t-test; with them the error grows by the ratio."""
    values = [0.01, 0.04, 0.00, 0.06, 0.03, -0.01]
    plain = statistics.corrected_resampled_t(values, 0.0)
    assert plain.p_value == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=1e-12)
    found = statistics.corrected_resampled_t(values, 0.25)
    error = stats.sem(values) * math.sqrt((1 / 6 + 1 / 4) / (1 / 6))
    low, high = stats.t.interval(0.95, 5, loc=np.mean(values), scale=error)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high), abs=1e-12)
    assert found.p_value == pytest.approx(2 * stats.t.sf(np.mean(values) / error, 5), abs=1e-12)
    assert found.standard_error == pytest.approx(error, abs=1e-12)


def test_corrected_resampled_t_without_variance_is_no_claim() -> None:
    assert statistics.corrected_resampled_t([0.05] * 5, 0.25).p_value == 1.0
