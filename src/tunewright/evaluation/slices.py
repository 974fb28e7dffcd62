"""Where a candidate is worse than elsewhere: the metric on parts of the rows, and answers that hang on a term.

Shapes: N rows, R resamples, M statistics of a row.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from tunewright.data.rules import Members
from tunewright.evaluation import bootstrap
from tunewright.evaluation.metrics import IntArray, Scorer, StatsArray
from tunewright.evaluation.statistics import ALPHA, LEVEL, wilson
from tunewright.runs.measurements import Flips, Gap, Slice
from tunewright.types import Estimate


def by_slice(
    scorer: Scorer, stats_NM: StatsArray, slicings: Sequence[Members], rng: Generator
) -> tuple[tuple[Slice, ...], tuple[Gap, ...]]:
    """The metric on every slice, and for each slicing how far its worst slice is from all other rows.

    Intervals of gaps are of the level 1 - 0.05 / (slices of all slicings): the worst was picked on the same rows, and
    whichever is picked, its interval is one of that many, which all hold together (Bonferroni).

    Args:
        scorer: Metric, and what is right.
        stats_NM: Of the answers.
        slicings: The slices of each column or rule; none is empty or holds all rows.
        rng: Source of randomness.
    """
    level = 1 - ALPHA / max(1, sum(_num_comparisons(members, scorer.num_rows) for members in slicings))
    slices, gaps = list[Slice](), list[Gap]()
    for members in slicings:
        found = [
            Slice(rule=rule, value=bootstrap.interval(scorer.part(rows), stats_NM[rows], rng))
            for rule, rows in members.items()
        ]
        worst = min(found, key=lambda each: (each.value.value, -each.value.n)).rule
        slices += found
        gaps.append(_gap(scorer, stats_NM, worst, members[worst], level, rng))
    return tuple(slices), tuple(gaps)


def _num_comparisons(members: Members, num_rows: int) -> int:
    """Two slices that are all rows make one comparison: the gap of one is that of the other, mirrored."""
    return 1 if len(members) == 2 and sum(rows.size for rows in members.values()) == num_rows else len(members)


def _gap(scorer: Scorer, stats_NM: StatsArray, rule: str, inside: IntArray, level: float, rng: Generator) -> Gap:
    """The metric of some rows minus that of all others, of which none is drawn with them."""
    outside = np.setdiff1d(np.arange(scorer.num_rows), inside)
    parts = [(scorer.part(rows), stats_NM[rows]) for rows in (inside, outside)]
    if scorer.is_binomial:
        return _newcombe(rule, *(bootstrap.interval(part, answers, rng, level=level) for part, answers in parts))
    values_R = np.subtract(*(bootstrap.resampled_values(part, [answers], rng)[:, 0] for part, answers in parts))
    units = min(part.num_units for part, _ in parts)
    low, high = (bootstrap.quantile(values_R, tail, units) for tail in ((1 - level) / 2, (1 + level) / 2))
    difference = parts[0][0].value(parts[0][1]) - parts[1][0].value(parts[1][1])
    return Gap(rule=rule, difference=difference, low=low, high=high)


def _newcombe(rule: str, a: Estimate, b: Estimate) -> Gap:
    """Difference of two independent proportions from their Wilson intervals (Newcombe 1998, method 10)."""
    difference = a.value - b.value
    low = difference - math.hypot(a.value - a.low, b.high - b.value)
    high = difference + math.hypot(a.high - a.value, b.value - b.low)
    return Gap(rule=rule, difference=difference, low=low, high=high)


def flips(terms: Sequence[str], before: Sequence[str], after: Sequence[str]) -> Flips:
    """How often answers change when two terms are swapped, with Wilson's interval.

    Args:
        terms: The two.
        before: Answers to the rows that hold one of them.
        after: Answers to the same rows with the terms swapped.
    """
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    return Flips(terms=tuple(terms), rows=len(before), flipped=wilson(changed, len(before), level=LEVEL))
