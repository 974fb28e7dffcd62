"""From files to `comparison.json`: candidates with their costs, the decision, and where it all comes from."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from tunewright.data.load import test_sha256
from tunewright.data.sets import strata
from tunewright.errors import RunError
from tunewright.evaluation import decision
from tunewright.evaluation.checks import Facts, run_checks
from tunewright.evaluation.metrics import UNKNOWN_LABEL, Scorer, StatsArray, true_indices
from tunewright.evaluation.seeds import compare_methods
from tunewright.files import read_json
from tunewright.runs.comparison import (
    BackboneSummary,
    Candidate,
    Comparison,
    Decision,
    Pair,
    Protocol,
    Provenance,
    TaskSummary,
)
from tunewright.runtime import environment, generator
from tunewright.tuning import outside
from tunewright.tuning.attempt import Workshop
from tunewright.tuning.candidates import finished, flips_of, unfinished
from tunewright.tuning.choice import choose, num_resamples
from tunewright.tuning.effort import Effort, Entrant, size
from tunewright.tuning.ledger import family_effort
from tunewright.tuning.results import read_finalists
from tunewright.tuning.session import Session
from tunewright.types import Dataset, Family, label_set


def conclude(
    session: Session, effort: Effort, dataset: Dataset, refused: Sequence[Entrant], *, started: str, command: str
) -> Comparison:
    """The whole result of a run that `started` then (ISO 8601) by a command, from its trials and rows."""
    scorer = session.scorer(dataset.task, dataset.splits.test)
    finalists = read_finalists(session.out, session.entrants, effort, dataset)
    done = [f.entrant for f in finalists]
    rows = dataset.splits.test
    measured = [
        dataclasses.replace(finished(session, finalist, dataset, scorer, rows), flips=flips_of(session, finalist, rows))
        for finalist in finalists
    ]
    missing = [unfinished(session, e, effort) for e in (*session.entrants, *refused) if e not in done]
    answers = {f.entrant.id: [None if each is None else scorer.stats(each.given) for each in f.test] for f in finalists}
    for name, given in outside.stored(session, dataset).items():
        measured.append(outside.entered(session, name, given, scorer))
        answers[name] = [scorer.stats(given.given)]
    chosen, pairs = _decide(session, measured, answers, scorer)
    chosen = None if chosen is None else name_missing(chosen, missing)
    result = assemble(
        session,
        dataset,
        (*measured, *missing),
        (chosen, pairs),
        efforts=[effort],
        protocol=Protocol(),
        started=started,
        command=command,
    )
    return dataclasses.replace(result, checks=run_checks(facts(session, [effort], dataset, result)))


def assemble(
    session: Session,
    dataset: Dataset,
    candidates: Sequence[Candidate],
    decided: tuple[Decision | None, Sequence[Pair]],
    *,
    efforts: Sequence[Effort],
    protocol: Protocol,
    started: str,
    command: str,
) -> Comparison:
    """The result of a run that `started` then (ISO 8601) by a command, from what was found out.

    The dataset's `test` are the rows that were answered; efforts are of its search, or of that of each fold.
    """
    return Comparison(
        task=_task(dataset, session.scorer(dataset.task, dataset.splits.test)),
        backbones=tuple(_backbone(name, workshop) for name, workshop in session.workshops.items()),
        candidates=tuple(candidates),
        pairs=tuple(decided[1]),
        decision=decided[0],
        effort=family_effort(
            (e.family for e in session.entrants), [each.history for each in efforts], session.price_list.prices
        ),
        test_reads=1 + _earlier_reads(session.out, dataset),
        provenance=_provenance(session, dataset, started, command),
        protocol=protocol,
    )


def facts(session: Session, efforts: Sequence[Effort], dataset: Dataset, result: Comparison) -> Facts:
    """What the checks look at; efforts are of its search, or of that of each fold."""
    return Facts(
        comparison=result,
        notices=dataset.notices,
        train_labels={label for row in dataset.splits.train if row.label is not None for label in strata(row)},
        test_labels=[label for row in dataset.splits.test if row.label is not None for label in strata(row)],
        spent=_spent(session, efforts),
        unit="seconds" if efforts[0].trials is None else "trials",
    )


def _spent(session: Session, efforts: Sequence[Effort]) -> dict[Family, float]:
    """What each family with something left to tune has spent, in trials or, where time alone decides, in seconds."""
    spent: dict[Family, float] = {}
    for family in dict.fromkeys(entrant.family for entrant in session.entrants):
        mine = [entrant for entrant in session.entrants if entrant.family == family]
        if any(len(effort.of(entrant)) < size(entrant.space) for effort in efforts for entrant in mine):
            tuned = [t for effort in efforts for entrant in mine for t in effort.of(entrant) if t.params]
            spent[family] = sum(1.0 if efforts[0].trials is not None else trial.seconds for trial in tuned)
    return spent


def name_missing(chosen: Decision, missing: Sequence[Candidate]) -> Decision:
    """The decision, with who took no part in it."""
    if not missing:
        return chosen
    names = ", ".join(candidate.id for candidate in missing)
    return dataclasses.replace(chosen, reason=f"{chosen.reason} Not measured: {names}.")


def _decide(
    session: Session,
    measured: Sequence[Candidate],
    answers: Mapping[str, Sequence[StatsArray | None]],
    scorer: Scorer,
) -> tuple[Decision | None, tuple[Pair, ...]]:
    if not measured:
        return None, ()
    entries = [_entry(candidate, answers[candidate.id]) for candidate in measured]

    def decide(entries: Sequence[decision.Entry]) -> tuple[Decision, tuple[Pair, ...]]:
        rng = generator(session.config.seed, "decision")
        margin, prices = session.config.margin, session.price_list.prices
        resamples = num_resamples(session, len(measured))
        return decision.decide(entries, scorer, rng, margin_points=margin, prices=prices, num_resamples=resamples)

    chosen, pairs = choose(session, measured, entries, decide)
    known = {name: [each for each in by_seed if each is not None] for name, by_seed in answers.items()}
    return chosen, compare_methods(pairs, known, scorer, generator(session.config.seed, "methods"))


def _entry(candidate: Candidate, answers: Sequence[StatsArray | None]) -> decision.Entry:
    """As the decision sees it: an unknown price is the dearest. `answers` are the statistics of each seed's."""
    assert candidate.test is not None
    shipped_NM = answers[[seed.shipped for seed in candidate.seeds].index(True)]
    assert shipped_NM is not None, "a measured candidate's shipped artefact has answered"
    return decision.Entry(
        id=candidate.id,
        method=candidate.method,
        family=candidate.family,
        backbone=candidate.backbone,
        stats_NM=shipped_NM,
        price=math.inf if candidate.cost.price is None else candidate.cost.price,
        test=candidate.test,
        is_floor=candidate.is_floor,
    )


def _task(dataset: Dataset, scorer: Scorer) -> TaskSummary:
    task, splits = dataset.task, dataset.splits
    return TaskSummary(
        name=task.name,
        kind=task.kind,
        metric=task.metric,
        labels=task.labels,
        chance=_chance(scorer),
        n_train=len(splits.train),
        n_dev=len(splits.dev),
        n_test=len(splits.test),
    )


def _chance(scorer: Scorer) -> float | None:
    """What the metric reaches without reading the texts, where that is known."""
    if scorer.metric.chance is None or any(len(label_set(right[0])) > 1 for right in scorer.references):
        return None
    true_N = true_indices(scorer)
    counts = np.bincount(true_N[true_N != UNKNOWN_LABEL], minlength=len(scorer.labels))
    return scorer.metric.chance(counts.tolist(), scorer.num_rows)


def _backbone(name: str, workshop: Workshop) -> BackboneSummary:
    backbone = workshop.material.backbone
    return BackboneSummary(
        id=name,
        name=name,
        kind=backbone.identity.kind,
        parameters=backbone.num_parameters,
        sha256=backbone.identity.sha256,
        dtype=backbone.precision,
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
