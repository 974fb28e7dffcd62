"""Which method to take where every row was answered by models that were not trained on it.

Shapes: N rows, R repeats, F folds, J = R x F, K candidates, cheapest first, M statistics of a
row. The figures are about methods, not about an
artefact: each fold has a model of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.random import Generator
from scipy import special

from tunewright.evaluation import bootstrap, statistics
from tunewright.evaluation.cost import Prices
from tunewright.evaluation.decision import check, conclude
from tunewright.evaluation.evidence import Duel, Evidence, Standing
from tunewright.evaluation.metrics import FloatArray, IntArray, Scorer, StatsArray
from tunewright.runs.comparison import Decision, Pair
from tunewright.types import Estimate


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldEntry(Standing):
    """A candidate of a cross-validation."""

    stats_RNM: StatsArray
    """Every row was answered once in each repeat, by the model of the folds it is not in."""


def fold_estimate(
    stats_RNM: StatsArray, fold_RN: IntArray, scorer: Scorer, *, level: float = statistics.LEVEL
) -> Estimate:
    """The mean metric of a method over folds, with the interval of the corrected resampled t.

    Args:
        stats_RNM: Of out-of-fold answers.
        fold_RN: Fold of each row in each repeat, from 0; the same number of folds in each.
        scorer: Metric, and what is right.
        level: Of the interval.
    """
    values_J = fold_values(stats_RNM, fold_RN, scorer)
    least_error = _row_error(_scores(stats_RNM, scorer))
    found = statistics.corrected_resampled_t(values_J, _test_to_train(fold_RN), least_error=least_error, level=level)
    n = scorer.num_rows
    return Estimate(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high), n=n)


def decide_folds(
    entries: Sequence[FoldEntry],
    scorer: Scorer,
    fold_RN: IntArray,
    rng: Generator,
    *,
    margin_points: float = 1.0,
    prices: Prices | None = None,
    num_replicates: int = bootstrap.NUM_REPLICATES,
) -> tuple[Decision, tuple[Pair, ...]]:
    """The decision about methods, and the pairs it rests on: the rule of `decision.decide` with another test.

    Each difference is the mean of the fold differences under the corrected resampled t-test, adjusted over all pairs by
    Holm's method.

    Args:
        entries: Finished candidates, in any order, with distinct ids.
        scorer: Metric, and what is right of all rows.
        fold_RN: Fold of each row in each repeat, from 0; the same number of folds in each.
        rng: Source of randomness of the repeated choice.
        margin_points: Points, out of 100, that a cheaper method may lose.
        prices: What the entries' prices were made with, for the record; the defaults when None.
        num_replicates: Of the choice.

    Raises:
        RunError: There is no candidate.
    """
    check(entries)
    evidence = weigh_folds(entries, scorer, fold_RN)
    decided = conclude(evidence, rng, margin_points, prices=prices, num_replicates=num_replicates)
    return decided, evidence.pairs


def fold_values(stats_RNM: StatsArray, fold_RN: IntArray, scorer: Scorer) -> FloatArray:
    """The metric on each fold of each repeat: [J]."""
    num_folds = int(fold_RN.max()) + 1
    values = []
    for stats_NM, fold_N in zip(stats_RNM, fold_RN, strict=True):
        is_in_FN = (fold_N == np.arange(num_folds)[:, None]).astype(np.float32)
        values.append(scorer.values([stats_NM], is_in_FN)[:, 0])
    values_J = np.concatenate(values)
    assert np.isfinite(values_J).all(), "a fold without rows"
    return values_J


def weigh_folds(entries: Sequence[FoldEntry], scorer: Scorer, fold_RN: IntArray) -> Evidence:
    """Compares all pairs on the same folds; arguments as in `decide_folds`."""
    values = {entry.id: fold_values(entry.stats_RNM, fold_RN, scorer) for entry in entries}
    ordered = sorted(entries, key=lambda entry: (entry.price, -float(values[entry.id].mean()), entry.id))
    values_KJ = np.array([values[entry.id] for entry in ordered])
    scores_KN = np.array([_scores(entry.stats_RNM, scorer) for entry in ordered])
    ratio = _test_to_train(fold_RN)
    duels = [_duel((a, b), values_KJ, scores_KN, ratio) for a, b in combinations(range(len(ordered)), 2)]
    return Evidence(
        entries=ordered,
        answers=list(np.stack([entry.stats_RNM for entry in ordered], axis=1)),
        estimates=[fold_estimate(entry.stats_RNM, fold_RN, scorer) for entry in ordered],
        values_K=values_KJ.mean(axis=1),
        scorer=scorer,
        num_folds=int(fold_RN.max()) + 1,
        duels=duels,
        adjusted_P=statistics.holm([duel.measured.p_value for duel in duels]),
    )


def _scores(stats_RNM: StatsArray, scorer: Scorer) -> FloatArray:
    """What each row adds to the metric, on average over repeats [N]; zeros where the metric is no mean over rows."""
    is_mean = scorer.metric.is_mean
    return stats_RNM[:, :, 0].mean(axis=0, dtype=np.float64) if is_mean else np.zeros(scorer.num_rows)


def _row_error(scores_N: FloatArray) -> float:
    """Standard error over rows: folds that happen to agree do not know a mean any better than their rows do."""
    return float(scores_N.std()) / math.sqrt(scores_N.size)


def _duel(indices: tuple[int, int], values_KJ: FloatArray, scores_KN: FloatArray, test_to_train: float) -> Duel:
    """One pair; its bounds are never closer than those of n rows without a disagreement."""
    a, b = indices
    values_J, n = values_KJ[a] - values_KJ[b], scores_KN.shape[1]
    least_error = _row_error(scores_KN[a] - scores_KN[b])
    measured = statistics.corrected_resampled_t(values_J, test_to_train, least_error=least_error)
    one_sided = float(special.stdtrit(values_J.size - 1, statistics.LEVEL)) * measured.standard_error
    slack = max(one_sided, statistics.least_slack(n))
    disagreement = n * measured.standard_error**2 + measured.value**2
    return Duel(a=a, b=b, measured=measured, slack_ab=slack, slack_ba=slack, disagreement=disagreement)


def _test_to_train(fold_RN: IntArray) -> float:
    """Rows of a fold over the rows outside it."""
    return 1 / int(fold_RN.max())
