"""What came of each candidate: its scores and costs, or why it has none."""

import numpy as np

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.data.labels import error_costs
from tunewright.data.rules import parse_rules, slice_rows
from tunewright.data.swaps import swapped_rows
from tunewright.evaluation import bootstrap, calibration
from tunewright.evaluation.answers import Answers, read_answers
from tunewright.evaluation.metrics import Scorer, row_scorer
from tunewright.evaluation.slices import by_slice, flips
from tunewright.runs.comparison import Calibration, Candidate, Cost, Flips, Gap, SeedResult, Slice, Status
from tunewright.runs.folder import adapter_folder, predictions_file
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
    slices, gaps = _slices(session, finalist, dataset, scorer)
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
        calibration=_calibration(session, finalist, adapter, dev_scorer, scorer, dataset),
        slices=slices,
        gaps=gaps,
        flips=_flips(session, finalist, dataset),
    )


def _calibration(
    session: Session, finalist: Finalist, adapter: Adapter, dev_scorer: Scorer, scorer: Scorer, dataset: Dataset
) -> Calibration:
    path = session.config.error_costs
    in_test = {str(row.label) for row in dataset.splits.test}
    costs_CC = None if path is None else error_costs(dataset.task.labels, path, also_known=in_test)
    dev, test = finalist.dev, finalist.shipped_test
    return calibration.assess(dev, dev_scorer.true_N, test, scorer.true_N, adapter.temperature, costs_CC)


def _slices(
    session: Session, finalist: Finalist, dataset: Dataset, scorer: Scorer
) -> tuple[tuple[Slice, ...], tuple[Gap, ...]]:
    slicings, _ = slice_rows(parse_rules(session.config.slice), dataset.splits.test)
    rng = generator(session.config.seed, "slices", finalist.entrant.id)
    return by_slice(scorer, finalist.shipped_test.predicted_N, slicings, rng)


def _flips(session: Session, finalist: Finalist, dataset: Dataset) -> tuple[Flips, ...]:
    """Of each pair of terms that the test rows hold, from the answers that were stored beside the others."""
    swaps = [swap for swap in swapped_rows(session.config.swap, dataset.splits.test) if swap.rows]
    if not swaps:
        return ()
    file = predictions_file(session.out, finalist.entrant.id, finalist.shipped.seed, "swapped")
    ids = [row.id for swap in swaps for row in swap.rows]
    after_N = read_answers(file, dataset.task.labels, ids).predicted_N
    before_N = finalist.shipped_test.predicted_N
    ends = np.cumsum([len(swap.rows) for swap in swaps])
    return tuple(
        flips(swap.terms, before_N[list(swap.positions)], after_N[end - len(swap.rows) : end])
        for swap, end in zip(swaps, ends.tolist(), strict=True)
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
