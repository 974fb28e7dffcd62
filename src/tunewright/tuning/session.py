"""What the stages of a run share, and how they share the time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tunewright.config import RunConfig
from tunewright.errors import counted
from tunewright.evaluation.cost import PriceList, read_prices
from tunewright.evaluation.metrics import Metric, Scorer, row_scorer
from tunewright.evaluation.requirements import Requirement, parse
from tunewright.runs.fits import Trial, finalist
from tunewright.tuning.attempt import Outcome, Workshop
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import Clock, Journal, Step
from tunewright.tuning.spending import Spending
from tunewright.types import DevScore, Example, Task

PRUNED = "behind the median of earlier trials"
OUT_OF_TIME = "out of time"
TOO_SLOW = "longer than its share of the time"

_REFIT_SLACK = 1.15
_AGAIN = 1.1
"""More time than a candidate was seen to need, before it is tried again."""


def price_list(config: RunConfig) -> PriceList:
    """The user's prices: the file, with volume and months on top."""
    return read_prices(config.prices, requests_per_day=config.requests_per_day, months=config.months)


@dataclass(kw_only=True)
class Pace:
    """How fast things go here, as far as this session has seen; what is still to be done is judged by it."""

    report_s: float = 8.0
    """What follows the decision; as it stands until the decision is rehearsed, with the decision."""
    candidate_s: float = 0.0
    """For each candidate: its part of the decision, its intervals, the timing of its requests."""
    num_test: int = 0
    num_dev: int = 0
    """Rows that each shipped artefact answers at the end; the bare base's features of the latter are known by then."""
    row_s: dict[str, float] = field(default_factory=dict)
    """Base -> seconds to compute the features of a row; candidate -> seconds to answer one beyond those."""

    def note(self, name: str, seconds: float, num_rows: int) -> None:
        """Remembers the slowest pass: an estimate is there to keep a promise."""
        self.row_s[name] = max(self.row_s.get(name, 0.0), seconds / max(1, num_rows))


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the stages of a run share: settings, folder, time, voice, bases and who takes part."""

    config: RunConfig
    out: Path
    columns: Mapping[str, str]
    """Role -> column of the user's data."""
    is_reply: bool
    """As of a `Dataset`."""
    clock: Clock
    journal: Journal
    workshops: dict[str, Workshop]
    entrants: list[Entrant]
    metric: Metric
    """Of the task, ready to judge."""
    pace: Pace = field(default_factory=Pace)
    spending: Spending | None = None
    """What requests elsewhere take; None where no base asks any."""

    def begin(self) -> None:
        """From here on its clock rules: it interrupts what is computed, and limits what is paid."""
        for workshop in self.workshops.values():
            workshop.material.store.between = self.clock.check
        if self.spending is not None:
            self.spending.clock = self.clock

    def scorer(self, task: Task, examples: Sequence[Example]) -> Scorer:
        """The metric with what is right for these rows."""
        return row_scorer(self.metric, task.labels, examples)

    def remarks(self, answers: Sequence[str]) -> tuple[str, ...]:
        """What the metric says of answers that it could not judge."""
        said = () if self.metric.remarks is None else self.metric.remarks(answers)
        return tuple(f"{each}; they count as wrong" for each in said)

    @cached_property
    def price_list(self) -> PriceList:
        """The user's prices."""
        return price_list(self.config)

    @cached_property
    def requirements(self) -> tuple[Requirement, ...]:
        """What the user requires of a candidate."""
        return parse(self.config.require)

    def workshop(self, entrant: Entrant) -> Workshop:
        """Base and rows of a candidate, who pays from here on."""
        if self.spending is not None:
            self.spending.payer = entrant.id
        return self.workshops[entrant.backbone]

    def note_memory(self, entrant: Entrant, outcome: Outcome) -> None:
        """Says aloud when steps had to be cut to fit in memory."""
        parts = outcome.trained.micro_batches
        if parts > 1 or outcome.trained.recomputes:
            again = ", each layer once more on the way back" if outcome.trained.recomputes else ""
            said = f"each step now runs in {parts} parts{again}, same effective batch"
            self.journal.note(f"{entrant.id}: out of memory; {said}")

    def note_cut(self, entrant: Entrant, num_cut: int) -> None:
        """Says aloud when texts are cut for what an adapter puts around them; those cut anyway are told before."""
        if num_cut == 0:
            return
        shop = self.workshop(entrant)
        examples, material = (*shop.material.examples, *shop.dev_examples), shop.material
        if num_cut > sum(e.num_cut > 0 for e in material.backbone.encode(examples, material.room_tokens)):
            of = f"of {len(examples):,} texts to learn from"
            said = f"{counted(num_cut, f'{of} is', f'{of} are')} cut for what stands around them"
            self.journal.note(f"{entrant.id}: {said}")

    @property
    def ships_trials(self) -> bool:
        """Whether the trial that wins is the artefact, as it is to be one only."""
        return self.config.seeds == 1

    @property
    def _refit_share(self) -> float:
        """Seconds to reserve for the refit of a trial that took one."""
        return 0.0 if self.ships_trials else _REFIT_SLACK

    def _refit_s(self, trial_s: float) -> float:
        """The same of any trial; where it takes about a second, what else the machine does is no small share."""
        return 0.0 if self.ships_trials else max(_REFIT_SLACK * trial_s, trial_s + min(trial_s, 1.0))

    def answering_s(self, *entrants: Entrant) -> float:
        """Seconds that one artefact of each takes to answer, beyond the features of the bare bases."""
        return (self.pace.num_test + self.pace.num_dev) * sum(self.pace.row_s.get(e.id, 0.0) for e in entrants)

    def tail_s(self, num_candidates: int) -> float:
        """Seconds for the decision among so many and the report."""
        return self.pace.report_s + num_candidates * self.pace.candidate_s

    def ending_s(self, num_candidates: int) -> float:
        """Seconds that follow the refits whatever is shipped: features of the bare bases, decision and report."""
        bare_s = sum(self.pace.row_s.get(base, 0.0) for base in self.workshops)
        return self.pace.num_test * bare_s + self.tail_s(num_candidates)

    def left_s(self, effort: Effort, num_seeds: int) -> float:
        """Seconds left when the finalists so far are refitted and judged so often, and for what follows."""
        found = [(entrant, finalist(effort.of(entrant))) for entrant in self.entrants]
        final_s = sum(self._refit_s(best.seconds) + self.answering_s(e) for e, best in found if best is not None)
        final_s += sum(self._paying_s(best) for _, best in found if best is not None)
        num_candidates = sum(best is not None or not effort.of(e) for e, best in found)
        return self.clock.left_s - self.ending_s(num_candidates) - num_seeds * final_s

    def _paying_s(self, trial: Trial) -> float:
        """What requests of a refit and its answers to the test rows may cost, in seconds of this machine."""
        rows = (not self.ships_trials) + self.pace.num_test / max(1, self.pace.num_dev)
        return self.clock.worth_s(trial.usd) * rows

    def open(self, effort: Effort) -> list[Entrant]:
        """Who may still be tried, of those whose base answers."""
        gone = self.gone(effort)
        return [entrant for entrant in self.timely(effort) if entrant.backbone not in gone]

    def gone(self, effort: Effort) -> set[str]:
        """Bases that stopped answering while they were tried."""
        faults = {name: shop.material.backbone.fault for name, shop in self.workshops.items()}
        return {name for name, fault in faults.items() if fault is not None and effort.is_unanswered(name)}

    def timely(self, effort: Effort) -> list[Entrant]:
        """Who may still be tried by the time: all while it suffices for every refit, then those without a trial.

        Who was cut is out, unless all have been tried and what it was seen to need is left after all: then it comes
        before second trials of others. With no time at all it is the floor and one candidate beside it that trains
        nothing, so that there is something to decide.
        """
        if again := self._again(effort):
            return again
        if self.left_s(effort, self.config.seeds) > 0:
            return [e for e in self.entrants if all(t.status != "cut" for t in effort.of(e))]
        return effort.untried(self.entrants if self.left_s(effort, 1) > 0 else self.least)

    def _again(self, effort: Effort) -> list[Entrant]:
        """The quickest of those that were too slow for a share of the time, if it now fits with one refit."""
        slow = effort.too_slow(self.entrants)
        if effort.untried(self.entrants) or not slow:
            return []
        quickest = min((e for e in self.entrants if e.id in slow), key=lambda e: slow[e.id])
        needed_s = _AGAIN * (1 + self._refit_share) * slow[quickest.id] + self.answering_s(quickest)
        return [quickest] if needed_s <= self.left_s(effort, 1) and effort.next([quickest]) is not None else []

    @property
    def least(self) -> list[Entrant]:
        """The floor and the first that reads the text, of those that train nothing."""
        quick = [e for e in self.entrants if e.family == "no training"]
        return [e for e in quick if not e.space][:1] + [e for e in quick if e.space][:1]

    def trial_s(self, effort: Effort, entrant: Entrant | None = None) -> float:
        """Seconds the next trial may take: one refit of it, and as much for every other untried candidate, must fit."""
        num_waiting = len(effort.untried(self.entrants))
        if entrant is not None and entrant in self._again(effort):
            num_waiting = 1
        if num_waiting == 0:
            return self.left_s(effort, self.config.seeds)
        share_s = self.left_s(effort, 1) / num_waiting / (1 + self._refit_share)
        return max(share_s, self.urgent_s(effort.untried(self.least), entrant))

    def urgent_s(self, urgent: list[Entrant], entrant: Entrant | None) -> float:
        """Seconds for what a decision cannot do without, which may use the grace."""
        return self.clock.left_s + self.clock.grace_s - self.ending_s(len(self.least)) if entrant in urgent else 0.0


class Watch:
    """Listens to one attempt: passes progress on, times its passes over dev and minds the time."""

    def __init__(self, session: Session, entrant: Entrant, step: Step) -> None:
        self._session, self._entrant, self._step = session, entrant, step
        self._num_dev = len(session.workshop(entrant).dev_examples)
        self._heard = time.monotonic()

    def __call__(self, epochs: float, score: DevScore | None) -> str | None:
        session, step, now = self._session, self._step, time.monotonic()
        if score is not None:  # between the last step and the score lies the pass over dev
            session.pace.note(self._entrant.id, now - self._heard, self._num_dev)
        self._heard = now
        best = step.dev if score is None else max(score.value, -1.0 if step.dev is None else step.dev)
        self._step = step.moved(epochs, best, session.clock.left_s)
        session.journal.step(self._step)
        session.clock.beat()
        return OUT_OF_TIME if session.clock.is_out else None


class Foresight:
    """Whether a trial will not end in its time: told by its pace, once that is known.

    Args:
        epochs: That it is expected to take.
        allowed_s: Seconds that it may take.
    """

    def __init__(self, *, epochs: float, allowed_s: float) -> None:
        self._epochs, self._allowed_s = epochs, allowed_s
        self._start = time.monotonic()
        self._first: tuple[float, float] | None = None
        self.needed_s: float | None = None

    def __call__(self, epochs: float) -> bool:
        """At each step; the first one warms up."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, epochs)
        begun, before = self._first
        if now - begun < _LOOK_S or epochs - before < _LOOK_EPOCHS:
            return False
        pace_s = (now - begun) / (epochs - before)
        self.needed_s = begun - self._start + pace_s * (self._epochs - before)
        return self.needed_s > self._allowed_s


_LOOK_S, _LOOK_EPOCHS = 1.0, 0.1
"""After which the pace of a trial is known."""
