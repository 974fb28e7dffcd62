"""What the stages of a run share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunewright.config import RunConfig
from tunewright.runs.fits import finalist
from tunewright.tuning.attempt import Outcome, Workshop
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import Clock, Journal

_TAIL_S = 8.0
"""Kept for the test pass, the decision and the report, beside what is estimated from the trials."""
_REFIT_SLACK = 1.15


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the stages of a run share: settings, folder, time, voice, bases and who takes part."""

    config: RunConfig
    out: Path
    columns: Mapping[str, str]
    """Role -> column of the user's data."""
    clock: Clock
    journal: Journal
    workshops: dict[str, Workshop]
    entrants: list[Entrant]

    def workshop(self, entrant: Entrant) -> Workshop:
        """Base and rows of a candidate."""
        return self.workshops[entrant.backbone]

    def note_memory(self, entrant: Entrant, outcome: Outcome) -> None:
        """Says aloud when steps had to be cut to fit in memory."""
        parts = outcome.trained.micro_batches
        if parts > 1:
            self.journal.note(f"{entrant.id}: out of memory; each step now runs in {parts} parts, same effective batch")

    def left_s(self, effort: Effort, num_seeds: int) -> float:
        """Seconds left when the finalists so far are refitted so often, and for what follows."""
        best = [finalist(effort.of(entrant)) for entrant in self.entrants]
        refit_s = _REFIT_SLACK * sum(t.seconds for t in best if t is not None)
        return self.clock.left_s - _TAIL_S - num_seeds * refit_s

    def open(self, effort: Effort) -> list[Entrant]:
        """Who may still be tried: all while there is time for every refit, then those without a trial for one each."""
        if self.left_s(effort, self.config.seeds) > 0:
            return self.entrants
        return effort.untried(self.entrants) if self.left_s(effort, 1) > 0 else []

    def trial_s(self, effort: Effort) -> float:
        """Seconds the next trial may take: one refit of it, and as much for every other untried candidate, must fit."""
        num_waiting = len(effort.untried(self.entrants))
        if num_waiting == 0:
            return self.left_s(effort, self.config.seeds)
        return self.left_s(effort, 1) / num_waiting / (1 + _REFIT_SLACK)
