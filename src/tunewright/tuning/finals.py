"""The finals: each candidate's best setting is fitted again with several seeds, and answers the test rows once."""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Thresholds
from tunewright.backbones.base import Base
from tunewright.backbones.inference import answer
from tunewright.data.examples import MARK
from tunewright.data.swaps import swapped_rows
from tunewright.errors import EndpointError, OutOfMemory
from tunewright.evaluation.calibration import fit_temperature
from tunewright.files import append_line, dump_lines, write_text
from tunewright.methods.table import find
from tunewright.runs.comparison import Comparison
from tunewright.runs.fits import Refit, Trial, finalist, refits, shipped
from tunewright.runs.folder import adapter_folder, predictions_file
from tunewright.runtime import generator
from tunewright.training import state
from tunewright.training.loop import Trained
from tunewright.training.objective import Rows
from tunewright.tuning.attempt import Outcome, attempt, fitted_thresholds
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import OutOfTime, Step
from tunewright.tuning.session import OUT_OF_TIME, Session, Watch
from tunewright.types import Dataset, DevScore, Prediction, Task

_SURE = 1.3
"""A refit that is expected to take more than its time by this factor is not begun."""


def refit(session: Session, effort: Effort) -> None:
    """Fits every finalist again: one seed of all before the next.

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
    try:
        outcome = attempt(
            find(entrant.method),
            trial.params,
            session.workshop(entrant),
            rng,
            watch,
            keeps_state=session.config.keep_state,
        )
    except (OutOfMemory, OutOfTime, EndpointError) as error:
        why = {OutOfMemory: "out of memory", OutOfTime: OUT_OF_TIME}.get(type(error), str(error))
        session.journal.note(f"{entrant.id} seed {seed}: nothing to keep ({why})")
        return
    session.note_memory(entrant, outcome)
    best, stopped = outcome.trained.best, outcome.trained.stopped
    if best is None or stopped == OUT_OF_TIME:  # half a training is not what was tuned
        session.journal.note(f"{entrant.id} seed {seed}: nothing to keep ({stopped})")
        return
    material, dev = session.workshop(entrant).material, session.workshop(entrant).exam.rows
    adapter = _calibrated(_labelled(session, outcome, entrant, trial, seed), outcome.trained, dev, material.task)
    folder.save(adapter, adapter_folder(session.out, entrant.id, seed))
    if outcome.trained.state is not None:
        state.save(outcome.trained.state, adapter_folder(session.out, entrant.id, seed))
    session.note_cut(entrant, outcome)
    if adapter.about.get("shots") == 0:
        session.journal.note(f"{entrant.id}: no answered example fits beside a row; none is shown")
    record = _record(entrant, trial, seed, outcome, best, adapter)
    append_line(session.out / "finalists.jsonl", asdict(record))
    session.journal.note(f"{entrant.id} seed {seed}: dev {best.value:.3f} in {outcome.seconds:.1f} s")


def _labelled(session: Session, outcome: Outcome, entrant: Entrant, trial: Trial, seed: int) -> Adapter:
    """The trained adapter with its provenance."""
    task, best = session.workshop(entrant).material.task, outcome.trained.best
    assert best is not None
    target = session.columns.get("target")
    about = {
        "task": task.name,
        "metric": task.metric,
        "columns": dict(session.columns),
        **({"label_separator": session.config.label_separator} if task.kind == "multi-label" else {}),
        **({"choices": list(session.config.choices)} if task.kind == "choose" else {}),
        **({"messages": True} if session.workshop(entrant).material.examples[0].messages else {}),
        **({"reply_behind": True} if session.is_reply else {}),
        **({"target_behind": MARK} if target is not None and target == session.config.reasoning else {}),
        **_of_base(session.workshop(entrant).material.backbone),
        "candidate": entrant.id,
        "method": entrant.method,
        "params": dict(trial.params),
        "seed": seed,
        "dev": best.value,
        "epoch": best.epoch,
    }
    return outcome.trained.adapter.with_about({**outcome.trained.adapter.about, **about})


def _of_base(base: Base) -> dict[str, object]:
    """What an adapter is told of the base it was made on."""
    return dict(base.about) if base.precision is None else {"dtype": base.precision, **base.about}


def _calibrated(adapter: Adapter, trained: Trained, dev: Rows, task: Task) -> Adapter:
    """The adapter with the temperature or the thresholds that its answers to the dev rows ask for.

    One that writes texts stays as it is.
    """
    logits_NC = trained.dev_logits_NC
    if logits_NC is None:
        return adapter
    if dev.sets_NC is not None:
        return dataclasses.replace(adapter, thresholds=Thresholds(logits_C=fitted_thresholds(task, logits_NC, dev)))
    return adapter.with_temperature(fit_temperature(logits_NC.double().numpy(), dev.labels_N.numpy()))


def _record(entrant: Entrant, trial: Trial, seed: int, outcome: Outcome, best: DevScore, adapter: Adapter) -> Refit:
    return Refit(
        candidate=entrant.id,
        seed=seed,
        params=dict(trial.params),
        dev=best.value,
        loss=best.loss,
        epochs=len(outcome.trained.scores),
        seconds=round(outcome.seconds, 3),
        stopped=outcome.trained.stopped,
        num_tokens=outcome.trained.num_tokens,
        trainable=outcome.trainable,
        peak_memory_bytes=outcome.peak_memory_bytes,
        adapter_bytes=adapter.num_bytes(),
        adapter_sha256=adapter.sha256(),
    )


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
