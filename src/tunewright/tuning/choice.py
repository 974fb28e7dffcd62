"""The choice among the candidates that meet the user's requirements, and how long it will take."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from numpy.random import Generator

from tunewright.evaluation import bootstrap, decision
from tunewright.evaluation.evidence import Standing
from tunewright.evaluation.metrics import Scorer
from tunewright.evaluation.reason import Verdict
from tunewright.evaluation.requirements import NOT_MET, doubts, nearest_misses
from tunewright.runs.comparison import Candidate, Decision, Pair
from tunewright.runtime import generator
from tunewright.tuning.attempt import Workshop
from tunewright.tuning.session import Session
from tunewright.types import Estimate

E = TypeVar("E", bound=Standing)

_FEWEST_RESAMPLES = 1_000
_REHEARSED = 500
"""Resamples of a rehearsal."""
_REPORT_S = 2.5
"""The page, the summary and the end of the process, on a core of its own."""


def choose(
    session: Session,
    measured: Sequence[Candidate],
    entries: Sequence[E],
    decide: Callable[[Sequence[E]], tuple[Decision, tuple[Pair, ...]]],
) -> tuple[Decision, tuple[Pair, ...]]:
    """The decision among the entries that meet what the user requires, with the floor as their yardstick."""
    failing = {candidate.id for candidate in measured if candidate.unmet}
    eligible = [entry for entry in entries if entry.id not in failing]
    taking_part = [entry for entry in entries if entry.id not in failing or entry.is_floor] if eligible else entries
    chosen, pairs = decide(taking_part)
    wanted = tuple(each.text for each in session.requirements)
    chosen = dataclasses.replace(chosen, requirements=wanted)
    if not eligible or chosen.recommended in failing:
        return _nobody(session, chosen, measured, any_left=bool(eligible)), pairs
    winner = next(candidate for candidate in measured if candidate.id == chosen.recommended)
    out = f" Not meeting the requirements: {', '.join(sorted(failing))}." if failing else ""
    return dataclasses.replace(chosen, reason=chosen.reason + doubts(session.requirements, winner) + out), pairs


def _nobody(session: Session, chosen: Decision, measured: Sequence[Candidate], *, any_left: bool) -> Decision:
    """Nothing is recommended: nobody meets the requirements, or a floor that does not is as good as those who do."""
    misses = nearest_misses(session.requirements, [c for c in measured if c.unmet])
    verdict: str = NOT_MET
    reason = f"No candidate meets the requirements. Nearest: {'. '.join(misses)}."
    if any_left:
        verdict = Verdict.NOTHING_WORKS.value
        reason = (
            f"Nothing is recommended: {chosen.recommended}, the floor, fails the requirements itself, and no candidate "
            f"that meets them is shown to be better."
        )
    return dataclasses.replace(
        chosen,
        recommended=None,
        stability=None,
        corrected_value=None,
        verdict=verdict,
        reason=reason,
        nearest_misses=misses,
    )


def rehearse_s(scorer: Scorer, num_candidates: int, rng: Generator) -> float:
    """Seconds that the decision will take: measured with few resamples on made-up answers.

    Args:
        scorer: Metric, and what is right for the test rows.
        num_candidates: That may take part.
        rng: Makes up the answers.
    """
    scale = bootstrap.NUM_RESAMPLES / _REHEARSED
    right = [right[0] for right in scorer.references]
    orders_KN = [rng.permutation(len(right)).tolist() for _ in range(max(2, num_candidates))]
    stats_KNM = [scorer.stats([right[k] for k in order_N]) for order_N in orders_KN]
    start = time.monotonic()
    bootstrap.interval(scorer, stats_KNM[0], rng, num_resamples=_REHEARSED)
    interval_s = time.monotonic() - start
    same = Estimate(value=0.5, low=0.0, high=1.0, n=scorer.num_rows)
    entries = [
        decision.Entry(id=str(k), method="", family="no training", backbone="", stats_NM=stats_NM, price=k, test=same)
        for k, stats_NM in enumerate(stats_KNM)
    ]
    start = time.monotonic()
    decision.decide(entries, scorer, rng, num_resamples=_REHEARSED)
    # Of a decision about a half does not grow with the resamples; an interval is made on dev and on test.
    return (time.monotonic() - start) * scale / 2 + 2 * num_candidates * interval_s * scale


def rehearse(session: Session, scorer: Scorer) -> None:
    """Measures, under a budget, what the end of the run will take: a pass over each bare base, and the decision."""
    pace, clock = session.pace, session.clock
    if clock.budget_s is None:
        return
    if clock.left_s <= 0:
        session.journal.note(f"budget spent before the search began, after {clock.elapsed_s:.0f} s: loading")
        return
    pace.num_test = scorer.num_rows
    for name, workshop in session.workshops.items():
        pace.num_dev = len(workshop.dev_examples)
        _time_base(session, name, workshop)
    num_candidates = max(1, len(session.entrants))
    decision_s = rehearse_s(scorer, num_candidates, generator(session.config.seed, "rehearsal"))
    pace.candidate_s = decision_s / num_candidates + _TIMING_S
    pace.report_s = _REPORT_S * clock.slowdown


def _time_base(session: Session, name: str, workshop: Workshop) -> None:
    """Times a few rows, then, if there is time, all of dev, whose features most candidates need anyway."""
    encodings, store = workshop.exam.rows.encodings, workshop.material.store
    few = encodings[:: max(1, len(encodings) // _PACE_ROWS)]
    store(few[:1])  # the first pass warms up
    start = time.monotonic()
    store(few)
    session.pace.note(name, time.monotonic() - start, len(few))
    rest = [encoding for encoding in dict.fromkeys(encodings) if encoding not in few]
    if session.pace.row_s[name] * len(rest) < session.clock.left_s / 4:
        start = time.monotonic()
        store(rest)
        session.pace.row_s[name] = (time.monotonic() - start) / max(1, len(rest))


_PACE_ROWS = 48
_TIMING_S = 0.6
"""Timing the requests of a candidate."""


def num_resamples(session: Session, num_candidates: int) -> int:
    """Of every bootstrap at the end: all of them, or the share that the rest of the budget has time for."""
    needed_s = num_candidates * session.pace.candidate_s
    left_s = session.clock.left_s + session.clock.grace_s - session.pace.report_s
    share = 0.0 if left_s <= 0 else min(1.0, left_s / needed_s) if needed_s > 0 else 1.0
    return max(_FEWEST_RESAMPLES, round(bootstrap.NUM_RESAMPLES * share))
