"""What the rows say about the candidates: every pair of them.

Shapes: N rows, R resamples, K candidates, cheapest first.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.random import Generator

from tunewright.evaluation import bootstrap, statistics
from tunewright.evaluation.metrics import FloatArray, IntArray, Scorer
from tunewright.evaluation.statistics import Difference
from tunewright.runs.comparison import NotSeparated, Pair
from tunewright.types import Estimate, Family


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Standing:
    """What the decision knows of a candidate beside its answers."""

    id: str
    method: str
    family: Family
    backbone: str
    price: float
    """US dollars for 1000 requests."""
    is_floor: bool = False
    """True for a candidate that does not read the text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entry(Standing):
    """A finished candidate: its shipped artefact on the test rows."""

    predicted_N: IntArray
    """Label indices."""
    test: Estimate
    """Metric with its interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """Candidate `a` against candidate `b`, by index, whatever test compared them."""

    a: int
    b: int
    measured: Difference
    slack_ab: float
    """How far below the difference of a from b its one-sided 95 % lower bound lies."""
    slack_ba: float
    disagreement: float
    """As in `statistics.rows_needed`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """What the rows say about the candidates, cheapest first."""

    entries: Sequence[Standing]
    answers: Sequence[Sequence[IntArray]]
    """Label indices [N] of each entry in each repeat; one repeat for test rows."""
    estimates: Sequence[Estimate]
    """Metric of each entry with its interval."""
    metric: str
    num_rows: int
    num_folds: int | None = None
    """Of a cross-validation, which speaks of methods; None for test rows, which speak of artefacts."""
    values_K: FloatArray
    pairs: tuple[Pair, ...]
    adjusted_KK: FloatArray
    """P-value of each pair, adjusted for all pairs."""
    disagreement_KK: FloatArray
    slack_KK: FloatArray
    """[i, j]: how far below the difference of i from j its one-sided 95 % lower bound lies."""

    @property
    def best(self) -> int:
        """The highest test value; of several, the cheapest."""
        return int(self.values_K.argmax())

    @property
    def floor(self) -> int | None:
        """The best of those that do not read the text; None where there is none."""
        floors = [index for index, entry in enumerate(self.entries) if entry.is_floor]
        return max(floors, key=lambda index: float(self.values_K[index]), default=None)

    @property
    def something_works(self) -> bool:
        """Whether a candidate is shown to be better than the floor, or there is no floor."""
        if self.floor is None:
            return True
        is_shown_K = self.adjusted_KK[self.floor] < statistics.ALPHA
        return bool((is_shown_K & (self.values_K > self.values_K[self.floor])).any())

    @property
    def not_separated(self) -> tuple[NotSeparated, ...]:
        """Candidates that are not shown to differ from the best, the highest value first."""
        best = self.best
        is_open_K = self.adjusted_KK[best] >= statistics.ALPHA
        others = [
            int(other) for other in np.argsort(-self.values_K, kind="stable") if is_open_K[other] and other != best
        ]
        gaps_K = self.values_K - self.values_K[best]
        return tuple(
            NotSeparated(
                id=self.entries[other].id,
                difference=float(gaps_K[other]),
                rows_needed=statistics.rows_needed(
                    float(gaps_K[other]), float(self.disagreement_KK[best, other]), alpha=self._alpha
                ),
            )
            for other in others
        )

    @property
    def minimum_detectable_difference(self) -> float | None:
        """Of these rows, for the best and a typical other: the median over those that read the text.

        None where there is no other, or the answers never differ.
        """
        readers = [index for index, entry in enumerate(self.entries) if index != self.best and not entry.is_floor]
        if not readers:
            return None
        disagreement = float(np.median(self.disagreement_KK[self.best, readers]))
        if disagreement == 0:
            return None
        return statistics.minimum_detectable_difference(disagreement, self.num_rows, alpha=self._alpha)

    @property
    def _alpha(self) -> float:
        """What the first of all pairs has to fall below in Holm's method."""
        return statistics.ALPHA / max(1, len(self.pairs))

    @property
    def floor_pair(self) -> Pair | None:
        """The best against the floor; None where there is no floor or it is the best."""
        if self.floor is None:
            return None
        ids = {self.entries[self.best].id, self.entries[self.floor].id}
        return next((pair for pair in self.pairs if {pair.a, pair.b} == ids), None)


def weigh(candidates: Sequence[Entry], scorer: Scorer, rng: Generator, num_resamples: int) -> Evidence:
    """Compares all pairs on shared resamples.

    The p-value is of the exact McNemar test for a proportion of independent rows, else of the paired bootstrap, whose
    tail, where Holm's method looks, is only approximate.

    Args:
        candidates: In any order; the evidence sorts them from cheap to dear.
        scorer: Metric and true labels of the test rows.
        rng: Source of randomness.
        num_resamples: Of the paired bootstrap.
    """
    entries = sorted(candidates, key=lambda entry: (entry.price, -scorer.value(entry.predicted_N), entry.id))
    values_K = np.array([scorer.value(entry.predicted_N) for entry in entries])
    predicted_KN = [entry.predicted_N for entry in entries]
    values_RK = bootstrap.resampled_values(scorer, predicted_KN, rng, num_resamples=num_resamples)
    duels = []
    for a, b in combinations(range(len(entries)), 2):
        values_R, value = values_RK[:, a] - values_RK[:, b], float(values_K[a] - values_K[b])
        duels.append(_duel(scorer, entries, (a, b), values_R, value))
    return gather(
        entries,
        duels,
        statistics.holm([duel.measured.p_value for duel in duels]),
        answers=[predicted_KN],
        estimates=[entry.test for entry in entries],
        values_K=values_K,
        scorer=scorer,
    )


def gather(
    entries: Sequence[Standing],
    duels: Sequence[Duel],
    adjusted: Sequence[float],
    *,
    answers: Sequence[Sequence[IntArray]],
    estimates: Sequence[Estimate],
    values_K: FloatArray,
    scorer: Scorer,
    num_folds: int | None = None,
) -> Evidence:
    """The evidence of all pairs, whatever test compared them.

    Args:
        entries: Cheapest first.
        duels: All pairs of them, a < b.
        adjusted: P-value of each pair, adjusted for all.
        answers: Label indices [N] of each entry in each repeat.
        estimates: Metric of each entry with its interval.
        values_K: Metric of each entry.
        scorer: Metric and true labels.
        num_folds: Of a cross-validation; None for test rows.
    """
    adjusted_KK, disagreement_KK, slack_KK = np.ones((3, len(entries), len(entries)))
    for duel, p_adjusted in zip(duels, adjusted, strict=True):
        both = [duel.a, duel.b], [duel.b, duel.a]
        adjusted_KK[both] = p_adjusted
        disagreement_KK[both] = duel.disagreement
        slack_KK[both] = duel.slack_ab, duel.slack_ba
    return Evidence(
        entries=entries,
        answers=answers,
        estimates=estimates,
        metric=scorer.metric.name,
        num_rows=scorer.true_N.size,
        num_folds=num_folds,
        values_K=values_K,
        pairs=tuple(_pair(entries, duel, p_adjusted) for duel, p_adjusted in zip(duels, adjusted, strict=True)),
        adjusted_KK=adjusted_KK,
        disagreement_KK=disagreement_KK,
        slack_KK=slack_KK,
    )


def _duel(
    scorer: Scorer, entries: Sequence[Entry], indices: tuple[int, int], values_R: FloatArray, value: float
) -> Duel:
    """One pair: its difference with interval, p-value and the two one-sided bounds."""
    a, b = indices
    a_N, b_N = entries[a].predicted_N, entries[b].predicted_N
    measured = bootstrap.difference(values_R, value, scorer.num_units)
    low, high = bootstrap.one_sided_bounds(scorer, a_N, b_N, values_R)
    if scorer.is_binomial:
        # The score interval agrees with McNemar's test; resamples of few disagreements promise too much.
        ends = bootstrap.one_sided_bounds(scorer, a_N, b_N, values_R, level=(1 + statistics.LEVEL) / 2)
        p_value = statistics.mcnemar(*bootstrap.wins_losses(scorer, a_N, b_N))
        measured = dataclasses.replace(measured, low=ends[0], high=ends[1], p_value=p_value)
    disagreement = scorer.true_N.size * measured.standard_error**2 + measured.value**2
    return Duel(a=a, b=b, measured=measured, slack_ab=value - low, slack_ba=high - value, disagreement=disagreement)


def _pair(entries: Sequence[Standing], duel: Duel, p_adjusted: float) -> Pair:
    """The pair as `comparison.json` has it."""
    return Pair(
        a=entries[duel.a].id,
        b=entries[duel.b].id,
        difference=duel.measured.value,
        low=duel.measured.low,
        high=duel.measured.high,
        p_value=duel.measured.p_value,
        p_adjusted=p_adjusted,
    )
