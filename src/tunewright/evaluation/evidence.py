"""What the rows say about the candidates: every pair of them.

Shapes: N rows, R resamples, K candidates, cheapest first, P pairs of them, M statistics of a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator

from tunewright.evaluation import bootstrap, max_t, statistics
from tunewright.evaluation.metrics import FloatArray, Scorer, StatsArray
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
    """True for a candidate that answers without a base; see `Candidate.is_floor`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entry(Standing):
    """A finished candidate: its shipped artefact on the test rows."""

    stats_NM: StatsArray
    """Of its answers."""
    test: Estimate
    """Metric with its interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """Candidate `a` against candidate `b`, by index, whatever test compared them."""

    a: int
    b: int
    measured: Difference
    slack_ab: float
    """How far below the difference of a from b its one-sided 95% lower bound lies."""
    slack_ba: float
    disagreement: float
    """As in `statistics.rows_needed`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the rows say about the candidates, cheapest first, whatever test compared them."""

    entries: Sequence[Standing]
    answers: Sequence[Sequence[StatsArray]]
    """Statistics of each entry in each repeat; one repeat for test rows."""
    estimates: Sequence[Estimate]
    """Metric of each entry with its interval."""
    values_K: FloatArray
    """Metric of each entry."""
    scorer: Scorer
    """Metric, and what is right."""
    num_folds: int | None = None
    """Of a cross-validation, which speaks of methods; None for test rows, which speak of artefacts."""
    duels: Sequence[Duel]
    """All pairs of entries, a < b."""
    adjusted_P: Sequence[float] | FloatArray
    """P-value of each pair, adjusted for all pairs."""

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """As `comparison.json` has them."""
        return tuple(
            Pair(
                a=self.entries[duel.a].id,
                b=self.entries[duel.b].id,
                difference=duel.measured.value,
                low=duel.measured.low,
                high=duel.measured.high,
                p_value=duel.measured.p_value,
                p_adjusted=float(p_adjusted),
            )
            for duel, p_adjusted in zip(self.duels, self.adjusted_P, strict=True)
        )

    @cached_property
    def adjusted_KK(self) -> FloatArray:  # noqa: N802
        """P-value of each pair, adjusted for all pairs."""
        return self._square(self.adjusted_P, self.adjusted_P)

    @cached_property
    def disagreement_KK(self) -> FloatArray:  # noqa: N802
        """As in `statistics.rows_needed`."""
        found_P = [duel.disagreement for duel in self.duels]
        return self._square(found_P, found_P)

    @cached_property
    def slack_KK(self) -> FloatArray:  # noqa: N802
        """[i, j]: how far below the difference of i from j its one-sided 95% lower bound lies."""
        return self._square([duel.slack_ab for duel in self.duels], [duel.slack_ba for duel in self.duels])

    def _square(self, ab_P: Sequence[float] | FloatArray, ba_P: Sequence[float] | FloatArray) -> FloatArray:
        """A number of each pair, seen from either side; 1 on the diagonal."""
        found_KK = np.ones((len(self.entries), len(self.entries)))
        a_P, b_P = [duel.a for duel in self.duels], [duel.b for duel in self.duels]
        found_KK[a_P, b_P], found_KK[b_P, a_P] = ab_P, ba_P
        return found_KK

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
                    float(gaps_K[other]), float(self.disagreement_KK[best, other]), alpha=self.alpha
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
        return statistics.minimum_detectable_difference(disagreement, self.scorer.num_rows, alpha=self.alpha)

    @property
    def alpha(self) -> float:
        """What the first of all pairs has to fall below in Holm's method."""
        return statistics.ALPHA / max(1, len(self.pairs))

    def pair_of(self, first: int, second: int) -> Pair | None:
        """Of two candidates, by index; None where they are one."""
        ids = {self.entries[first].id, self.entries[second].id}
        return next((pair for pair in self.pairs if {pair.a, pair.b} == ids), None)


def weigh(candidates: Sequence[Entry], scorer: Scorer, rng: Generator, num_resamples: int) -> Evidence:
    """Compares all pairs on the same rows.

    For a proportion of independent rows by the exact McNemar test and Tango's score bounds, adjusted by sign flips of
    the rows; else by paired bootstrap, whose tail is only approximate, adjusted on the same resamples.

    Args:
        candidates: In any order; the evidence sorts them from cheap to dear.
        scorer: Metric, and what is right of the test rows.
        rng: Source of randomness.
        num_resamples: Of the bootstrap, or sign flips.
    """
    entries = sorted(candidates, key=lambda entry: (entry.price, -scorer.value(entry.stats_NM), entry.id))
    stats_KNM = [entry.stats_NM for entry in entries]
    values_K = np.array([scorer.value(stats_NM) for stats_NM in stats_KNM])
    compare = _by_counts if scorer.is_binomial else _by_resamples
    duels, adjusted_P = compare(scorer, stats_KNM, values_K, rng, num_resamples)
    return Evidence(
        entries=entries,
        answers=[stats_KNM],
        estimates=[entry.test for entry in entries],
        values_K=values_K,
        scorer=scorer,
        duels=duels,
        adjusted_P=np.maximum(adjusted_P, [duel.measured.p_value for duel in duels]),
    )


def _by_counts(
    scorer: Scorer, stats_KNM: Sequence[StatsArray], values_K: FloatArray, rng: Generator, num_flips: int
) -> tuple[list[Duel], FloatArray]:
    """All pairs by the rows that one of the two alone has right: the score interval agrees with McNemar's test."""
    n = scorer.num_rows
    is_right_KN = np.stack([stats_NM[:, 0] for stats_NM in stats_KNM]) == 1
    pairs = np.triu_indices(len(stats_KNM), 1)
    wins_KK = np.rint(is_right_KN.astype(np.float64) @ ~is_right_KN.T).astype(np.int64)
    wins_P, losses_P = wins_KK[pairs], wins_KK.T[pairs]
    levels = np.array([[[statistics.LEVEL]], [[(1 + statistics.LEVEL) / 2]]])
    both_2P, swapped_2P = np.array([wins_P, losses_P]), np.array([losses_P, wins_P])
    bounds_22P = statistics.score_lower_bound(both_2P, swapped_2P, n, level=levels)
    low_2P, high_2P = bounds_22P[:, 0], -bounds_22P[:, 1]
    p_value_P = statistics.mcnemar(wins_P, losses_P)
    duels = []
    for k, (a, b) in enumerate(np.transpose(pairs).tolist()):
        value, disagreement = float(values_K[a] - values_K[b]), float(wins_P[k] + losses_P[k]) / n
        measured = Difference(
            value=value,
            low=float(low_2P[1, k]),
            high=float(high_2P[1, k]),
            p_value=float(p_value_P[k]),
            standard_error=math.sqrt(max(0.0, disagreement - value**2) / n),
        )
        slack_ab, slack_ba = value - float(low_2P[0, k]), float(high_2P[0, k]) - value
        duels.append(Duel(a=a, b=b, measured=measured, slack_ab=slack_ab, slack_ba=slack_ba, disagreement=disagreement))
    # One pair needs no adjustment: its exact p-value stands.
    return duels, max_t.by_sign_flips(is_right_KN, pairs, rng, num_flips) if len(duels) > 1 else p_value_P


def _by_resamples(
    scorer: Scorer, stats_KNM: Sequence[StatsArray], values_K: FloatArray, rng: Generator, num_resamples: int
) -> tuple[list[Duel], FloatArray]:
    """All pairs on shared resamples."""
    values_RK = bootstrap.resampled_values(scorer, stats_KNM, rng, num_resamples=num_resamples)
    a_P, b_P = np.triu_indices(len(stats_KNM), 1)
    values_RP, values_P = values_RK[:, a_P] - values_RK[:, b_P], values_K[a_P] - values_K[b_P]
    duels = []
    for a, b, values_R, value in zip(a_P.tolist(), b_P.tolist(), values_RP.T, values_P.tolist(), strict=True):
        measured = bootstrap.difference(values_R, value, scorer.num_units)
        low, high = bootstrap.resampled_bounds(values_R, value, scorer.num_units)
        disagreement = scorer.num_rows * measured.standard_error**2 + value**2
        slack_ab, slack_ba = value - low, high - value
        duels.append(Duel(a=a, b=b, measured=measured, slack_ab=slack_ab, slack_ba=slack_ba, disagreement=disagreement))
    return duels, max_t.by_resamples(values_RP, values_P, scorer.num_units)
