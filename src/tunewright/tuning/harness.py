"""The harness: owns the splits, gives every family the same effort, refits the finalists and reads test once.

    data -> search (trials.jsonl) -> refit (finalists.jsonl, adapters/) -> one pass over test (predictions/)
         -> comparison.json

Each arrow is a file; a killed run goes on from what is there.
"""

import dataclasses
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml

from tunewright.backbones.backbone import Backbone
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.kinds import open_backbone
from tunewright.config import RunConfig, choose
from tunewright.data.load import load_dataset, test_sha256
from tunewright.errors import ConfigError, RunError, unknown
from tunewright.evaluation.metrics import METRICS
from tunewright.files import dump_lines, read_json, write_json, write_text
from tunewright.methods import METHODS
from tunewright.runs import comparison
from tunewright.runs.fits import refits, trials
from tunewright.runs.folder import open_run
from tunewright.runtime import device, environment
from tunewright.tuning import conclusion, finals
from tunewright.tuning.attempt import Workshop, prepare
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import Clock, Journal, Listener
from tunewright.tuning.search import run_search
from tunewright.tuning.session import Session
from tunewright.types import Dataset, Notice


def compare(config: RunConfig, out: Path, listener: Listener, *, command: Sequence[str] = ()) -> comparison.Comparison:
    """Runs the whole comparison, or goes on with one.

    Args:
        config: The settings.
        out: The run folder.
        listener: Hears of progress.
        command: What was typed, for the record.

    Raises:
        TunewrightError: On any mistake of the user's; see `errors`.
    """
    begun = time.monotonic()
    methods = _check_names(config)
    dataset = load_dataset(config)
    checkpoints = {name: load_checkpoint(name) for name in config.model}
    begun_before = open_run(out, resume=config.resume)
    clock = Clock(out / "elapsed.json", config.budget, begun)
    journal = Journal(out / "log.txt", listener)
    bases = {name: checkpoint.identity.sha256 for name, checkpoint in checkpoints.items()}
    if not begun_before:
        _record_start(config, dataset, bases, out, command)
    known = _check_start(config, dataset, bases, out)
    journal.note(f"Run folder: {out}")
    for notice in dataset.notices:
        journal.note(notice.message)
    dtype = getattr(torch, str(read_json(out / "environment.json")["dtype"]))
    workshops = {
        name: _prepare(config, dataset, open_backbone(checkpoint, dtype=dtype, device=device()))
        for name, checkpoint in checkpoints.items()
    }
    for notice in _note_cut_texts(dataset, workshops, out):
        journal.note(notice.message)
    entrants, skipped = _entrants(methods, workshops)
    effort = Effort(
        trials=config.num_trials,
        pruning=config.pruning,
        seed=config.seed,
        slack=dev_noise(len(dataset.splits.dev)),
        history=trials(out),
    )
    session = Session(
        config=config,
        out=out,
        columns=dataset.columns,
        clock=clock,
        journal=journal,
        workshops=workshops,
        entrants=entrants,
    )
    if not refits(out):  # once finalists are refitted, time that a kill gave back must not change them
        run_search(session, effort)
    finals.refit(session, effort)
    finals.read_test(session, dataset)
    started, typed = str(known["started"]), str(known["command"])
    result = conclusion.conclude(session, effort, dataset, skipped, started=started, command=typed)
    comparison.save(result, out)
    finals.drop_unshipped(out, result)
    clock.save()
    return result


def _check_names(config: RunConfig) -> tuple[str, ...]:
    """The methods to run.

    Raises:
        ConfigError: Every unknown method and metric, at once.
    """
    faults: list[str] = []
    methods: tuple[str, ...] = ()
    try:
        methods = choose("method", config.methods, tuple(METHODS))
    except ConfigError as error:
        faults += error.faults
    if config.metric not in METRICS:
        faults.append(unknown("metric", config.metric, METRICS))
    if len(set(config.model)) < len(config.model):
        faults.append(f"`model` names a base twice: {', '.join(config.model)}. Name each once.")
    elif len({Path(name).name for name in config.model}) < len(config.model):
        faults.append(f"`model` has bases of one folder name: {', '.join(config.model)}. Rename a folder.")
    if faults:
        raise ConfigError(faults)
    return methods


def _settings(config: RunConfig) -> dict[str, object]:
    return config.model_dump(mode="json", exclude={"resume", "out"})


def _check_start(config: RunConfig, dataset: Dataset, bases: Mapping[str, str], out: Path) -> dict[str, object]:
    """Makes sure that the run is about what it began with; returns the record of its beginning.

    Raises:
        RunError: Other data, descriptions, bases or settings than at the start.
    """
    _check_same(yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8")), _settings(config))
    known: dict[str, object] = read_json(out / "data.json")
    if known["sha256"] != dataset.sha256:
        raise RunError(
            f"the data changed since the run began ({str(known['sha256'])[:12]} then, {dataset.sha256[:12]} now). "
            "Restore the data or choose another --out."
        )
    if known["task"] != _as_json(dataclasses.asdict(dataset.task)):
        raise RunError("labels or descriptions changed since the run began. Restore them or choose another --out.")
    if known["bases"] != bases:
        raise RunError(
            f"a model of {', '.join(bases)} changed since the run began. Restore it or choose another --out."
        )
    return known


def _as_json(value: object) -> object:
    """As it is after a way through a file."""
    return json.loads(json.dumps(value))


def _record_start(
    config: RunConfig, dataset: Dataset, bases: Mapping[str, str], out: Path, command: Sequence[str]
) -> None:
    """Writes what the run is about."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(out / "environment.json", environment())
    splits = dataclasses.asdict(dataset.splits)
    write_text(out / "test.jsonl", dump_lines(splits["test"]))
    write_json(
        out / "data.json",
        {
            "started": started,
            "command": shlex.join(command),
            "task": dataclasses.asdict(dataset.task),
            "bases": dict(bases),
            "sha256": dataset.sha256,
            "test_sha256": test_sha256(dataset),
            "columns": dict(dataset.columns),
            "notices": [dataclasses.asdict(notice) for notice in dataset.notices],
            "splits": {name: [row["id"] for row in rows] for name, rows in splits.items()},
        },
    )
    # Last, because its presence is what makes the folder a run that can be resumed.
    write_text(out / "run.yaml", yaml.safe_dump(_settings(config), sort_keys=False, allow_unicode=True))


def _check_same(before: dict[str, object], now: dict[str, object]) -> None:
    changed = [f"`{key}` was {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]]
    if changed:
        raise RunError(f"cannot resume with other settings: {'; '.join(changed)}. Repeat them or choose another --out.")


def _prepare(config: RunConfig, dataset: Dataset, base: Backbone) -> Workshop:
    limit = base.max_tokens if config.max_tokens is None else min(config.max_tokens, base.max_tokens)
    splits = dataset.splits
    return prepare(dataset.task, base, splits.train, splits.dev, METRICS[config.metric], limit)


def _note_cut_texts(dataset: Dataset, workshops: dict[str, Workshop], out: Path) -> list[Notice]:
    """Adds to the record of the data what only a base can tell."""
    cut = [notice for workshop in workshops.values() for notice in _cut_texts(dataset, workshop)]
    notices = [dataclasses.asdict(notice) for notice in (*dataset.notices, *cut)]
    write_json(out / "data.json", read_json(out / "data.json") | {"notices": notices})
    return cut


def _cut_texts(dataset: Dataset, workshop: Workshop) -> list[Notice]:
    """What is said where texts of any split are longer than the base takes."""
    splits, material = dataset.splits, workshop.material
    examples = (*splits.train, *splits.dev, *splits.test)
    encodings = material.backbone.encode(examples, material.max_tokens)
    ids = tuple(e.id for e, encoding in zip(examples, encodings, strict=True) if encoding.num_cut)
    if not ids:
        return []
    message = (
        f"{len(ids)} of {len(examples)} texts are longer than {material.max_tokens} tokens of "
        f"{Path(material.backbone.identity.name).name} and were cut (first: {', '.join(ids[:5])})."
    )
    return [Notice(code="cut-texts", message=message, count=len(ids), ids=ids[:20])]


def _entrants(methods: Sequence[str], workshops: dict[str, Workshop]) -> tuple[list[Entrant], list[Entrant]]:
    """Candidates that can run, and those that cannot."""
    able: list[Entrant] = []
    unable: list[Entrant] = []
    for base, workshop in workshops.items():
        for name in methods:
            method = METHODS[name]
            reason = method.refuses(workshop.material.backbone)
            entrant = Entrant(
                id=candidate_id(name, base, len(workshops)),
                method=name,
                family=method.family,
                backbone=base,
                space={} if reason is not None else method.space(workshop.material),
                refused=reason,
            )
            (able if reason is None else unable).append(entrant)
    return able, unable


def dev_noise(num_dev: int) -> float:
    """Largest standard error of a proportion on so many rows."""
    return 0.5 / math.sqrt(num_dev)


def candidate_id(method: str, base: str, num_bases: int) -> str:
    """`lora`, or `lora@base` where several bases are compared. Also a folder's name."""
    return method if num_bases == 1 else f"{method}@{Path(base).name}"
