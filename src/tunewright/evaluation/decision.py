"""Which candidate to take: every pair compared, the cheapest one that is shown to be close to the best recommended.

Shapes: N rows, R resamples, K candidates, cheapest first.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.random import Generator

from tunewright.errors import RunError
from tunewright.evaluation import bootstrap, statistics
from tunewright.evaluation.cost import Prices
from tunewright.evaluation.evidence import Entry, Evidence, Standing, weigh
from tunewright.evaluation.metrics import FloatArray, IntArray, Scorer
from tunewright.evaluation.reason import Verdict, explain
from tunewright.runs.comparison import Decision, Pair

__all__ = ["Entry", "check", "choose", "conclude", "decide"]


def decide(
    candidates: Sequence[Entry],
    scorer: Scorer,
    rng: Generator,
    *,
    margin_points: float = 1.0,
    num_resamples: int = bootstrap.NUM_RESAMPLES,
    num_replicates: int = bootstrap.NUM_REPLICATES,
    prices: Prices | None = None,
) -> tuple[Decision, tuple[Pair, ...]]:
    """The decision about shipped artefacts, and the pairs it rests on. The order of the candidates does not matter.

    Best is the highest test value. Recommended is the cheapest candidate whose one-sided 95% lower bound of the paired
    difference from the best exceeds -margin; if no cheaper one is shown that close, the best. Whether anything is shown
    to be better than the floor is for the verdict to say: a floor that is not shown to be close to the best is no safer
    a choice (docs/log.md). All pairs are tested: by the exact McNemar test for a proportion of independent
    rows, else by paired bootstrap; and adjusted together by step-down max-T.

    Args:
        candidates: Finished ones, with distinct ids.
        scorer: Metric, and what is right of the test rows.
        rng: Source of randomness.
        margin_points: Points, out of 100, that a cheaper candidate may lose.
        num_resamples: Of the paired bootstrap, or sign flips of the rows.
        num_replicates: Of the choice, for its stability and corrected value; at most as many as resamples.
        prices: What the entries' prices were made with, for the record; the defaults when None.

    Returns:
        The decision, and all k(k-1)/2 pairs, the cheaper candidate of each first.

    Raises:
        RunError: There is no candidate.
    """
    check(candidates)
    evidence = weigh(candidates, scorer, rng, num_resamples)
    at_most = min(num_replicates, num_resamples)
    decided = conclude(evidence, rng, margin_points, num_replicates=at_most, prices=prices)
    return decided, evidence.pairs


def check(candidates: Sequence[Standing]) -> None:
    """Refuses a comparison of nothing.

    Raises:
        RunError: There is no candidate.
    """
    if not candidates:
        raise RunError("no candidate was finished: nothing to decide. Raise --budget or choose other --methods.")
    assert len({entry.id for entry in candidates}) == len(candidates), "two candidates share an id"


def conclude(
    evidence: Evidence,
    rng: Generator,
    margin_points: float,
    *,
    prices: Prices | None = None,
    num_replicates: int = bootstrap.NUM_REPLICATES,
) -> Decision:
    """The decision that the evidence supports, whatever test made it.

    Args:
        evidence: All pairs.
        rng: Source of randomness of the repeated choice.
        margin_points: Points, out of 100, that a cheaper candidate may lose.
        prices: For the record; the defaults when None.
        num_replicates: Of the choice.
    """

    def pick(values_RK: FloatArray) -> IntArray:
        return choose(values_RK, evidence.slack_KK, margin_points / 100)

    repeated = bootstrap.winner_corrected(evidence.scorer, evidence.answers, pick, rng, num_replicates=num_replicates)
    recommended = int(pick(evidence.values_K[None])[0])
    verdict, measured = _verdict(evidence, recommended), evidence.estimates[recommended].value
    return Decision(
        best=evidence.entries[evidence.best].id,
        recommended=evidence.entries[recommended].id,
        margin=margin_points,
        prices=asdict(Prices() if prices is None else prices),
        not_separated=evidence.not_separated,
        stability=repeated.shares[recommended],
        corrected_value=None if math.isnan(repeated.value) else min(repeated.value, measured),
        minimum_detectable_difference=evidence.minimum_detectable_difference,
        verdict=verdict.value,
        reason=explain(verdict, evidence, recommended, margin_points),
    )


def choose(values_RK: FloatArray, slack_KK: FloatArray, margin: float) -> IntArray:
    """The recommended candidate of each resample, candidates being sorted from cheap to dear.

    Args:
        values_RK: Metric of each candidate.
        slack_KK: [i, j]: difference of i from j less its lower bound.
        margin: What a cheaper one may lose, in units of the metric.
    """
    rows_R = np.arange(len(values_RK))
    best_R = values_RK.argmax(axis=1)
    bounds_RK = values_RK - values_RK[rows_R, best_R][:, None] - slack_KK[:, best_R].T
    is_close_RK = bounds_RK > -margin + statistics.ROUNDING
    is_close_RK[rows_R, best_R] = True
    first_R: IntArray = is_close_RK.argmax(axis=1)
    return first_R


def _verdict(evidence: Evidence, recommended: int) -> Verdict:
    """What kind of decision it is."""
    if not evidence.something_works:
        return Verdict.NOTHING_WORKS
    if len(evidence.entries) == 1:
        return Verdict.ONLY_ONE
    if recommended != evidence.best:
        return Verdict.CHEAPER
    return Verdict.BEST_NOT_SHOWN if evidence.not_separated else Verdict.BEST_SHOWN
