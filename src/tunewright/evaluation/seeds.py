"""What seeds and rows together say of methods, apart from what rows say of the shipped artefacts.

Shapes: N rows, S seeds, R resamples, M statistics of a row.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.random import Generator

from tunewright.evaluation import bootstrap, statistics
from tunewright.evaluation.metrics import FloatArray, Scorer, StatsArray
from tunewright.evaluation.statistics import Difference
from tunewright.runs.comparison import MethodDifference, Pair

_LEAST = 2

RowError = Callable[[Pair, int], float]


def compare_methods(
    pairs: Sequence[Pair],
    answers: Mapping[str, Sequence[StatsArray]],
    scorer: Scorer,
    rng: Generator,
    *,
    num_resamples: int = bootstrap.NUM_REPLICATES,
) -> tuple[Pair, ...]:
    """The pairs, each with the difference of its methods where both have at least two seeds.

    A method here is the setting that the search chose, trained with other seeds: how well another search would
    have done is not in it. The p-values are adjusted over these differences (Holm), apart from those of the artefacts.

    Args:
        pairs: Of candidates.
        answers: Candidate -> statistics of what each of its seeds answered, in the order of the seeds.
        scorer: Metric, and what is right.
        rng: Source of randomness.
        num_resamples: R, for the error over rows.
    """
    several = {name: np.stack(seeds) for name, seeds in answers.items() if len(seeds) >= _LEAST}
    able = [pair for pair in pairs if pair.a in several and pair.b in several]
    if not able:
        return tuple(pairs)
    measured = {name: np.array([scorer.value(seed_NM) for seed_NM in seeds_SNM]) for name, seeds_SNM in several.items()}
    row_error = (
        _by_counts(several, scorer) if scorer.is_binomial else _by_resamples(several, scorer, rng, num_resamples)
    )
    found: list[tuple[Difference, int]] = []
    for pair in able:
        num_seeds = min(len(several[pair.a]), len(several[pair.b]))
        values_S = measured[pair.a][:num_seeds] - measured[pair.b][:num_seeds]
        found.append((statistics.method_difference(values_S, row_error(pair, num_seeds)), num_seeds))
    adjusted = statistics.holm([difference.p_value for difference, _ in found])
    spoken = {
        (pair.a, pair.b): _record(difference, p_adjusted, num_seeds)
        for pair, (difference, num_seeds), p_adjusted in zip(able, found, adjusted, strict=True)
    }
    return tuple(dataclasses.replace(pair, methods=spoken.get((pair.a, pair.b))) for pair in pairs)


def _by_counts(several: Mapping[str, StatsArray], scorer: Scorer) -> RowError:
    """Standard error, over independent rows, of the mean difference of so many seeds of a pair."""
    is_right = {name: seeds_SNM[:, :, 0] == 1 for name, seeds_SNM in several.items()}
    index = {name: k for k, name in enumerate(several)}

    @cache
    def covariance_of(num_seeds: int) -> FloatArray:
        means_KN = np.array([right_SN[:num_seeds].mean(axis=0) for right_SN in is_right.values()])
        return np.atleast_2d(np.cov(means_KN, bias=True))

    def error(pair: Pair, num_seeds: int) -> float:
        a, b = index[pair.a], index[pair.b]
        covariance_KK = covariance_of(num_seeds)
        variance = covariance_KK[a, a] + covariance_KK[b, b] - 2 * covariance_KK[a, b]
        return math.sqrt(max(0.0, float(variance)) / scorer.num_rows)

    return error


def _by_resamples(several: Mapping[str, StatsArray], scorer: Scorer, rng: Generator, num_resamples: int) -> RowError:
    """The same by bootstrap, for any metric and for groups of rows."""
    flat = [seed_NM for seeds_SNM in several.values() for seed_NM in seeds_SNM]
    values_RF = bootstrap.resampled_values(scorer, flat, rng, num_resamples=num_resamples)
    ends = np.cumsum([len(seeds_SNM) for seeds_SNM in several.values()])[:-1]
    resampled = dict(zip(several, np.split(values_RF, ends, axis=1), strict=True))

    def error(pair: Pair, num_seeds: int) -> float:
        a_RS, b_RS = (resampled[name][:, :num_seeds] for name in (pair.a, pair.b))
        return float((a_RS - b_RS).mean(axis=1).std(ddof=1))

    return error


def _record(difference: Difference, p_adjusted: float, num_seeds: int) -> MethodDifference:
    return MethodDifference(
        difference=difference.value,
        low=max(-1.0, difference.low),
        high=min(1.0, difference.high),
        p_value=difference.p_value,
        p_adjusted=p_adjusted,
        seeds=num_seeds,
    )
