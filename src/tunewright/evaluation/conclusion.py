"""From files to `comparison.json`: candidates with their costs, the decision, and where it all comes from."""

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.data.load import test_sha256
from tunewright.errors import RunError
from tunewright.evaluation import bootstrap, cost, decision, finals
from tunewright.evaluation.attempt import UNKNOWN_LABEL, Workshop
from tunewright.evaluation.comparison import (
    BackboneSummary,
    Candidate,
    Comparison,
    Cost,
    Decision,
    Pair,
    Provenance,
    SeedResult,
    TaskSummary,
)
from tunewright.evaluation.effort import Effort, Entrant, Trial
from tunewright.evaluation.finals import Refit
from tunewright.evaluation.metrics import METRICS, IntArray, Scorer
from tunewright.evaluation.seeds import compare_methods
from tunewright.evaluation.session import Session
from tunewright.runs import read_json, read_lines
from tunewright.runtime import environment, generator
from tunewright.types import Dataset, Estimate, Example


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
    scorer = row_scorer(dataset, dataset.splits.test)
    by_candidate = {e.id: [r for r in finals.refits(session.out) if r.candidate == e.id] for e in session.entrants}
    done = [e for e in session.entrants if by_candidate[e.id]]
    candidates = [_finished(session, e, effort, by_candidate[e.id], dataset, scorer) for e in done]
    candidates += [
        _unfinished(e, effort, session.config.budget) for e in (*session.entrants, *refused) if e not in done
    ]
    chosen, pairs = _decide(session, candidates, dataset, scorer)
    return Comparison(
        task=_task(dataset, scorer),
        backbones=tuple(_backbone(name, workshop) for name, workshop in session.workshops.items()),
        candidates=tuple(candidates),
        pairs=pairs,
        decision=chosen,
        test_reads=1 + _earlier_reads(session.out, dataset),
        provenance=_provenance(session, dataset, started, command),
    )


def row_scorer(dataset: Dataset, examples: Sequence[Example]) -> Scorer:
    """The task's metric on these rows."""
    index = {label: k for k, label in enumerate(dataset.task.labels)}
    true_N = np.array([index.get(e.label or "", UNKNOWN_LABEL) for e in examples], dtype=np.int64)
    return Scorer(metric=METRICS[dataset.task.metric], true_N=true_N, num_labels=len(index))


def _finished(
    session: Session, entrant: Entrant, effort: Effort, refits: Sequence[Refit], dataset: Dataset, scorer: Scorer
) -> Candidate:
    best = finals.shipped(refits)
    adapter = folder.load(finals.adapter_folder(session.out, entrant.id, best.seed))
    dev_scorer = row_scorer(dataset, dataset.splits.dev)
    seeds = [
        SeedResult(
            seed=r.seed,
            dev=r.dev,
            test=scorer.value(_answers(session.out, r, dataset)),
            shipped=r is best,
        )
        for r in refits
    ]
    return Candidate(
        id=entrant.id,
        method=entrant.method,
        family=entrant.family,
        backbone=entrant.backbone,
        status="ok",
        params=best.params,
        parts=tuple(adapter.parts()),
        trials=len(effort.of(entrant)),
        seeds=tuple(seeds),
        dev=_estimate(session, dev_scorer, _answers(session.out, best, dataset, "dev"), entrant.id, "dev"),
        test=_estimate(session, scorer, _answers(session.out, best, dataset), entrant.id, "test"),
        cost=_cost(session, entrant, effort.of(entrant), refits, adapter, dataset),
    )


def _estimate(session: Session, scorer: Scorer, predicted_N: IntArray, candidate: str, split: str) -> Estimate:
    return bootstrap.interval(scorer, predicted_N, generator(session.config.seed, "interval", candidate, split))


def _answers(out: Path, refit: Refit, dataset: Dataset, split: str = "test") -> IntArray:
    """Label indices a refit answered, in the order of the split."""
    index = {label: k for k, label in enumerate(dataset.task.labels)}
    lines = read_lines(finals.predictions_file(out, refit.candidate, refit.seed, split))
    return np.array([index[line["label"]] for line in lines], dtype=np.int64)


def _unfinished(entrant: Entrant, effort: Effort, budget: float | None) -> Candidate:
    trials = effort.of(entrant)
    statuses = {t.status for t in trials}
    if entrant.refused is not None:
        status, reason = "skipped", entrant.refused
    elif not trials:
        status, reason = "skipped", "no trial was left for it; raise --trials or --budget"
    elif statuses == {"failed"}:
        status, reason = "failed", f"no trial reached a dev score: {trials[-1].reason}"
    elif "complete" not in statuses:
        status, reason = "skipped", "none of its trials could be finished in the time; raise --budget"
    elif budget is None:
        status, reason = "failed", "none of its refits reached a dev score; log.txt says why"
    else:
        status, reason = "skipped", "not refitted before the budget was spent; raise --budget"
    return Candidate(
        id=entrant.id,
        method=entrant.method,
        family=entrant.family,
        backbone=entrant.backbone,
        status="failed" if status == "failed" else "skipped",
        reason=reason,
        trials=len(trials),
        cost=Cost(tune_s=sum(t.seconds for t in trials)),
    )


def _cost(
    session: Session,
    entrant: Entrant,
    trials: Sequence[Trial],
    refits: Sequence[Refit],
    adapter: Adapter,
    dataset: Dataset,
) -> Cost:
    best, workshop = finals.shipped(refits), session.workshop(entrant)
    peaks = [r.peak_memory_bytes for r in refits if r.peak_memory_bytes is not None]
    return Cost(
        tune_s=round(sum(t.seconds for t in trials), 3),
        train_s=best.seconds,
        peak_memory_bytes=max(peaks, default=None),
        adapter_bytes=best.adapter_bytes,
        trainable_parameters=best.trainable,
        extra_tokens_per_request=float(0 if adapter.soft_prompt is None else adapter.soft_prompt.length),
        latency_ms=round(finals.latency_ms(adapter, dataset.splits.dev, workshop), 3),
        price=modelled_price(adapter, workshop, num_tokens=best.num_tokens),
    )


def modelled_price(adapter: Adapter, workshop: Workshop, *, num_tokens: int) -> float:
    """US dollars for 1000 requests; see `cost.price`.

    Args:
        adapter: What is served.
        workshop: Its base, and the rows that tell the length of a request.
        num_tokens: Trained on.
    """
    backbone, encodings = workshop.material.backbone, workshop.material.rows.encodings
    tokens = sum(len(e.ids) for e in encodings) / max(1, len(encodings))
    extra = 0 if adapter.soft_prompt is None else adapter.soft_prompt.length
    mixing = [part for part in (adapter.lora, adapter.prefix, adapter.head) if part is not None]
    own = sum(t.numel() for part in mixing for t in part.tensors().values())
    runs = backbone.num_computing if adapter.needs_features else 0
    serving = cost.serving_flops(backbone_parameters=runs, adapter_parameters=own, tokens=tokens, extra_tokens=extra)
    if adapter.demonstrations is not None:
        pool_rows, dimensions = adapter.demonstrations.vectors_ND.shape
        serving += cost.search_flops(pool_rows=pool_rows, dimensions=dimensions)
    training = cost.training_flops(
        parameters=runs + own,
        tokens=num_tokens,
        flops_per_parameter=_training_factor(adapter),
    )
    base_bytes = 0 if adapter.mixes else backbone.num_parameters * backbone.dtype.itemsize
    held = adapter.num_bytes() + base_bytes
    return cost.price(serving_flops=serving, training_flops=training, held_bytes=held, prices=cost.Prices())


def _training_factor(adapter: Adapter) -> int:
    if adapter.weights is not None:
        return cost.FULL_TRAINING
    return cost.FROZEN_TRAINING if adapter.has_body else cost.FORWARD


def _decide(
    session: Session, candidates: Sequence[Candidate], dataset: Dataset, scorer: Scorer
) -> tuple[Decision | None, tuple[Pair, ...]]:
    finished = [c for c in candidates if c.status == "ok"]
    if not finished:
        return None, ()
    refits = {c.id: [r for r in finals.refits(session.out) if r.candidate == c.id] for c in finished}
    best = {name: finals.shipped(found) for name, found in refits.items()}
    entries = [
        decision.Entry(
            id=c.id,
            method=c.method,
            family=c.family,
            backbone=c.backbone,
            predicted_N=_answers(session.out, best[c.id], dataset),
            price=float(c.cost.price or 0.0),
            test=c.test,
            is_floor=not _reads_text(c),
        )
        for c in finished
        if c.test is not None
    ]
    chosen, pairs = decision.decide(
        entries, scorer, generator(session.config.seed, "decision"), margin_points=session.config.margin
    )
    answers = {name: [_answers(session.out, r, dataset) for r in found] for name, found in refits.items()}
    missing = [c.id for c in candidates if c.status != "ok"]
    if missing:
        chosen = dataclasses.replace(chosen, reason=f"{chosen.reason} Not measured: {', '.join(missing)}.")
    return chosen, compare_methods(pairs, answers, scorer, generator(session.config.seed, "methods"))


def _reads_text(candidate: Candidate) -> bool:
    return bool({"head", "verbalizer", "demonstrations"} & set(candidate.parts))


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
