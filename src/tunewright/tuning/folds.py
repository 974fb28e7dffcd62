"""Cross-validation: the whole procedure, search included, in each fold; then once on all rows for what is shipped.

Shapes: R repeats, N rows, C labels; J folds of all repeats, in order.
"""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.adapters import folder
from tunewright.evaluation.answers import Answers
from tunewright.evaluation.checks import run_checks
from tunewright.evaluation.cross_validation import FoldEntry, decide_folds, fold_estimate
from tunewright.evaluation.metrics import FloatArray, IntArray, Scorer, StatsArray
from tunewright.evaluation.statistics import wilson
from tunewright.files import dump_lines, write_text
from tunewright.runs.comparison import Candidate, Comparison, Decision, Pair, SeedResult
from tunewright.runs.fits import Refit, refits, shipped
from tunewright.runs.folder import adapter_folder, fold_folder, predictions_file
from tunewright.runs.measurements import Flips
from tunewright.runtime import generator
from tunewright.tuning import conclusion, outside
from tunewright.tuning.candidates import finished, flips_of, judged, unfinished
from tunewright.tuning.choice import choose
from tunewright.tuning.effort import Entrant
from tunewright.tuning.protocol import Plan
from tunewright.tuning.results import Finalist, read_finalists
from tunewright.tuning.session import Session
from tunewright.tuning.stage import Stage
from tunewright.types import Prediction

_NOTHING_KEPT = "There was no time left to train it on all rows, so no model is kept: raise --budget."


def cross_validate(
    stage: Stage, plan: Plan, out: Path, *, started: str, command: str
) -> tuple[Comparison, list[Stage]]:
    """The whole result, and the stages it took.

    Args:
        stage: On all rows: it lends the folds its bases, and ends in what is shipped.
        plan: The folds.
        out: The run folder.
        started: When the run began, ISO 8601.
        command: What was typed.
    """
    task, rows = plan.dataset.task, plan.dataset.splits.test
    for workshop in stage.session.workshops.values():  # all rows at once: the same batches in a resumed run
        workshop.material.store(workshop.material.backbone.encode(rows, workshop.material.max_tokens))
    stages = [_run_fold(stage, plan, position, out) for position in range(len(plan.folds))]
    stage.session.begin()
    scorer = stage.session.scorer(task, rows)
    fold_RN = _in_order(plan, [np.full(len(fold.splits.test), fold.number) for fold in plan.folds])
    held_out = _held_out(stages, plan)
    for held in held_out:
        _write(held, plan, out)
    session = dataclasses.replace(stage.session, out=out)
    measured = [_candidate(held, stages, plan, fold_RN, scorer) for held in held_out]
    entries = [_entry(candidate, held.stats(scorer)) for candidate, held in zip(measured, held_out, strict=True)]
    for name, given in outside.stored(session, plan.dataset).items():
        given_RNM = np.tile(scorer.stats(given.given), (plan.protocol.repeats, 1, 1))
        entered, test = outside.entered(session, name, given, scorer), fold_estimate(given_RNM, fold_RN, scorer)
        measured.append(judged(session, dataclasses.replace(entered, test=test)))
        entries.append(_entry(measured[-1], given_RNM))
    missing = _missing(stages, held_out)
    chosen, pairs = _decide(session, measured, entries, scorer, fold_RN)
    searched = [each.effort for each in stages]
    if chosen is not None:
        chosen = conclusion.name_missing(chosen, missing)
        if chosen.recommended in {held.entrant.id for held in held_out}:
            alone = _alone(stage, stages[0], str(chosen.recommended))
            stages.append(alone)
            refit = _train_on_all(alone, str(chosen.recommended), out)
            measured = [_with_shipped(c, refit) if c.id == chosen.recommended else c for c in measured]
            untold = "" if refit is not None else f" {_NOTHING_KEPT}"
            chosen = dataclasses.replace(chosen, reason=chosen.reason + untold)
    result = conclusion.assemble(
        session,
        plan.dataset,
        (*measured, *missing),
        (chosen, pairs),
        efforts=searched,
        protocol=plan.protocol,
        started=started,
        command=command,
    )
    found = conclusion.facts(session, searched, plan.dataset, result)
    return dataclasses.replace(result, checks=run_checks(found)), stages


def _decide(
    session: Session,
    measured: Sequence[Candidate],
    entries: Sequence[FoldEntry],
    scorer: Scorer,
    fold_RN: IntArray,
) -> tuple[Decision | None, tuple[Pair, ...]]:
    if not entries:
        return None, ()

    def decide(taking_part: Sequence[FoldEntry]) -> tuple[Decision, tuple[Pair, ...]]:
        rng, prices = generator(session.config.seed, "decision"), session.price_list.prices
        margin = session.config.margin
        return decide_folds(taking_part, scorer, fold_RN, rng, margin_points=margin, prices=prices)

    return choose(session, measured, entries, decide)


def _run_fold(stage: Stage, plan: Plan, position: int, out: Path) -> Stage:
    """Searches and answers the held-out rows, or goes on with that.

    Without refits: folds and repeats are the replicates, and the luck by which a trial won is none on held-out rows.
    The adapters of the first fold are kept, to be weighed and timed.
    """
    fold, session = plan.folds[position], stage.session
    place = fold_folder(out, fold.name)
    if not refits(place):
        session.journal.note(f"Fold {fold.number + 1} of {plan.protocol.folds}, repeat {fold.repeat + 1}:")
    seed = int(generator(session.config.seed, "fold", fold.name).integers(2**31))
    there = stage.elsewhere(
        session.config.model_copy(update={"seed": seed, "seeds": 1}),
        dataclasses.replace(plan.dataset, splits=fold.splits),
        place,
        session.clock.share(1 + len(plan.folds) - position),
    )
    there.run()
    there.read_test()
    if position > 0:
        shutil.rmtree(place / "adapters", ignore_errors=True)
    return there


def _alone(stage: Stage, fold: Stage, candidate: str) -> Stage:
    """The stage on all rows for one candidate, with the trials that it had in a fold."""
    num_trials = sum(t.candidate == candidate and t.status != "unanswered" for t in fold.effort.history)
    return stage.of(candidate, None if stage.effort.trials is None else num_trials)


def _train_on_all(alone: Stage, candidate: str, out: Path) -> Refit | None:
    """The same procedure on all rows, with as many refits as asked for.

    Returns:
        What is shipped: the refit that is best on dev. None where the time did not suffice.
    """
    place = alone.session.out
    if not refits(place):
        alone.session.journal.note(f"{candidate} on all rows:")
    alone.run()
    found = refits(place)
    if not found:
        return None
    best = shipped(found)
    source = adapter_folder(place, candidate, best.seed)
    if source.exists():  # else it is in its place already
        adapter = folder.load(source)
        folder.save(adapter.with_about({**adapter.about, "tested": False}), adapter_folder(out, candidate, 0))
    shutil.rmtree(place / "adapters", ignore_errors=True)
    return best


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """A candidate's answers to all rows, each given while the row was held out."""

    entrant: Entrant
    finalists: Sequence[Finalist]
    """Of each fold [J]."""
    given_RN: NDArray[np.object_]
    """Labels or texts."""
    probabilities_RNC: FloatArray

    def stats(self, scorer: Scorer) -> StatsArray:
        """Of the answers of each repeat: [R, N, M]."""
        return np.stack([scorer.stats(given_N) for given_N in self.given_RN.tolist()])


def _held_out(stages: Sequence[Stage], plan: Plan) -> list[HeldOut]:
    """The candidates that answered in every fold."""
    found = [read_finalists(s.session.out, s.session.entrants, s.effort, s.dataset) for s in stages]
    by_fold = [{finalist.entrant.id: finalist for finalist in finalists} for finalists in found]
    return [
        HeldOut(
            entrant=entrant,
            finalists=(mine := [finalists[entrant.id] for finalists in by_fold]),
            given_RN=_in_order(plan, [np.array(f.shipped_test.given, dtype=object) for f in mine]),
            probabilities_RNC=_in_order(plan, [f.shipped_test.probabilities_NC for f in mine]),
        )
        for entrant in stages[0].session.entrants
        if all(entrant.id in finalists for finalists in by_fold)
    ]


def _in_order(plan: Plan, values_J: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Values of the held-out rows of each fold, as [R, N, ...] in the order of all rows."""
    place = {row.id: k for k, row in enumerate(plan.dataset.splits.test)}
    flat = np.concatenate(values_J)
    ordered = np.empty_like(flat)
    ordered[[fold.repeat * len(place) + place[row.id] for fold in plan.folds for row in fold.splits.test]] = flat
    return ordered.reshape(plan.protocol.repeats, len(place), *flat.shape[1:])


def _write(held: HeldOut, plan: Plan, out: Path) -> None:
    """The answers to all rows, a file for each repeat."""
    rows, answer = plan.dataset.splits.test, "text" if plan.dataset.task.kind == "generate" else "label"
    for repeat, answers_N in enumerate(zip(held.given_RN.tolist(), held.probabilities_RNC.tolist(), strict=True)):
        predictions = [
            Prediction(id=row.id, probabilities=tuple(p), **{answer: given})
            for row, given, p in zip(rows, *answers_N, strict=True)
        ]
        write_text(predictions_file(out, held.entrant.id, repeat), dump_lines(map(asdict, predictions)))


def _candidate(held: HeldOut, stages: Sequence[Stage], plan: Plan, fold_RN: IntArray, scorer: Scorer) -> Candidate:
    """A candidate that answered every row; what it takes to serve is that of its model in the first fold."""
    first = stages[0]
    splits = dataclasses.replace(first.dataset.splits, test=plan.dataset.splits.test)
    answers = Answers(given=tuple(held.given_RN[0].tolist()), probabilities_NC=held.probabilities_RNC[0])
    trials = [trial for finalist in held.finalists for trial in finalist.trials]
    finalist = dataclasses.replace(held.finalists[0], trials=trials, test=[answers])
    dataset, own_rows = dataclasses.replace(plan.dataset, splits=splits), first.dataset.splits.test
    candidate = finished(first.session, finalist, dataset, scorer, own_rows)
    num_folds, stats_RNM = plan.protocol.folds, held.stats(scorer)
    devs = [finalist.shipped.dev for finalist in held.finalists]
    seeds = tuple(
        SeedResult(
            seed=repeat,
            dev=fmean(devs[repeat * num_folds :][:num_folds]),
            test=scorer.value(stats_NM),
            shipped=False,
        )
        for repeat, stats_NM in enumerate(stats_RNM)
    )
    test = fold_estimate(stats_RNM, fold_RN, scorer)
    pooled = dataclasses.replace(
        candidate,
        seeds=seeds,
        dev=None,
        test=test,
        cost=dataclasses.replace(candidate.cost, predict_s=None),
        calibration=None,  # each fold has a temperature of its own, and so has what is shipped
        flips=_flips(held, stages, plan),
    )
    return judged(stages[0].session, pooled)


def _flips(held: HeldOut, stages: Sequence[Stage], plan: Plan) -> tuple[Flips, ...]:
    """Over the folds of the first repeat: each row was answered, with its terms swapped too, by one model."""
    once = list(zip(stages, held.finalists, strict=True))[: plan.protocol.folds]
    found = [each for s, f in once for each in flips_of(s.session, f, s.dataset.splits.test)]
    by_terms: dict[tuple[str, ...], list[Flips]] = {}
    for each in found:
        by_terms.setdefault(each.terms, []).append(each)
    return tuple(
        Flips(
            terms=terms,
            rows=(rows := sum(each.rows for each in mine)),
            flipped=wilson(sum(round(each.flipped.value * each.rows) for each in mine), rows),
        )
        for terms, mine in by_terms.items()
    )


def _with_shipped(candidate: Candidate, refit: Refit | None) -> Candidate:
    """The recommended one, with what was trained on all rows."""
    if refit is None:
        return candidate
    first, *others = candidate.seeds
    seeds = (dataclasses.replace(first, shipped=True), *others)
    return dataclasses.replace(candidate, params=refit.params, seeds=seeds)


def _missing(stages: Sequence[Stage], held_out: Sequence[HeldOut]) -> list[Candidate]:
    """Those that did not answer in every fold, with what happened in the first that lacks them."""
    done, first = {held.entrant.id for held in held_out}, stages[0]
    found = {entrant.id: unfinished(first.session, entrant, first.effort) for entrant in first.refused}
    for stage in stages:
        answered = {refit.candidate for refit in refits(stage.session.out)}
        for entrant in stage.session.entrants:
            if entrant.id not in done | answered | set(found):
                found[entrant.id] = unfinished(stage.session, entrant, stage.effort)
    return list(found.values())


def _entry(candidate: Candidate, stats_RNM: StatsArray) -> FoldEntry:
    return FoldEntry(
        id=candidate.id,
        method=candidate.method,
        family=candidate.family,
        backbone=candidate.backbone,
        stats_RNM=stats_RNM,
        price=math.inf if candidate.cost.price is None else candidate.cost.price,
        is_floor=candidate.is_floor,
    )
