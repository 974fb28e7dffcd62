"""The harness: owns the splits, gives every family the same effort, refits the finalists and reads test once.

    data -> search (trials.jsonl) -> refit (finalists.jsonl, adapters/) -> one pass over test (predictions/)
         -> comparison.json

Each arrow is a file; a killed run goes on from what is there. In a cross-validation all but the last arrow happen in
each fold; see `folds`.
"""

import dataclasses
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
import yaml

from tunewright.backbones.inference import FeatureStore
from tunewright.backbones.kinds import find_base, open_base
from tunewright.config import RunConfig, short_name
from tunewright.data.documents import passages_sha256, read_documents
from tunewright.data.labels import read_labelled
from tunewright.data.load import read_rows, test_sha256
from tunewright.data.outside import answers_sha256
from tunewright.data.rules import parse_rules
from tunewright.data.swaps import swapped_rows
from tunewright.errors import ConfigError, RunError, counted
from tunewright.evaluation.cost import time_limit_s
from tunewright.evaluation.named import find_metric
from tunewright.evaluation.requirements import parse
from tunewright.files import dump_lines, read_json, write_json, write_text
from tunewright.methods.prompting import for_model
from tunewright.methods.table import chosen
from tunewright.prompts import pgvector
from tunewright.runs import comparison
from tunewright.runs.folder import ANSWERS, open_run
from tunewright.runtime import device, environment
from tunewright.tuning import conclusion, finals, outside, protocol
from tunewright.tuning.attempt import Workshop, cut_targets
from tunewright.tuning.folds import cross_validate
from tunewright.tuning.ledger import ledger
from tunewright.tuning.progress import Clock, Journal, Listener, Start
from tunewright.tuning.protocol import Plan, make_plan
from tunewright.tuning.retention import read_reference
from tunewright.tuning.session import price_list
from tunewright.tuning.spending import check_priced, open_spending
from tunewright.tuning.stage import needs, open_stage, read_own, user_source
from tunewright.types import Dataset, Notice, Splits


def compare(
    config: RunConfig, out: Path, listener: Listener, *, command: Sequence[str] = (), start: Start | None = None
) -> comparison.Comparison:
    """Runs the whole comparison, or goes on with one.

    Args:
        config: The settings.
        out: The run folder.
        listener: Hears of progress.
        command: What was typed, for the record.
        start: Since when the time counts; now when absent.

    Raises:
        TunewrightError: On any mistake of the user's; see `errors`.
    """
    with ExitStack() as held:
        return _compare(config, out, listener, held, command, Start.now() if start is None else start)


def _compare(
    config: RunConfig, out: Path, listener: Listener, held: ExitStack, command: Sequence[str], start: Start
) -> comparison.Comparison:
    """The same; `held` keeps the run folder to itself until all is done."""
    _check_settings(config)
    plan = make_plan(config, read_rows(config, source := user_source(config)))
    dataset = plan.dataset
    answered = outside.read(config, dataset)
    own = read_own(config, source, dataset)
    found = {name: find_base(name, kept=out / ANSWERS) for name in config.model}
    for name, base in found.items():
        if own.prompt is not None and base.is_here and base.head is not None:
            for_model(own.prompt, name, fills_masks=base.fills_masks)
    begun_before = held.enter_context(open_run(out, resume=config.resume))
    clock = Clock(out / "elapsed.json", _limit_s(config), start)
    journal = Journal(out / "log.txt", listener)
    hashes = {
        "bases": {name: base.identity.sha256 for name, base in found.items()},
        "outside": {name: answers_sha256(predictions) for name, predictions in answered.items()},
        "documents": {str(config.documents): passages_sha256(own.documents)} if own.documents else {},
        "template": {} if own.prompt is None else {str(config.template): f"{own.prompt.fixed}{own.prompt.row}"},
    }
    if not begun_before:
        _record_start(config, plan, hashes, out, command)
    known = _check_start(config, dataset, hashes, out)
    journal.note(f"Run folder: {out}")
    for notice in dataset.notices:
        journal.note(notice.message)
    dtype = getattr(torch, str(read_json(out / "environment.json")["dtype"]))
    spending = open_spending(out, config.max_cost, price_list(config), (clock, journal), found.values())
    stores = {name: FeatureStore(open_base(base, dtype=dtype, device=device())) for name, base in found.items()}
    stage = open_stage(config, dataset, own, plan.folder(out), clock, journal, stores, spending)
    for line in stage.said:
        journal.note(line)
    cut = _note_cut_texts(dataset, stage.session.workshops, out)
    for notice in cut:
        journal.note(notice.message)
    dataset = dataclasses.replace(dataset, notices=(*dataset.notices, *cut))
    outside.store(out, answered)
    started, typed = str(known["started"]), str(known["command"])
    if plan.folds:
        plan = dataclasses.replace(plan, dataset=dataset)
        result, stages = cross_validate(stage, plan, out, started=started, command=typed)
    else:
        stage.run()
        stage.read_test()
        stages = [stage]
        result = conclusion.conclude(
            stage.session, stage.effort, dataset, stage.refused, started=started, command=typed
        )
    finals.drop_unshipped(out, result)
    result = dataclasses.replace(result, ledger=ledger(out, stages, result.candidates))
    comparison.save(result, out)
    clock.save()
    return result


def _check_settings(config: RunConfig) -> None:
    """Refuses what no field can tell on its own.

    Raises:
        ConfigError: Every unknown method and metric, every setting without effect, at once.
    """
    faults: list[str] = []
    faults += _refused(
        lambda: chosen(config.methods),
        lambda: outside.files(config.predictions),
        lambda: find_metric(config.metric, config.task, database=config.database),
    )
    if len(set(config.model)) < len(config.model):
        faults.append(f"`model` names a base twice: {', '.join(config.model)}. Name each once.")
    elif len({short_name(name) for name in config.model}) < len(config.model):
        faults.append(f"`model` has bases of one folder name: {', '.join(config.model)}. Rename a folder.")
    faults += protocol.faults(config)
    faults += [] if _refused(lambda: chosen(config.methods)) else needs(config)
    faults += _refused(
        lambda: _limit_s(config),
        lambda: parse(config.require),
        lambda: check_priced(config.model, config.max_cost, price_list(config)),
        lambda: read_reference(config.retention),
        lambda: parse_rules(config.slice),
        lambda: swapped_rows(config.swap, ()),
        lambda: user_source(config),
        lambda: None if config.documents is None else read_documents(config.documents),
        lambda: None if config.vector_store is None else pgvector.server(config.vector_store),
        *(partial(read_labelled, path) for path in (config.descriptions, config.error_costs) if path is not None),
    )
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))  # a file may be read for several settings


def _refused(*checks: Callable[[], object]) -> list[str]:
    """The faults of all checks."""
    faults: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            faults += error.faults
    return faults


def _limit_s(config: RunConfig) -> float | None:
    return time_limit_s(config.budget, config.max_cost, price_list(config).prices)


def _settings(config: RunConfig) -> dict[str, object]:
    return config.model_dump(mode="json", exclude={"resume", "out", "vector_store"})


Hashes = Mapping[str, Mapping[str, str]]
"""`bases`, `outside` and `template` -> name -> hash or text: what else a run must not change under way."""


def _check_start(config: RunConfig, dataset: Dataset, hashes: Hashes, out: Path) -> dict[str, object]:
    """Makes sure that the run is about what it began with; returns the record of its beginning.

    Raises:
        RunError: Other data, descriptions, bases, outside answers or settings than at the start.
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
    prices = _as_json(dataclasses.asdict(price_list(config)))
    if known.get("prices", prices) != prices:
        raise RunError("the prices changed since the run began. Restore the file or choose another --out.")
    for what, said in _HASHED.items():
        if known.get(what, {}) != hashes[what]:
            names = ", ".join(hashes[what])
            raise RunError(f"{said} {names} changed since the run began. Restore it or choose another --out.")
    return known


_HASHED = {
    "bases": "a model of",
    "outside": "the answers of",
    "template": "the template",
    "documents": "the documents in",
}
"""What a resumed run must find as it was -> how it is spoken of."""


def _as_json(value: object) -> object:
    """As it is after a way through a file."""
    return json.loads(json.dumps(value))


def _record_start(config: RunConfig, plan: Plan, hashes: Hashes, out: Path, command: Sequence[str]) -> None:
    """Writes what the run is about."""
    dataset = plan.dataset
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(out / "environment.json", environment())
    write_text(out / "test.jsonl", dump_lines(dataclasses.asdict(row) for row in dataset.splits.test))
    write_json(
        out / "data.json",
        {
            "started": started,
            "command": shlex.join(command),
            "task": dataclasses.asdict(dataset.task),
            **hashes,
            "prices": dataclasses.asdict(price_list(config)),
            "sha256": dataset.sha256,
            "test_sha256": test_sha256(dataset),
            "columns": dict(dataset.columns),
            "notices": [dataclasses.asdict(notice) for notice in dataset.notices],
            "splits": _ids(dataset.splits),
            "folds": {fold.name: _ids(fold.splits) for fold in plan.folds},
        },
    )
    # Last, because its presence is what makes the folder a run that can be resumed.
    write_text(out / "run.yaml", yaml.safe_dump(_settings(config), sort_keys=False, allow_unicode=True))


def _ids(splits: Splits) -> dict[str, list[str]]:
    return {
        "train": [e.id for e in splits.train],
        "dev": [e.id for e in splits.dev],
        "test": [e.id for e in splits.test],
    }


def _check_same(before: dict[str, object], now: dict[str, object]) -> None:
    changed = [f"`{key}` was {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]]
    if changed:
        raise RunError(f"cannot resume with other settings: {'; '.join(changed)}. Repeat them or choose another --out.")


def _note_cut_texts(dataset: Dataset, workshops: dict[str, Workshop], out: Path) -> list[Notice]:
    """Adds to the record of the data what only a base can tell."""
    cut = [notice for workshop in workshops.values() for notice in _cut_texts(dataset, workshop)]
    notices = [dataclasses.asdict(notice) for notice in (*dataset.notices, *cut)]
    write_json(out / "data.json", read_json(out / "data.json") | {"notices": notices})
    return cut


def _cut_texts(dataset: Dataset, workshop: Workshop) -> list[Notice]:
    """What is said where texts of any split, or targets to learn from, are longer than the base takes."""
    splits, material = dataset.splits, workshop.material
    name, limit = short_name(material.backbone.identity.name), material.room_tokens
    examples = tuple({e.id: e for e in (*splits.train, *splits.dev, *splits.test)}.values())
    encodings = material.backbone.encode(examples, limit)
    texts = [e.id for e, encoding in zip(examples, encodings, strict=True) if encoding.num_cut]
    targets = cut_targets(material) if dataset.task.kind == "generate" else []
    most, every = material.backbone.max_tokens // 2, len(examples)
    told = {
        "cut-texts": (texts, f"of {every:,} texts", limit),
        "cut-targets": (targets, f"of {len(splits.train):,} training targets", most),
    }
    return [
        Notice(
            code=code,
            message=f"{counted(len(ids), f'{of} is', f'{of} are')} longer than {allowed} tokens of {name} and "
            f"{'was' if len(ids) == 1 else 'were'} cut (first: {', '.join(ids[:5])}).",
            count=len(ids),
            ids=tuple(ids[:20]),
        )
        for code, (ids, of, allowed) in told.items()
        if ids
    ]
