"""Two runs side by side, and on the same test rows candidate by candidate.

Shapes: N rows.
"""

import dataclasses
from dataclasses import dataclass

from numpy.random import default_rng

from tunewright.errors import RunError
from tunewright.evaluation import bootstrap, statistics
from tunewright.evaluation.evidence import Entry, weigh
from tunewright.evaluation.metrics import Scorer, row_scorer
from tunewright.evaluation.named import is_stored, stored_metric
from tunewright.report.first_screen import turned
from tunewright.runs.comparison import Candidate, Pair
from tunewright.runs.record import RunRecord
from tunewright.types import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A candidate in both runs."""

    old: Candidate | None
    new: Candidate | None
    pair: Pair | None
    """New minus old on the same rows; None where they cannot be paired."""

    @property
    def name(self) -> str:
        """Of the candidate; both names where they differ."""
        found = dict.fromkeys(each.id for each in (self.old, self.new) if each is not None)
        return " \u2192 ".join(found)

    @property
    def values(self) -> tuple[Estimate | None, Estimate | None]:
        """Test value in the old run and in the new."""
        return (None if self.old is None else self.old.test, None if self.new is None else self.new.test)


@dataclass(frozen=True, kw_only=True, slots=True)
class Versus:
    """What changed from one run to another."""

    recommended: Change | None
    """What one recommends against what the other does; None where that is the same, or nothing."""
    changes: tuple[Change, ...]
    unpaired: str
    """Why values only stand side by side; empty where they are paired."""


def compare_runs(old: RunRecord, new: RunRecord) -> Versus:
    """The candidates of two runs; on the same rows with paired differences, adjusted over all of them (Holm)."""
    unpaired = _unpaired(old, new)
    olds, news = ({c.id: c for c in run.comparison.candidates} for run in (old, new))
    both = [(olds.get(name), news.get(name)) for name in news | olds]
    if old.winner is not None and new.winner is not None and old.winner.id != new.winner.id:
        both.append((old.winner, new.winner))
    found = [(a, b, None if unpaired else _pair(old, a, new, b)) for a, b in both]
    adjusted = iter(statistics.holm([pair.p_value for _, _, pair in found if pair is not None]))
    changes = [
        Change(old=a, new=b, pair=None if pair is None else dataclasses.replace(pair, p_adjusted=next(adjusted)))
        for a, b, pair in found
    ]
    crossed = changes.pop() if len(changes) > len(news | olds) else None
    return Versus(recommended=crossed, changes=tuple(sorted(changes, key=_height)), unpaired=unpaired)


def _height(change: Change) -> float:
    """Best first, by the new run's value."""
    value = change.values[1] if change.values[1] is not None else change.values[0]
    return 1.0 if value is None else -value.value


def _unpaired(old: RunRecord, new: RunRecord) -> str:
    """Why the runs cannot be paired; empty where they can."""
    tasks = old.comparison.task, new.comparison.task
    rows = [{row.id: (row.text, row.text_pair, row.label, row.references) for row in run.rows} for run in (old, new)]
    kinds = {run.comparison.protocol.kind for run in (old, new)}
    reasons = {
        f"they were judged by {tasks[0].metric} and by {tasks[1].metric}": tasks[0].metric != tasks[1].metric,
        f"{tasks[0].metric} needs what a run folder does not hold": not is_stored(tasks[0].metric),
        "they have different labels": set(tasks[0].labels) != set(tasks[1].labels),
        "one was judged in folds, by several models": "folds" in kinds,
        "they have different test rows": rows[0] != rows[1] or not rows[0],
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _pair(old_run: RunRecord, old: Candidate | None, new_run: RunRecord, new: Candidate | None) -> Pair | None:
    task = new_run.comparison.task
    scorer = row_scorer(stored_metric(task.metric), task.labels, new_run.rows)
    entries = [
        _entry(side, run, candidate, new_run, scorer)
        for side, run, candidate in (("old", old_run, old), ("new", new_run, new))
    ]
    known = [entry for entry in entries if entry is not None]
    if len(known) < len(entries):
        return None
    rng = default_rng(new_run.comparison.provenance.seed)
    (pair,) = weigh(known, scorer, rng, bootstrap.NUM_RESAMPLES).pairs
    return pair if pair.a == "new" else turned(pair)


def _entry(side: str, run: RunRecord, candidate: Candidate | None, asked: RunRecord, scorer: Scorer) -> Entry | None:
    """None without an answer to every row."""
    if candidate is None or candidate.test is None or candidate.id not in run.answers:
        return None
    try:
        stats_NM = scorer.stats(run.given(candidate.id, asked))
    except RunError:
        return None
    test = dataclasses.replace(candidate.test, value=scorer.value(stats_NM))
    return Entry(
        id=side, method=candidate.method, family=candidate.family, backbone=candidate.backbone,
        stats_NM=stats_NM, price=0.0, test=test,
    )  # fmt: skip
