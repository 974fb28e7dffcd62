"""Intervals, tests and sample sizes that have a formula. Those by resampling are in `bootstrap`.

Shapes: S seeds, J folds of all repeats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from tunewright.types import Estimate

FloatArray = NDArray[np.float64]
IntLike = int | NDArray[np.int64]

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
ROUNDING = 1e-12
"""Differences below this are float noise."""

_HALVINGS = 36
"""Of [-1, 1], to 3e-11."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much more one candidate, or method, has than another on the same rows."""

    value: float
    low: float
    high: float
    p_value: float
    standard_error: float


def wilson(num_right: int, n: int, *, level: float = LEVEL) -> Estimate:
    """Wilson's score interval of a proportion: it has a width at 0% and 100%, where the bootstrap has none."""
    interval = stats.binomtest(num_right, n).proportion_ci(level, method="wilson")
    return Estimate(value=num_right / n, low=float(interval.low), high=float(interval.high), n=n)


def mcnemar(wins: IntLike, losses: IntLike) -> FloatArray:
    """Two-sided exact McNemar test: rows only `a` has right against rows only `b` has right; 1 where there are none.

    Args:
        wins: Of any shape, as `losses` and the p-values.
        losses: The other.
    """
    p_values: FloatArray = np.minimum(1.0, 2 * special.bdtr(np.minimum(wins, losses), np.add(wins, losses), 0.5))
    return p_values


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return tuple(adjusted.tolist())


def score_lower_bound(wins: IntLike, losses: IntLike, n: int, *, level: float | FloatArray = LEVEL) -> FloatArray:
    """One-sided lower bound of a paired difference of proportions (Tango 1998, Statistics in Medicine 17, section 3).

    Unlike the bootstrap's it stays below zero where no row disagrees, at -z^2 / (n + z^2): n rows without a
    disagreement do not show that there is none.

    Args:
        wins: Rows that only `a` has right; with `losses` and `level` of any shapes that broadcast.
        losses: Rows that only `b` has right.
        n: All rows.
        level: Of the bound.
    """
    won, lost = np.asarray(wins, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    z = special.ndtri(level)
    low, high = np.broadcast_arrays(-1.0 + 0 * z, (won - lost) / n)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_below = _score(won, lost, n, middle) > z
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    bound: FloatArray = np.where(lost == n, -1.0, low)
    return bound


def _score(wins: FloatArray, losses: FloatArray, n: int, delta: FloatArray) -> FloatArray:
    """Tango's statistic against a true difference of delta; the share of losses is at its restricted maximum."""
    b = (2 * n - wins + losses) * delta - wins - losses
    loss = (np.sqrt(np.maximum(0.0, b * b + 8 * n * losses * delta * (1 - delta))) - b) / (4 * n)
    variance = n * (2 * loss + delta * (1 - delta))
    score: FloatArray = (wins - losses - n * delta) / np.sqrt(np.maximum(variance, ROUNDING))
    return score


def least_slack(n: int, *, level: float = LEVEL) -> float:
    """How far below zero the score bound of n rows without a disagreement lies: what n rows can never show."""
    z = float(special.ndtri(level))
    return z * z / (n + z * z)


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
    a, b = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))
    root = a * math.sqrt(n) + b * math.sqrt(max(0.0, n + b * b - a * a))
    return min(1.0, math.sqrt(disagreement) * root / (n + b * b))


def rows_needed(difference: float, disagreement: float, *, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Test rows that would show a difference as large as this one; None where it is zero.

    The inverse of `minimum_detectable_difference`, with the same arguments.
    """
    if abs(difference) < ROUNDING:
        return None
    a, b = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))
    rest = max(0.0, disagreement - difference**2)
    return math.ceil((a * math.sqrt(disagreement) + b * math.sqrt(rest)) ** 2 / difference**2)


def method_difference(values_S: Sequence[float] | FloatArray, row_error: float, *, level: float = LEVEL) -> Difference:
    """How much better one method is than another, with rows and seeds as sources of variance.

    Variance of the mean = variance over seeds / S + squared error over rows; t quantiles with S - 1 degrees of freedom.
    What rows and seeds have in common is counted twice, which is on the safe side.

    Args:
        values_S: The difference of each seed; at least two.
        row_error: Standard error, over rows, of the mean of the seeds' differences.
        level: Of the interval.
    """
    num_seeds = len(values_S)
    assert num_seeds >= 2, "one seed says nothing about a method"
    value = float(np.mean(values_S))
    error = math.sqrt(_variance(np.asarray(values_S), value) / num_seeds + row_error**2)
    return _t_difference(value, error, num_seeds - 1, level)


def corrected_resampled_t(
    values_J: Sequence[float] | FloatArray, test_to_train: float, *, least_error: float = 0.0, level: float = LEVEL
) -> Difference:
    """A mean over folds, and over repeats of them, whose training rows overlap, tested against zero.

    The corrected resampled t-test (Nadeau and Bengio 2003, Machine Learning 52, section 3): the variance of the mean is
    (1/J + n_test/n_train) times that of the values, t quantiles with J - 1 degrees of freedom.

    Args:
        values_J: The difference, or the metric, in each fold of each repeat; at least two.
        test_to_train: Rows of a fold over the rows trained on.
        least_error: A standard error that the mean has at least, such as that over rows: a handful of values may agree
            by chance.
        level: Of the interval.
    """
    values = np.asarray(values_J, dtype=np.float64)
    assert values.size >= 2, "one fold says nothing about a method"
    value = float(values.mean())
    error = math.sqrt((1 / values.size + test_to_train) * _variance(values, value))
    return _t_difference(value, max(error, least_error), values.size - 1, level)


def _variance(values: FloatArray, mean: float) -> float:
    """Unbiased; `numpy.var` takes ten times as long on a handful of values."""
    deviation = values - mean
    return float(deviation @ deviation) / (values.size - 1)


def _t_difference(value: float, error: float, degrees: int, level: float) -> Difference:
    """A value with this standard error, by t quantiles."""
    half = float(special.stdtrit(degrees, (1 + level) / 2)) * error
    p_value = 1.0 if error < ROUNDING else 2 * float(special.stdtr(degrees, -abs(value) / error))
    return Difference(value=value, low=value - half, high=value + half, p_value=p_value, standard_error=error)
