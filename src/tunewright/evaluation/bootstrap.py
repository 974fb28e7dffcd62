"""Intervals, paired differences and repeated choices by resampling the rows.

Shapes: N rows, R resamples, K candidates, M statistics of a row, which stand for its answer (see `metrics.Scorer`).
Every function takes a generator; candidates share their resamples, so that their differences are paired. Intervals are
expanded percentiles (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"): they stay inside [0, 1], keep
the metric's asymmetry and never fail. BCa is undefined where all resamples agree, which for two candidates with the
same answers is the rule.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import stats

from tunewright.evaluation.metrics import CountArray, FloatArray, IntArray, Scorer, StatsArray
from tunewright.evaluation.statistics import LEVEL, ROUNDING, Difference, least_slack, score_lower_bound, wilson
from tunewright.types import Estimate

NUM_RESAMPLES = 10_000
NUM_REPLICATES = 2_000
"""Repetitions of a whole decision: the share of replicates that choose a candidate is then known to 1 point."""

_CHUNK_COUNTS = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """A choice repeated on bootstraps of the rows."""

    value: float
    """Mean value of each replicate's choice on the rows left out of it; NaN where no row is ever left out."""
    shares: tuple[float, ...]
    """For each candidate, the share of replicates that chose it."""


def resample_counts(n: int, num_resamples: int, rng: Generator, groups: IntArray | None = None) -> CountArray:
    """How often each resample holds each row.

    Args:
        n: Rows.
        num_resamples: R.
        rng: Source of randomness.
        groups: Group of each row [N]; whole groups are then drawn, and the size of a resample varies.

    Returns:
        Whole numbers [R, N].
    """
    names, unit_N = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    offset_R1 = np.arange(num_resamples)[:, None] * names.size
    drawn_RU = rng.integers(names.size, size=(num_resamples, names.size)) + offset_R1
    counts = np.bincount(drawn_RU.ravel(), minlength=drawn_RU.size).astype(np.float32)
    counts_RU = counts.reshape(drawn_RU.shape)
    return counts_RU if groups is None else counts_RU[:, unit_N]


def _chunks(scorer: Scorer, num_resamples: int, rng: Generator) -> Iterator[CountArray]:
    """`resample_counts` in pieces of bounded memory."""
    n = scorer.num_rows
    size = max(1, _CHUNK_COUNTS // n)
    for start in range(0, num_resamples, size):
        yield resample_counts(n, min(size, num_resamples - start), rng, scorer.groups_N)


def resampled_values(
    scorer: Scorer, stats_KNM: Sequence[StatsArray], rng: Generator, *, num_resamples: int = NUM_RESAMPLES
) -> FloatArray:
    """The metric of every candidate on the same resamples: [R, K]."""
    return np.concatenate([scorer.values(stats_KNM, counts_RN) for counts_RN in _chunks(scorer, num_resamples, rng)])


def quantile(values_R: FloatArray, tail: float, n: int) -> float:
    """The expanded percentile of n resampled units.

    The tail is moved out to where a t quantile with n - 1 degrees of freedom and the divisor n - 1 would put it.
    """
    if n > 1:
        tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1)))
    return float(np.quantile(values_R, tail))


def interval(
    scorer: Scorer, stats_NM: StatsArray, rng: Generator, *, level: float = LEVEL, num_resamples: int = NUM_RESAMPLES
) -> Estimate:
    """The metric's value with its interval: Wilson's for a proportion of independent rows, else by bootstrap."""
    if scorer.is_binomial:
        return wilson(int(stats_NM[:, 0].sum()), scorer.num_rows, level=level)
    values_R = resampled_values(scorer, [stats_NM], rng, num_resamples=num_resamples)[:, 0]
    low, high = (quantile(values_R, tail, scorer.num_units) for tail in ((1 - level) / 2, (1 + level) / 2))
    return Estimate(value=scorer.value(stats_NM), low=low, high=high, n=scorer.num_rows)


def difference(values_R: FloatArray, value: float, n: int, *, level: float = LEVEL) -> Difference:
    """A paired difference from its resamples of n units.

    The p-value is the share of resamples that are as far from the value as zero is (the bootstrap moved to the null:
    Efron and Tibshirani 1993, section 16.4), with one added above and below. The share beyond zero would be far too
    small where few rows disagree: 8 wins and 0 losses in 100 rows give 0.0005; moved 0.006; exact 0.008. It is never
    below the least that n units can show when their signs are flipped, 2^(1 - n): two rows that agree show nothing.
    """
    as_far_R = np.abs(values_R - value) >= abs(value) - ROUNDING
    return Difference(
        value=value,
        low=quantile(values_R, (1 - level) / 2, n),
        high=quantile(values_R, (1 + level) / 2, n),
        p_value=max((1 + int(as_far_R.sum())) / (1 + values_R.size), 2.0 ** (1 - n)),
        standard_error=float(values_R.std(ddof=1)),
    )


def lower_bound(values_R: FloatArray, value: float, n: int, *, level: float = LEVEL) -> float:
    """One-sided lower bound of a paired difference of any metric from its resamples of n units.

    Never closer to the value than the score bound of n rows without a disagreement: where few rows disagree, resamples
    promise too much.
    """
    return min(quantile(values_R, 1 - level, n), value - least_slack(n, level=level))


def score_bounds(a_NM: StatsArray, b_NM: StatsArray, *, level: float = LEVEL) -> tuple[float, float]:
    """Lower and upper bound, each one-sided, of a proportion of `a` minus that of `b` on the same independent rows.

    Args:
        a_NM: Of answers under such a metric.
        b_NM: Of others.
        level: Of each bound.
    """
    (wins, losses), n = wins_losses(a_NM, b_NM), len(a_NM)
    low, high = score_lower_bound(wins, losses, n, level=level), score_lower_bound(losses, wins, n, level=level)
    return float(low), -float(high)


def resampled_bounds(values_R: FloatArray, value: float, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Lower and upper bound, each one-sided, of a paired difference from its resamples of n units."""
    return lower_bound(values_R, value, n, level=level), -lower_bound(-values_R, -value, n, level=level)


def wins_losses(a_NM: StatsArray, b_NM: StatsArray) -> tuple[int, int]:
    """Rows that only `a` has right, and rows that only `b` has right, under a metric that is a proportion."""
    is_right_a, is_right_b = a_NM[:, 0] == 1, b_NM[:, 0] == 1
    return int((is_right_a & ~is_right_b).sum()), int((is_right_b & ~is_right_a).sum())


def winner_corrected(
    scorer: Scorer,
    answers: Sequence[Sequence[StatsArray]],
    choose: Callable[[FloatArray], IntArray],
    rng: Generator,
    *,
    num_replicates: int = NUM_REPLICATES,
) -> Selection:
    """What a choice among candidates is worth on rows that took no part in it.

    The choice is repeated on bootstraps of the rows and judged on the rows left out (Tsamardinos, Greasidou and
    Borboudakis 2018, Machine Learning 107, "bootstrap bias corrected cross-validation", on a held-out set in place of
    pooled folds). Where all candidates are worth the same, that is what it returns; the winner's own value is the
    luckiest of K draws.

    Args:
        scorer: What the candidates are judged by.
        answers: Statistics of each candidate in each repeat; its value is the mean over the repeats.
        choose: Values [R, K] -> the index that each replicate chooses [R].
        rng: Source of randomness.
        num_replicates: R.
    """
    choices, worths = [], []
    for counts_RN in _chunks(scorer, num_replicates, rng):
        choice_R = choose(_mean_values(scorer, answers, counts_RN))
        left_out_RK = _mean_values(scorer, answers, (counts_RN == 0).astype(np.float32))
        choices.append(choice_R)
        worths.append(np.take_along_axis(left_out_RK, choice_R[:, None], axis=1)[:, 0])
    choice_R, worth_R = np.concatenate(choices), np.concatenate(worths)
    worth_R = worth_R[np.isfinite(worth_R)]
    shares = np.bincount(choice_R, minlength=len(answers[0])) / choice_R.size
    return Selection(value=float(worth_R.mean()) if worth_R.size else math.nan, shares=tuple(shares.tolist()))


def _mean_values(scorer: Scorer, answers: Sequence[Sequence[StatsArray]], weights_RN: CountArray) -> FloatArray:
    """The metric on each resample [R, K], the mean over repeats."""
    values_RK: FloatArray = np.mean([scorer.values(stats_KNM, weights_RN) for stats_KNM in answers], axis=0)
    return values_RK
