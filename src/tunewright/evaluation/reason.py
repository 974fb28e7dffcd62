"""The one sentence that says what was decided and why, for a reader who does not know statistics.

"Not shown to differ" is never written as "equal": the sentence says what was seen, what is shown and what would settle
the rest.
"""

import math
from collections.abc import Callable
from enum import StrEnum

from tunewright.errors import counted
from tunewright.evaluation.evidence import Evidence

_NAMED = 3
"""Candidates named in a sentence; the others are counted."""

_ABOUT_METHODS = "This is about methods: the model that is kept is trained on all rows and was itself not tested"


class Verdict(StrEnum):
    """What kind of decision it is."""

    NOTHING_WORKS = "nothing learned is shown to work"
    ONLY_ONE = "there is only one candidate"
    CHEAPER = "a cheaper candidate is shown to be within the margin"
    BEST_SHOWN = "the best is shown to be better than all others"
    BEST_NOT_SHOWN = "the best is recommended but not shown to be better than all others"


def explain(verdict: Verdict, evidence: Evidence, recommended: int, margin_points: float) -> str:
    """The sentence of a decision.

    Args:
        verdict: What kind of decision it is.
        evidence: What the rows say.
        recommended: Index of the recommended candidate.
        margin_points: What a cheaper candidate may lose.
    """
    tails: dict[Verdict, Callable[[], str]] = {
        Verdict.NOTHING_WORKS: lambda: _nothing_works(evidence, recommended),
        Verdict.ONLY_ONE: lambda: "no other candidate was finished to compare it with",
        Verdict.CHEAPER: lambda: _cheaper(evidence, recommended, margin_points),
        Verdict.BEST_SHOWN: lambda: "it is shown to be better than every other candidate",
        Verdict.BEST_NOT_SHOWN: lambda: _best_not_shown(evidence, margin_points),
    }
    estimate = evidence.estimates[recommended]
    name = evidence.entries[recommended].id
    subject = name if evidence.num_folds is None else f"The method {name}"
    between = f"95% interval {estimate.low * 100:.1f} to {percent(estimate.high)}"
    measured = f"{evidence.scorer.metric.name} {percent(estimate.value)} on {estimate.n} {_rows(evidence)} ({between})"
    caveat = "" if evidence.num_folds is None else f". {_ABOUT_METHODS}"
    return f"{subject} is recommended: {measured}; {tails[verdict]()}{caveat}."


def _rows(evidence: Evidence) -> str:
    """What the figures were measured on."""
    if evidence.num_folds is None:
        return "test rows"
    return f"rows, each answered by a model trained on the other {evidence.num_folds - 1} of {evidence.num_folds} parts"


def percent(value: float) -> str:
    """0.8345 as `83.5%`."""
    return f"{value * 100:.1f}%"


def points(value: float) -> str:
    """0.0123 as `1.2 points`."""
    return f"{value * 100:.1f} points"


def _nothing_works(evidence: Evidence, recommended: int) -> str:
    """What was seen above the floor, and how little these rows can show."""
    floor = evidence.floor
    assert floor is not None
    pair = evidence.pair_of(evidence.best, floor)
    if pair is None or pair.difference == 0:
        return "no other candidate did better"
    limit = evidence.minimum_detectable_difference
    power = "" if limit is None else f", and these rows can only show differences of some {points(limit)} or more"
    chance = f"{points(abs(pair.difference))} above it, which may be chance (p = {pair.p_adjusted:.2g}){power}"
    if recommended == floor:
        return f"no candidate is shown to be better than it; the highest measured, {_best(evidence)}, is {chance}"
    is_best = recommended == evidence.best
    lead, high = ("it is the highest measured, but ", "it") if is_best else ("", f"the highest, {_best(evidence)},")
    measured = f"{evidence.entries[floor].id} with {percent(float(evidence.values_K[floor]))}"
    return f"{lead}nothing learned is shown to work: {measured} is the floor, {high} is {chance}"


def _cheaper(evidence: Evidence, recommended: int, margin_points: float) -> str:
    """How close it is to the best, and what it costs beside it."""
    below = float(evidence.values_K[evidence.best] - evidence.values_K[recommended])
    price, best_price = evidence.entries[recommended].price, evidence.entries[evidence.best].price
    ratio = f", at {price / best_price:.2g} times its price" if 0 < best_price < math.inf else ""
    if math.isinf(best_price):
        ratio = f"; the price of {evidence.entries[evidence.best].id} is not known and was taken as the dearest"
    return (
        f"it is shown, with 95% confidence, to lose less than {counted(margin_points, 'point')} against the "
        f"highest measured, {_best(evidence)} ({points(below)} more on these rows){ratio}"
    )


def _best_not_shown(evidence: Evidence, margin_points: float) -> str:
    """What stays open, and how many rows would settle it."""
    open_ones = evidence.not_separated
    more = len(open_ones) - _NAMED
    names = ", ".join(item.id for item in open_ones[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    nearest = open_ones[0]
    rows = ""
    kind = "test rows" if evidence.num_folds is None else "rows"
    if nearest.rows_needed is not None:
        gap = points(abs(nearest.difference))
        rows = f"; to show that the {gap} to {nearest.id} are real would take some {nearest.rows_needed} {kind}"
    return (
        f"it is the highest measured, but not shown to be better than {names}, and no cheaper candidate is shown to be "
        f"within {counted(margin_points, 'point')} of it{rows}"
    )


def _best(evidence: Evidence) -> str:
    """The best with its value."""
    return f"{evidence.entries[evidence.best].id} with {percent(float(evidence.values_K[evidence.best]))}"
