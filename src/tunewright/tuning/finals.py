"""The finals: each candidate's best setting, fitted again with several seeds, answers the test rows once."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.inference import answer
from tunewright.data.swaps import swapped_rows
from tunewright.errors import EndpointError
from tunewright.files import append_line, dump_lines, write_text
from tunewright.runs.comparison import Comparison
from tunewright.runs.fits import Fit, Refit, Trial, finalist, refits, shipped
from tunewright.runs.folder import adapter_folder, predictions_file
from tunewright.runtime import generator
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.fit import fit, keep, kept
from tunewright.tuning.progress import OutOfTime, Step
from tunewright.tuning.session import Session, Watch
from tunewright.types import Dataset, Prediction

_SURE = 1.3
"""A refit that is expected to take more than its time by this factor is not begun."""


def refit(session: Session, effort: Effort) -> None:
    """Fits every finalist again: one seed of all before the next. With one seed the trial that won is kept instead.

    The test rows have not been seen by the search either way. But the winner of many trials is a lucky one of its
    setting: what is said of methods, from several seeds, would be too good, so that those are all refits.

    Under a budget the quick ones first, so that time cuts off few. Without one the order does not hang on measured
    seconds: a resumed run equals an uninterrupted one.
    """
    finished = {(r.candidate, r.seed) for r in refits(session.out)}
    found = [(entrant, finalist(effort.of(entrant))) for entrant in session.entrants]
    gone = session.gone(effort)
    best = [(entrant, trial) for entrant, trial in found if trial is not None and entrant.backbone not in gone]
    if session.clock.budget_s is not None:
        best.sort(key=lambda pair: pair[1].seconds)
    jobs = [(s, e, trial) for s in range(session.config.seeds) for e, trial in best]
    reserve_s = session.ending_s(len(best)) + session.answering_s(*(entrant for entrant, _ in best))
    left_out = 0
    for done, (seed, entrant, trial) in enumerate(jobs):
        if (entrant.id, seed) in finished:
            continue
        adapter = kept(session, entrant, trial) if session.ships_trials else None
        if adapter is not None:
            _enter(session, entrant, trial, seed, adapter)
            session.journal.note(f"{entrant.id}: trial {trial.trial + 1} is what is kept, dev {trial.value:.3f}")
            continue
        is_least = seed == 0 and entrant in session.least
        allowed_s = session.clock.left_s - reserve_s
        if is_least:
            allowed_s = max(allowed_s, session.urgent_s([entrant], entrant))
        if trial.seconds > _SURE * max(0.0, allowed_s) and not (is_least and _is_free(entrant)):
            left_out += 1
            continue
        step = Step(phase="refit", done=done, total=len(jobs), candidate=entrant.id, trial=f"seed {seed}")
        with session.clock.bounded(allowed_s):
            _refit_one(session, entrant, trial, seed, step)
    if left_out:
        session.journal.note(f"budget spent: {left_out} of {len(jobs)} refits not done")


def _is_free(entrant: Entrant) -> bool:
    """A floor: it neither trains nor runs the base, so there is always time for it."""
    return not entrant.space


def _refit_one(session: Session, entrant: Entrant, trial: Trial, seed: int, step: Step) -> None:
    rng = generator(session.config.seed, entrant.id, "refit", seed)
    watch = Watch(session, entrant, step)
    made, outcome = fit(session, entrant, trial.trial, trial.params, rng, watch, may_ship=True)
    if outcome is None or made.status != "complete":  # half a training is not what was tuned
        session.journal.note(f"{entrant.id} seed {seed}: nothing to keep ({made.reason})")
        return
    adapter = keep(session, entrant, made, outcome, seed)
    _enter(session, entrant, made, seed, adapter)
    session.journal.note(f"{entrant.id} seed {seed}: dev {made.value:.3f} in {made.seconds:.1f} s")


def _enter(session: Session, entrant: Entrant, made: Trial, seed: int, adapter: Adapter) -> None:
    """The line by which an artefact that is on disk takes part, and what is to be said of it."""
    session.note_cut(entrant, made.num_cut)
    if adapter.about.get("shots") == 0:
        session.journal.note(f"{entrant.id}: no answered example fits beside a row; none is shown")
    assert made.best is not None
    record = Refit(
        **{field.name: getattr(made, field.name) for field in fields(Fit)},
        seed=seed,
        dev=made.best.value,
        loss=made.best.loss,
        stopped=made.reason,
        adapter_bytes=adapter.num_bytes(),
        adapter_sha256=adapter.sha256(),
        trial=adapter.about.get("trial"),
    )
    append_line(session.out / "finalists.jsonl", asdict(record))


def read_test(session: Session, dataset: Dataset) -> None:
    """One pass over the test rows for every refit, from the adapters on disk; dev too for what is shipped.

    Under a budget the shipped ones first, the quick ones of them first; what does not fit has no answers.
    """
    found = refits(session.out)
    entrants = {entrant.id: entrant for entrant in session.entrants}
    best = {name: shipped([r for r in found if r.candidate == name]) for name in {r.candidate for r in found}}
    jobs = list(found)
    if session.clock.budget_s is not None:
        jobs.sort(key=lambda r: (r is not best[r.candidate], session.answering_s(entrants[r.candidate])))
    for done, record in enumerate(jobs):
        if predictions_file(session.out, record.candidate, record.seed).exists():
            continue
        entrant, is_shipped = entrants[record.candidate], record is best[record.candidate]
        allowed_s = session.clock.left_s - session.tail_s(len(best)) + (session.clock.grace_s if is_shipped else 0.0)
        if session.answering_s(entrant) > _SURE * max(0.0, allowed_s) and not (is_shipped and _is_free(entrant)):
            session.journal.note(f"budget spent: {entrant.id} seed {record.seed} does not answer the test rows")
            continue
        step = Step(phase="test", done=done, total=len(jobs), candidate=entrant.id, trial=f"seed {record.seed}")
        session.journal.step(step)
        with session.clock.bounded(allowed_s):
            try:
                _answer_one(session, dataset, entrant, record, is_shipped=is_shipped)
            except OutOfTime:
                session.journal.note(f"budget spent: {entrant.id} seed {record.seed} has not answered all test rows")
            except EndpointError as error:
                session.journal.note(f"{entrant.id} seed {record.seed} has not answered all test rows: {error}")
        session.clock.beat()


def _answer_one(session: Session, dataset: Dataset, entrant: Entrant, record: Refit, *, is_shipped: bool) -> None:
    """Answers of one artefact. The test rows last: their file says that all is there."""
    store = session.workshop(entrant).material.store
    adapter = folder.load(adapter_folder(session.out, entrant.id, record.seed))
    session.workshop(entrant).material.backbone.check(adapter)
    if is_shipped:
        dev = answer(adapter, dataset.splits.dev, store)
        _write(predictions_file(session.out, entrant.id, record.seed, "dev"), dev)
        swapped = [row for swap in swapped_rows(session.config.swap, dataset.splits.test) for row in swap.rows]
        if swapped:
            again = answer(adapter, swapped, store)
            _write(predictions_file(session.out, entrant.id, record.seed, "swapped"), again)
    if adapter.needs_features and not adapter.has_body:
        _share_features(session, dataset, entrant)
    start = time.monotonic()
    test = answer(adapter, dataset.splits.test, store)
    session.clock.test_s[f"{entrant.id}/{record.seed}"] = round(time.monotonic() - start, 3)
    _write(predictions_file(session.out, entrant.id, record.seed), test)


def _share_features(session: Session, dataset: Dataset, entrant: Entrant) -> None:
    """The bare base's features of the test rows, which several candidates share, timed apart from their answers."""
    taken = session.clock.test_s
    if entrant.backbone in taken:
        return
    material = session.workshop(entrant).material
    encodings = material.backbone.encode(dataset.splits.test, material.max_tokens)
    start = time.monotonic()
    material.store(encodings)
    taken[entrant.backbone] = round(time.monotonic() - start, 3)


def _write(file: Path, predictions: Sequence[Prediction]) -> None:
    write_text(file, dump_lines(asdict(p) for p in predictions))


def drop_unshipped(out: Path, result: Comparison) -> None:
    """Removes whole copies of the base that are not shipped; their answers and scores stay."""
    for candidate in result.candidates:
        for seed in candidate.seeds:
            if not seed.shipped and "weights" in candidate.parts:
                shutil.rmtree(adapter_folder(out, candidate.id, seed.seed), ignore_errors=True)
