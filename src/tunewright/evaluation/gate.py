"""A gate for continuous integration: do the test rows show what is required of a candidate?

Shapes: N rows, R repeats of a cross-validation, M statistics of a row. Every verdict is by one-sided 95% bounds: what
they show is passed, what they exclude fails, and what lies between cannot be told by these rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from numpy.random import Generator

from tunewright.errors import counted
from tunewright.evaluation import bootstrap, statistics
from tunewright.evaluation.cross_validation import fold_estimate
from tunewright.evaluation.metrics import IntArray, Scorer, StatsArray
from tunewright.types import Estimate


class Outcome(IntEnum):
    """What is said of a requirement; the number is the exit code."""

    PASSED = 0
    FAILED = 1
    UNDECIDED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """A requirement and what the rows say of it."""

    outcome: Outcome
    reason: str
    """One sentence with the figures."""


def at_least(
    scorer: Scorer, stats_NM: StatsArray, minimum: float, rng: Generator, *, num_chosen_from: int = 1
) -> Ruling:
    """Whether the metric is shown to be at least `minimum`.

    Args:
        scorer: Metric, and what is right.
        stats_NM: Of the candidate's answers.
        minimum: Between 0 and 1.
        rng: Of the bootstrap, where the metric is no proportion.
        num_chosen_from: Candidates that this one was chosen from on the same rows: the luckiest of many has to show
            more (Bonferroni).
    """
    found = bootstrap.interval(scorer, stats_NM, rng, level=_two_sided(num_chosen_from))
    return _required(scorer, found, minimum, num_chosen_from)


def at_least_in_folds(
    scorer: Scorer, stats_RNM: StatsArray, fold_RN: IntArray, minimum: float, *, num_chosen_from: int = 1
) -> Ruling:
    """Whether the mean of a method over folds is shown to be at least `minimum`, by the corrected resampled t.

    Args:
        scorer: Metric, and what is right for all rows.
        stats_RNM: Of out-of-fold answers in each repeat.
        fold_RN: Fold of each row, from 0.
        minimum: As for `at_least`.
        num_chosen_from: Likewise.
    """
    found = fold_estimate(stats_RNM, fold_RN, scorer, level=_two_sided(num_chosen_from))
    return _required(scorer, found, minimum, num_chosen_from)


def _two_sided(num_chosen_from: int) -> float:
    """The level of an interval whose ends are one-sided bounds, adjusted for a choice."""
    return 1 - 2 * (1 - statistics.LEVEL) / num_chosen_from


def _required(scorer: Scorer, found: Estimate, minimum: float, num_chosen_from: int) -> Ruling:
    outcome = _outcome(found.low >= minimum, found.high < minimum)
    said = {
        Outcome.PASSED: f"shown to be at least {minimum:g}",
        Outcome.FAILED: f"shown to be below {minimum:g}",
        Outcome.UNDECIDED: f"not told apart from {minimum:g} by {counted(found.n, 'row')}",
    }[outcome]
    chosen = f", adjusted for a choice of {num_chosen_from}" if num_chosen_from > 1 else ""
    bounds = f"one-sided 95% bounds {found.low:.4f} and {found.high:.4f}{chosen}"
    return Ruling(outcome=outcome, reason=f"{scorer.metric.name} {found.value:.4f} ({bounds}): {said}")


def not_worse(scorer: Scorer, new_NM: StatsArray, old_NM: StatsArray, margin: float, rng: Generator) -> Ruling:
    """Whether `new` is shown to lose at most `margin` against `old` on the same rows (non-inferiority).

    Args:
        scorer: Metric, and what is right.
        new_NM: Of the answers of the candidate.
        old_NM: Of those of what it replaces.
        margin: In units of the metric.
        rng: Of the bootstrap.
    """
    difference = scorer.value(new_NM) - scorer.value(old_NM)
    if scorer.is_binomial:
        low, high = bootstrap.score_bounds(new_NM, old_NM)
    else:
        values_RK = bootstrap.resampled_values(scorer, [new_NM, old_NM], rng)
        low, high = bootstrap.resampled_bounds(values_RK[:, 0] - values_RK[:, 1], difference, scorer.num_units)
    outcome = _outcome(low > -margin, high < -margin)
    points = counted(100 * margin, "point")
    said = {
        Outcome.PASSED: f"shown to lose less than {points}",
        Outcome.FAILED: f"shown to lose more than {points}",
        Outcome.UNDECIDED: f"{counted(scorer.num_rows, 'row')} cannot tell whether it loses more than {points}",
    }[outcome]
    bounds = f"one-sided 95% bounds {100 * low:+.2f} and {100 * high:+.2f}"
    return Ruling(outcome=outcome, reason=f"{scorer.metric.name} {100 * difference:+.2f} points ({bounds}): {said}")


def worst(rulings: Sequence[Ruling]) -> Outcome:
    """A failure before a doubt before a pass."""
    outcomes = {ruling.outcome for ruling in rulings}
    return next(o for o in (Outcome.FAILED, Outcome.UNDECIDED, Outcome.PASSED) if o in outcomes)


def _outcome(is_shown: bool, is_excluded: bool) -> Outcome:
    if is_shown:
        return Outcome.PASSED
    return Outcome.FAILED if is_excluded else Outcome.UNDECIDED
