"""From files to `comparison.json`: candidates with their costs, the decision, and where it all comes from."""

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from tunewright.data.load import test_sha256
from tunewright.errors import RunError
from tunewright.evaluation import decision
from tunewright.evaluation.metrics import UNKNOWN_LABEL, Scorer, row_scorer
from tunewright.evaluation.seeds import compare_methods
from tunewright.files import read_json
from tunewright.runs.comparison import (
    BackboneSummary,
    Candidate,
    Comparison,
    Decision,
    Pair,
    Provenance,
    TaskSummary,
)
from tunewright.runtime import environment, generator
from tunewright.tuning.attempt import Workshop
from tunewright.tuning.candidates import finished, unfinished
from tunewright.tuning.choice import choose
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.ledger import family_effort
from tunewright.tuning.results import Finalist, read_finalists
from tunewright.tuning.session import Session
from tunewright.types import Dataset


def conclude(
    session: Session, effort: Effort, dataset: Dataset, refused: Sequence[Entrant], *, started: str, command: str
) -> Comparison:
    """The whole result.

    Args:
        session: The run.
        effort: Its trials.
        dataset: Its rows.
        refused: Candidates their base cannot run.
        started: When the run began, ISO 8601.
        command: What was typed.
    """
    scorer = row_scorer(dataset.task.metric, dataset.task.labels, dataset.splits.test)
    finalists = read_finalists(session.out, session.entrants, effort, dataset)
    done = [f.entrant for f in finalists]
    measured = [finished(session, finalist, dataset, scorer) for finalist in finalists]
    missing = [unfinished(session, e, effort) for e in (*session.entrants, *refused) if e not in done]
    chosen, pairs = _decide(session, finalists, measured, missing, scorer)
    return Comparison(
        task=_task(dataset, scorer),
        backbones=tuple(_backbone(name, workshop) for name, workshop in session.workshops.items()),
        candidates=(*measured, *missing),
        pairs=pairs,
        decision=chosen,
        effort=family_effort((e.family for e in session.entrants), effort.history, session.price_list.prices),
        test_reads=1 + _earlier_reads(session.out, dataset),
        provenance=_provenance(session, dataset, started, command),
    )


def _decide(
    session: Session,
    finalists: Sequence[Finalist],
    measured: Sequence[Candidate],
    missing: Sequence[Candidate],
    scorer: Scorer,
) -> tuple[Decision | None, tuple[Pair, ...]]:
    if not measured:
        return None, ()
    entries = [_entry(candidate, finalist) for candidate, finalist in zip(measured, finalists, strict=True)]
    rng = generator(session.config.seed, "decision")
    chosen, pairs = choose(session, measured, entries, scorer, rng)
    if missing:
        names = ", ".join(c.id for c in missing)
        chosen = dataclasses.replace(chosen, reason=f"{chosen.reason} Not measured: {names}.")
    answers = {f.entrant.id: [each.predicted_N for each in f.test if each is not None] for f in finalists}
    return chosen, compare_methods(pairs, answers, scorer, generator(session.config.seed, "methods"))


def _entry(candidate: Candidate, finalist: Finalist) -> decision.Entry:
    assert candidate.test is not None
    return decision.Entry(
        id=candidate.id,
        method=candidate.method,
        family=candidate.family,
        backbone=candidate.backbone,
        predicted_N=finalist.shipped_test.predicted_N,
        price=float(candidate.cost.price or 0.0),
        test=candidate.test,
        is_floor=not candidate.reads_text,
    )


def _task(dataset: Dataset, scorer: Scorer) -> TaskSummary:
    task, splits = dataset.task, dataset.splits
    counts = np.bincount(scorer.true_N[scorer.true_N != UNKNOWN_LABEL], minlength=len(task.labels))
    return TaskSummary(
        name=task.name,
        kind=task.kind,
        metric=task.metric,
        labels=task.labels,
        chance=scorer.metric.chance(counts.tolist(), scorer.true_N.size),
        n_train=len(splits.train),
        n_dev=len(splits.dev),
        n_test=len(splits.test),
    )


def _backbone(name: str, workshop: Workshop) -> BackboneSummary:
    backbone = workshop.material.backbone
    return BackboneSummary(
        id=name,
        name=name,
        kind=backbone.identity.kind,
        parameters=backbone.num_parameters,
        sha256=backbone.identity.sha256,
        dtype=str(backbone.dtype).removeprefix("torch."),
    )


def _earlier_reads(out: Path, dataset: Dataset) -> int:
    """Runs beside this one that have answered the same test rows."""
    mine = test_sha256(dataset)
    others = [other for other in out.parent.iterdir() if other != out and (other / "predictions").is_dir()]
    return sum(_test_of(other) == mine for other in others)


def _test_of(run: Path) -> str | None:
    """Hash of the test rows of another run; None where its record cannot be read, which is no fault of this one."""
    try:
        return str(read_json(run / "data.json").get("test_sha256"))
    except (RunError, OSError, AttributeError):
        return None


def _provenance(session: Session, dataset: Dataset, started: str, command: str) -> Provenance:
    versions = environment()["versions"]
    assert isinstance(versions, dict)
    return Provenance(
        command=command,
        version=metadata.version("tunewright"),
        versions=versions,
        seed=session.config.seed,
        started=started,
        data_sha256=dataset.sha256,
    )
