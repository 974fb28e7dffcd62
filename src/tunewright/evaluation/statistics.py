"""Intervals, tests and sample sizes that have a formula. Those by resampling are in `bootstrap`.

Shapes: S seeds, J folds of all repeats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from tunewright.types import Estimate

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
ROUNDING = 1e-12
"""Differences below this are float noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much more one candidate, or method, has than another on the same rows."""

    value: float
    low: float
    high: float
    p_value: float
    standard_error: float


def wilson(num_right: int, n: int, *, level: float = LEVEL) -> Estimate:
    """Wilson's score interval of a proportion: it has a width at 0 % and 100 %, where the bootstrap has none."""
    interval = stats.binomtest(num_right, n).proportion_ci(level, method="wilson")
    return Estimate(value=num_right / n, low=float(interval.low), high=float(interval.high), n=n)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact McNemar test: rows only `a` has right against rows only `b` has right; 1 where there are none."""
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses).pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return tuple(adjusted.tolist())


def score_lower_bound(wins: int, losses: int, n: int, *, level: float = LEVEL) -> float:
    """One-sided lower bound of a paired difference of proportions (Tango 1998, Statistics in Medicine 17, section 3).

    Unlike the bootstrap's it stays below zero where no row disagrees, at -z^2 / (n + z^2): n rows without a
    disagreement do not show that there is none.
    """
    if losses == n:
        return -1.0
    z = float(stats.norm.ppf(level))
    value = (wins - losses) / n
    bound = optimize.brentq(lambda delta: _score(wins, losses, n, delta) - z, -1 + ROUNDING, value, xtol=ROUNDING)
    return float(bound)


def _score(wins: int, losses: int, n: int, delta: float) -> float:
    """Tango's statistic against a true difference of delta; the share of losses is at its restricted maximum."""
    b = (2 * n - wins + losses) * delta - wins - losses
    loss = (math.sqrt(max(0.0, b * b + 8 * n * losses * delta * (1 - delta))) - b) / (4 * n)
    variance = n * (2 * loss + delta * (1 - delta))
    return (wins - losses - n * delta) / math.sqrt(max(variance, ROUNDING))


def minimum_detectable_difference(disagreement: float, n: int, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest true difference that n rows show with this power.

    The sample size of Connor (1987, Biometrics 43, section 3) for McNemar's test, solved for the difference.

    Args:
        disagreement: For accuracy the share of rows that exactly one of the two has right; for another metric
            n times the squared standard error of the difference plus its square.
        n: Rows.
        power: Chance to show it.
        alpha: Two-sided level of the test.
    """
    a, b = float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))
    root = a * math.sqrt(n) + b * math.sqrt(max(0.0, n + b * b - a * a))
    return min(1.0, math.sqrt(disagreement) * root / (n + b * b))


def rows_needed(difference: float, disagreement: float, *, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Test rows that would show a difference as large as this one; None where it is zero.

    The inverse of `minimum_detectable_difference`, with the same arguments.
    """
    if abs(difference) < ROUNDING:
        return None
    a, b = float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))
    rest = max(0.0, disagreement - difference**2)
    return math.ceil((a * math.sqrt(disagreement) + b * math.sqrt(rest)) ** 2 / difference**2)


def method_difference(values_S: Sequence[float], row_error: float, *, level: float = LEVEL) -> Difference:
    """How much better one method is than another, with rows and seeds as sources of variance.

    Variance of the mean = variance over seeds / S + squared error over rows; t quantiles with S - 1 degrees of freedom.
    What rows and seeds have in common is counted twice, which is on the safe side.

    Args:
        values_S: The difference of each seed; at least two.
        row_error: Bootstrap standard error, over rows, of the mean of the seeds' differences.
        level: Of the interval.
    """
    num_seeds = len(values_S)
    assert num_seeds >= 2, "one seed says nothing about a method"
    value = math.fsum(values_S) / num_seeds
    error = math.sqrt(float(np.var(values_S, ddof=1)) / num_seeds + row_error**2)
    return _t_difference(value, error, num_seeds - 1, level)


def corrected_resampled_t(
    values_J: Sequence[float] | NDArray[np.float64], test_to_train: float, *, level: float = LEVEL
) -> Difference:
    """A mean over folds, and over repeats of them, whose training rows overlap, tested against zero.

    The corrected resampled t-test (Nadeau and Bengio 2003, Machine Learning 52, section 3): the variance of the mean is
    (1/J + n_test/n_train) times that of the values, t quantiles with J - 1 degrees of freedom.

    Args:
        values_J: The difference, or the metric, in each fold of each repeat; at least two.
        test_to_train: Rows of a fold over the rows trained on.
        level: Of the interval.
    """
    values = np.asarray(values_J, dtype=np.float64)
    assert values.size >= 2, "one fold says nothing about a method"
    value = float(values.mean())
    error = math.sqrt((1 / values.size + test_to_train) * float(values.var(ddof=1)))
    return _t_difference(value, error, values.size - 1, level)


def _t_difference(value: float, error: float, degrees: int, level: float) -> Difference:
    """A value with this standard error, by t quantiles."""
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    p_value = 1.0 if error < ROUNDING else 2 * float(stats.t.sf(abs(value) / error, degrees))
    return Difference(value=value, low=value - half, high=value + half, p_value=p_value, standard_error=error)
