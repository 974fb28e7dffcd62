"""The finals: each candidate's best setting is fitted again with several seeds, and answers the test rows once."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.inference import answer
from tunewright.data.swaps import swapped_rows
from tunewright.errors import OutOfMemory
from tunewright.evaluation.calibration import fit_temperature
from tunewright.files import append_line, dump_lines, write_text
from tunewright.methods import METHODS
from tunewright.runs.comparison import Comparison
from tunewright.runs.fits import Refit, Trial, finalist, refits, shipped
from tunewright.runs.folder import adapter_folder, predictions_file
from tunewright.runtime import generator
from tunewright.training.loop import Trained
from tunewright.tuning.attempt import Outcome, attempt
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import Step
from tunewright.tuning.search import OUT_OF_TIME
from tunewright.tuning.session import Session
from tunewright.types import Dataset, DevScore, Prediction

_TEST_S = 5.0
"""Kept for the test pass and the report while refitting."""


def refit(session: Session, effort: Effort) -> None:
    """Fits every finalist again: one seed of all before the next.

    Under a budget the quick ones first, so that time cuts off few. Without one the order does not hang on measured
    seconds: a resumed run equals an uninterrupted one.
    """
    finished = {(r.candidate, r.seed) for r in refits(session.out)}
    found = [(entrant, finalist(effort.of(entrant))) for entrant in session.entrants]
    best = [(entrant, trial) for entrant, trial in found if trial is not None]
    if session.config.budget is not None:
        best.sort(key=lambda pair: pair[1].seconds)
    jobs = [(s, e, trial) for s in range(session.config.seeds) for e, trial in best]
    for done, (seed, entrant, trial) in enumerate(jobs):
        if (entrant.id, seed) in finished:
            continue
        if session.clock.left_s <= _TEST_S:
            session.journal.note(f"budget spent: {len(jobs) - done} of {len(jobs)} refits not done")
            break
        step = Step(phase="refit", done=done, total=len(jobs), candidate=entrant.id, trial=f"seed {seed}")
        _refit_one(session, entrant, trial, seed, step)


def _refit_one(session: Session, entrant: Entrant, trial: Trial, seed: int, step: Step) -> None:
    def observe(epochs: float, score: DevScore | None) -> str | None:
        session.journal.step(step.moved(epochs, None if score is None else score.value, session.clock.left_s))
        session.clock.beat()
        return OUT_OF_TIME if session.clock.left_s <= _TEST_S else None

    rng = generator(session.config.seed, entrant.id, "refit", seed)
    try:
        outcome = attempt(METHODS[entrant.method], trial.params, session.workshop(entrant), rng, observe)
    except OutOfMemory:
        session.journal.note(f"{entrant.id} seed {seed}: nothing to keep (out of memory)")
        return
    session.note_memory(entrant, outcome)
    best, stopped = outcome.trained.best, outcome.trained.stopped
    if best is None or stopped == OUT_OF_TIME:  # half a training is not what was tuned
        session.journal.note(f"{entrant.id} seed {seed}: nothing to keep ({stopped})")
        return
    dev_labels_N = session.workshop(entrant).exam.rows.labels_N
    adapter = _calibrated(_labelled(session, outcome, entrant, trial, seed), outcome.trained, dev_labels_N)
    folder.save(adapter, adapter_folder(session.out, entrant.id, seed))
    record = _record(entrant, trial, seed, outcome, best, adapter)
    append_line(session.out / "finalists.jsonl", asdict(record))
    session.journal.note(f"{entrant.id} seed {seed}: dev {best.value:.3f} in {outcome.seconds:.1f} s")


def _labelled(session: Session, outcome: Outcome, entrant: Entrant, trial: Trial, seed: int) -> Adapter:
    """The trained adapter with its provenance."""
    task, best = session.workshop(entrant).material.task, outcome.trained.best
    assert best is not None
    about = {
        "task": task.name,
        "metric": task.metric,
        "columns": dict(session.columns),
        "dtype": str(session.workshop(entrant).material.backbone.dtype).removeprefix("torch."),
        "candidate": entrant.id,
        "method": entrant.method,
        "params": dict(trial.params),
        "seed": seed,
        "dev": best.value,
        "epoch": best.epoch,
    }
    return outcome.trained.adapter.with_about(about)


def _calibrated(adapter: Adapter, trained: Trained, labels_N: Tensor) -> Adapter:
    """The adapter with the temperature that its answers to the dev rows ask for."""
    assert trained.dev_logits_NC is not None
    return adapter.with_temperature(fit_temperature(trained.dev_logits_NC.double().numpy(), labels_N.numpy()))


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
    """One pass over the test rows for every refit, from the adapters on disk; dev too for what is shipped."""
    found = refits(session.out)
    backbones = {entrant.id: entrant for entrant in session.entrants}
    for done, record in enumerate(found):
        file = predictions_file(session.out, record.candidate, record.seed)
        if file.exists():
            continue
        is_shipped = shipped([r for r in found if r.candidate == record.candidate]) is record
        workshop = session.workshop(backbones[record.candidate])
        session.journal.step(
            Step(phase="test", done=done, total=len(found), candidate=record.candidate, trial=f"seed {record.seed}")
        )
        adapter = folder.load(adapter_folder(session.out, record.candidate, record.seed))
        workshop.material.backbone.check(adapter)
        if is_shipped:
            dev = answer(adapter, dataset.splits.dev, workshop.material.store)
            _write(predictions_file(session.out, record.candidate, record.seed, "dev"), dev)
            swapped = [row for swap in swapped_rows(session.config.swap, dataset.splits.test) for row in swap.rows]
            if swapped:
                found_again = answer(adapter, swapped, workshop.material.store)
                _write(predictions_file(session.out, record.candidate, record.seed, "swapped"), found_again)
        _write(file, answer(adapter, dataset.splits.test, workshop.material.store))
        session.clock.beat()


def _write(file: Path, predictions: Sequence[Prediction]) -> None:
    write_text(file, dump_lines(asdict(p) for p in predictions))


def drop_unshipped(out: Path, result: Comparison) -> None:
    """Removes whole copies of the base that are not shipped; their answers and scores stay."""
    for candidate in result.candidates:
        for seed in candidate.seeds:
            if not seed.shipped and "weights" in candidate.parts:
                shutil.rmtree(adapter_folder(out, candidate.id, seed.seed), ignore_errors=True)
