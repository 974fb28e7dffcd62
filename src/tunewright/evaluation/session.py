"""What the stages of a run share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunewright.config import RunConfig
from tunewright.evaluation.attempt import Outcome, Workshop
from tunewright.evaluation.effort import Effort, Entrant, finalist
from tunewright.evaluation.progress import Clock, Journal

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

    def refit_s(self, effort: Effort, num_seeds: int) -> float:
        """Seconds that refitting the finalists so far will take, and what comes after."""
        best = [finalist(effort.of(entrant)) for entrant in self.entrants]
        return _TAIL_S + _REFIT_SLACK * num_seeds * sum(t.seconds for t in best if t is not None)
