"""Intervals that hold at every moment at once: whoever looks after each row may stop when he likes what he sees.

Shapes: T rows in the order they came.
"""

import math
from collections.abc import Sequence

import numpy as np

from tunewright.evaluation.statistics import LEVEL, FloatArray
from tunewright.types import Estimate

_HALVINGS = 40
"""Of [0, 1], to 1e-12."""
_MOST = 0.5
"""Share of the capital that one bet may lose."""


def always_valid(values_T: Sequence[float] | FloatArray, low: float, high: float, *, level: float = LEVEL) -> Estimate:
    """Mean of bounded values with a confidence sequence: with this chance the mean lies within at every time.

    The hedged capital of Waudby-Smith and Ramdas (2023, "Estimating means of bounded random variables by betting",
    section 4.3, with the bets of equation 26), all earlier intervals intersected. Of the values only this is assumed:
    each lies between the bounds, and its mean, given those before it, does not change.

    Args:
        values_T: In the order they came.
        low: Least value there can be.
        high: Greatest.
        level: Chance that the interval never misses the mean.
    """
    x_T = (np.asarray(values_T, dtype=np.float64) - low) / (high - low)
    if x_T.size == 0:
        return Estimate(value=(low + high) / 2, low=low, high=high, n=0)
    bets_T = _bets(x_T, 1 - level)
    limit = math.log(2 / (1 - level))
    least, greatest = _lower(x_T, bets_T, limit), 1 - _lower(1 - x_T, bets_T, limit)
    mean = float(x_T.mean())
    # Crossed only where the mean has changed, against the assumption.
    least, greatest = min(least, greatest), max(least, greatest)
    scale = high - low
    return Estimate(value=low + scale * mean, low=low + scale * least, high=low + scale * greatest, n=x_T.size)


def _bets(x_T: FloatArray, alpha: float) -> FloatArray:
    """What is staked on each row, from the rows before it alone."""
    counts_T = np.arange(1, x_T.size + 1)
    means_T = (0.5 + np.cumsum(x_T)) / (counts_T + 1)
    variances_T = (0.25 + np.cumsum((x_T - means_T) ** 2)) / (counts_T + 1)
    before_T = np.concatenate([[0.25], variances_T[:-1]])
    bets_T: FloatArray = np.sqrt(2 * math.log(2 / alpha) / (before_T * counts_T * np.log1p(counts_T)))
    return bets_T


def _lower(x_T: FloatArray, bets_T: FloatArray, limit: float) -> float:
    """The least mean against which the bets have never won as much as `limit`, in logarithms.

    Wealth falls as the mean that is bet against rises, so halving finds it.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        wealth_T = np.cumsum(np.log1p(np.minimum(bets_T, _MOST / middle) * (x_T - middle)))
        low, high = (middle, high) if wealth_T.max() >= limit else (low, middle)
    return low
