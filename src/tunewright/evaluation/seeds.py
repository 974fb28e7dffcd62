"""What seeds and rows together say of methods, apart from what rows say of the shipped artefacts.

Shapes: N rows, S seeds, R resamples.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator

from tunewright.evaluation import bootstrap, statistics
from tunewright.evaluation.metrics import IntArray, Scorer
from tunewright.evaluation.statistics import Difference
from tunewright.runs.comparison import MethodDifference, Pair

_LEAST = 2


def compare_methods(
    pairs: Sequence[Pair],
    answers: Mapping[str, Sequence[IntArray]],
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
        answers: Candidate -> label indices [N] that each of its seeds answered, in the order of the seeds.
        scorer: Metric and true labels.
        rng: Source of randomness.
        num_resamples: R, for the error over rows.
    """
    several = {name: list(seeds) for name, seeds in answers.items() if len(seeds) >= _LEAST}
    flat = [predicted_N for seeds in several.values() for predicted_N in seeds]
    able = [pair for pair in pairs if pair.a in several and pair.b in several]
    if not able:
        return tuple(pairs)
    values_RF = bootstrap.resampled_values(scorer, flat, rng, num_resamples=num_resamples)
    ends = np.cumsum([len(seeds) for seeds in several.values()])[:-1]
    resampled = dict(zip(several, np.split(values_RF, ends, axis=1), strict=True))
    measured = {name: [scorer.value(predicted_N) for predicted_N in seeds] for name, seeds in several.items()}
    found: list[tuple[Difference, int]] = []
    for pair in able:
        num_seeds = min(len(several[pair.a]), len(several[pair.b]))
        values_S = np.subtract(measured[pair.a][:num_seeds], measured[pair.b][:num_seeds])
        mean_R = (resampled[pair.a][:, :num_seeds] - resampled[pair.b][:, :num_seeds]).mean(axis=1)
        found.append((statistics.method_difference(values_S.tolist(), float(mean_R.std(ddof=1))), num_seeds))
    adjusted = statistics.holm([difference.p_value for difference, _ in found])
    spoken = {
        (pair.a, pair.b): _record(difference, p_adjusted, num_seeds)
        for pair, (difference, num_seeds), p_adjusted in zip(able, found, adjusted, strict=True)
    }
    return tuple(dataclasses.replace(pair, methods=spoken.get((pair.a, pair.b))) for pair in pairs)


def _record(difference: Difference, p_adjusted: float, num_seeds: int) -> MethodDifference:
    return MethodDifference(
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p_value=difference.p_value,
        p_adjusted=p_adjusted,
        seeds=num_seeds,
    )
