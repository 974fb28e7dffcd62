"""What came of each candidate: its scores and costs, or why it has none."""

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.evaluation import bootstrap
from tunewright.evaluation.answers import Answers
from tunewright.evaluation.metrics import Scorer, row_scorer
from tunewright.runs.comparison import Candidate, Cost, SeedResult, Status
from tunewright.runs.folder import adapter_folder
from tunewright.runtime import generator
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.price import latency_ms, modelled_price
from tunewright.tuning.results import Finalist
from tunewright.tuning.session import Session
from tunewright.types import Dataset, Estimate


def finished(session: Session, finalist: Finalist, dataset: Dataset, scorer: Scorer) -> Candidate:
    """A candidate that was measured."""
    entrant, best = finalist.entrant, finalist.shipped
    adapter = folder.load(adapter_folder(session.out, entrant.id, best.seed))
    dev_scorer = row_scorer(dataset.task.metric, dataset.task.labels, dataset.splits.dev)
    return Candidate(
        id=entrant.id,
        method=entrant.method,
        family=entrant.family,
        backbone=entrant.backbone,
        status="ok",
        params=best.params,
        parts=tuple(adapter.parts()),
        trials=len(finalist.trials),
        seeds=tuple(
            SeedResult(seed=r.seed, dev=r.dev, test=scorer.value(answers.predicted_N), shipped=r is best)
            for r, answers in zip(finalist.refits, finalist.test, strict=True)
        ),
        dev=_estimate(session, dev_scorer, finalist.dev, entrant.id, "dev"),
        test=_estimate(session, scorer, finalist.shipped_test, entrant.id, "test"),
        cost=_cost(session, finalist, adapter, dataset),
    )


def _estimate(session: Session, scorer: Scorer, answers: Answers, candidate: str, split: str) -> Estimate:
    rng = generator(session.config.seed, "interval", candidate, split)
    return bootstrap.interval(scorer, answers.predicted_N, rng)


def _cost(session: Session, finalist: Finalist, adapter: Adapter, dataset: Dataset) -> Cost:
    best, workshop = finalist.shipped, session.workshop(finalist.entrant)
    peaks = [r.peak_memory_bytes for r in finalist.refits if r.peak_memory_bytes is not None]
    return Cost(
        tune_s=round(sum(t.seconds for t in finalist.trials), 3),
        train_s=best.seconds,
        peak_memory_bytes=max(peaks, default=None),
        adapter_bytes=best.adapter_bytes,
        trainable_parameters=best.trainable,
        extra_tokens_per_request=float(0 if adapter.soft_prompt is None else adapter.soft_prompt.length),
        latency_ms=round(latency_ms(adapter, dataset.splits.dev, workshop), 3),
        price=modelled_price(adapter, workshop, num_tokens=best.num_tokens),
    )


def unfinished(entrant: Entrant, effort: Effort, budget: float | None) -> Candidate:
    """A candidate without a test value, and why it has none."""
    trials = effort.of(entrant)
    status, reason = _why(entrant, effort, budget)
    return Candidate(
        id=entrant.id,
        method=entrant.method,
        family=entrant.family,
        backbone=entrant.backbone,
        status=status,
        reason=reason,
        trials=len(trials),
        cost=Cost(tune_s=sum(t.seconds for t in trials)),
    )


def _why(entrant: Entrant, effort: Effort, budget: float | None) -> tuple[Status, str]:
    trials = effort.of(entrant)
    statuses = {t.status for t in trials}
    if entrant.refused is not None:
        return "skipped", entrant.refused
    if not trials:
        return "skipped", "no trial was left for it; raise --trials or --budget"
    if statuses == {"failed"}:
        return "failed", f"no trial reached a dev score: {trials[-1].reason}"
    if "complete" not in statuses:
        return "skipped", "none of its trials could be finished in the time; raise --budget"
    if budget is None:
        return "failed", "none of its refits reached a dev score; log.txt says why"
    return "skipped", "not refitted before the budget was spent; raise --budget"
