"""The finals: each candidate's best setting is fitted again with several seeds, and answers the test rows once."""

import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Row
from tunewright.backbones.inference import predict
from tunewright.errors import OutOfMemory
from tunewright.evaluation.attempt import Outcome, Workshop, attempt
from tunewright.evaluation.comparison import Comparison
from tunewright.evaluation.effort import Effort, Entrant, Trial, finalist
from tunewright.evaluation.progress import Step
from tunewright.evaluation.search import OUT_OF_TIME
from tunewright.evaluation.session import Session
from tunewright.methods import METHODS
from tunewright.runs import append_line, dump_lines, read_lines, write_text
from tunewright.runtime import generator
from tunewright.training.stopping import DevScore
from tunewright.types import Dataset, Example, Params, Prediction

_TEST_S = 5.0
"""Kept for the test pass and the report while refitting."""
_LATENCY_RUNS = 9


@dataclass(frozen=True, kw_only=True)
class Refit:
    """One line of `finalists.jsonl`."""

    candidate: str
    seed: int
    params: Params
    dev: float
    loss: float
    epochs: int
    seconds: float
    stopped: str
    num_tokens: int
    trainable: int
    peak_memory_bytes: int | None
    adapter_bytes: int
    adapter_sha256: str

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Refit":
        """From a line."""
        return cls(**{f.name: record[f.name] for f in fields(cls)})


def adapter_folder(out: Path, candidate: str, seed: int) -> Path:
    """Where a refit's adapter is."""
    return out / "adapters" / candidate / f"seed-{seed}"


def predictions_file(out: Path, candidate: str, seed: int, split: str = "test") -> Path:
    """Where a refit's answers are."""
    name = f"seed-{seed}.jsonl" if split == "test" else f"seed-{seed}.{split}.jsonl"
    return out / "predictions" / candidate / name


def refits(out: Path) -> list[Refit]:
    """Those that are finished."""
    return [Refit.read(line) for line in read_lines(out / "finalists.jsonl")]


def shipped(found: Sequence[Refit]) -> Refit:
    """The one that is best on dev: what the decision is about."""
    return max(found, key=lambda r: (r.dev, -r.loss, -r.seed))


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
    adapter = _labelled(session, outcome, entrant, trial, seed)
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
            dev = answer_rows(adapter, dataset.splits.dev, workshop)
            _write(predictions_file(session.out, record.candidate, record.seed, "dev"), dev)
        _write(file, answer_rows(adapter, dataset.splits.test, workshop))
        session.clock.beat()


def answer_rows(adapter: Adapter, examples: Sequence[Example], workshop: Workshop) -> list[Prediction]:
    """The adapter's answers."""
    backbone = workshop.material.backbone
    encodings = backbone.encode(examples, adapter.max_tokens - adapter.prefix_tokens)
    logits_NC = predict(adapter, encodings, workshop.material.store)
    return to_predictions(adapter, examples, logits_NC)


def to_predictions(adapter: Adapter, examples: Sequence[Example], logits_NC: Tensor) -> list[Prediction]:
    """Logits as labels with probabilities."""
    probabilities = logits_NC.double().softmax(-1)
    best = logits_NC.argmax(-1).tolist()
    rows = zip(examples, best, probabilities.tolist(), strict=True)
    return [Prediction(id=e.id, label=adapter.labels[k], probabilities=tuple(p)) for e, k, p in rows]


def _write(file: Path, predictions: Sequence[Prediction]) -> None:
    write_text(file, dump_lines(asdict(p) for p in predictions))


def latency_ms(adapter: Adapter, examples: Sequence[Example], workshop: Workshop) -> float:
    """Median wall-clock milliseconds of one request, from text to logits, one at a time."""
    backbone = workshop.material.backbone
    times = []
    for k in range(_LATENCY_RUNS + 1):
        start = time.perf_counter()
        encodings = backbone.encode([examples[k % len(examples)]], adapter.max_tokens - adapter.prefix_tokens)
        backbone.logits([Row(encoding=encodings[0], adapter=adapter)])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def drop_unshipped(out: Path, result: Comparison) -> None:
    """Removes whole copies of the base that are not shipped; their answers and scores stay."""
    for candidate in result.candidates:
        for seed in candidate.seeds:
            if not seed.shipped and "weights" in candidate.parts:
                shutil.rmtree(adapter_folder(out, candidate.id, seed.seed), ignore_errors=True)
