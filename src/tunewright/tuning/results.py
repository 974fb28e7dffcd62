"""What the finals left in the run folder, read once: each finalist with its fits and their answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.evaluation.answers import Answers, read_answers
from tunewright.runs.fits import Refit, Trial, refits, shipped
from tunewright.runs.folder import predictions_file
from tunewright.tuning.effort import Effort, Entrant
from tunewright.types import Dataset, Example


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Finalist:
    """A candidate that has been refitted and has answered the test rows."""

    entrant: Entrant
    trials: Sequence[Trial]
    refits: Sequence[Refit]
    test: Sequence[Answers | None]
    """Of each refit, in their order; None where the budget was spent before it answered. Not of the shipped one."""
    dev: Answers
    """Of the shipped one."""

    @property
    def shipped(self) -> Refit:
        """What the decision is about."""
        return shipped(self.refits)

    @property
    def shipped_test(self) -> Answers:
        """Its answers."""
        found = self.test[self.refits.index(self.shipped)]
        assert found is not None
        return found


def read_finalists(out: Path, entrants: Sequence[Entrant], effort: Effort, dataset: Dataset) -> list[Finalist]:
    """Those whose best refit on dev has answered the test rows, in the order of the entrants."""
    found = refits(out)
    by_entrant = [(entrant, [r for r in found if r.candidate == entrant.id]) for entrant in entrants]
    return [
        Finalist(
            entrant=entrant,
            trials=effort.of(entrant),
            refits=mine,
            test=[_answers(out, each, dataset, "test", dataset.splits.test) for each in mine],
            dev=_whole(_answers(out, shipped(mine), dataset, "dev", dataset.splits.dev)),
        )
        for entrant, mine in by_entrant
        if mine and predictions_file(out, entrant.id, shipped(mine).seed).exists()
    ]


def _whole(answers: Answers | None) -> Answers:
    assert answers is not None, "a shipped artefact answers dev before test"
    return answers


def _answers(out: Path, refit: Refit, dataset: Dataset, split: str, rows: Sequence[Example]) -> Answers | None:
    file = predictions_file(out, refit.candidate, refit.seed, split)
    if not file.exists():
        return None
    return read_answers(file, dataset.task.labels, [row.id for row in rows])
