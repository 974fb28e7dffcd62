"""What came of each candidate: its scores and costs, or why it has none."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.data.labels import error_costs
from tunewright.data.rules import parse_rules, slice_rows
from tunewright.data.swaps import swapped_rows
from tunewright.evaluation import bootstrap, calibration
from tunewright.evaluation.answers import read_answers
from tunewright.evaluation.metrics import Scorer, StatsArray
from tunewright.evaluation.requirements import unmet
from tunewright.evaluation.slices import by_slice, flips
from tunewright.runs.comparison import Candidate, Cost, SeedResult, Status
from tunewright.runs.fits import again, refits
from tunewright.runs.folder import adapter_folder, predictions_file
from tunewright.runs.measurements import Calibration, Flips, Gap, Retention, Slice
from tunewright.runtime import generator
from tunewright.tuning.bought import Bought, bought
from tunewright.tuning.choice import num_resamples
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.price import extra_tokens, latency, model
from tunewright.tuning.results import Finalist
from tunewright.tuning.retention import read_reference, retention
from tunewright.tuning.session import Session
from tunewright.types import Dataset, Estimate, Example


def finished(
    session: Session, finalist: Finalist, dataset: Dataset, scorer: Scorer, answered: Sequence[Example]
) -> Candidate:
    """A candidate that was measured; `answered` are the test rows that its shipped artefact answered itself."""
    entrant, best = finalist.entrant, finalist.shipped
    adapter = folder.load(adapter_folder(session.out, entrant.id, best.seed))
    dev_scorer = session.scorer(dataset.task, dataset.splits.dev)
    stats = [None if answers is None else scorer.stats(answers.given) for answers in finalist.test]
    test_NM = stats[finalist.refits.index(best)]
    assert test_NM is not None, "a finalist's shipped artefact has answered"
    slices, gaps = _slices(session, finalist, dataset, scorer, test_NM)
    material = session.workshop(entrant).material
    price = session.price_list.models.get(str(material.backbone.priced_as))
    own = bought(adapter, answered, material.store, price)
    found = Candidate(
        id=entrant.id,
        method=entrant.method,
        family=entrant.family,
        backbone=entrant.backbone,
        status="ok",
        params=best.params,
        parts=tuple(adapter.parts()),
        trials=len(finalist.trials),
        seeds=tuple(
            SeedResult(
                seed=r.seed,
                dev=r.dev,
                test=None if stats_NM is None else scorer.value(stats_NM),
                shipped=r is best,
                trial=r.trial,
            )
            for r, stats_NM in zip(finalist.refits, stats, strict=True)
        ),
        dev=_estimate(session, dev_scorer, dev_scorer.stats(finalist.dev.given), entrant.id, "dev"),
        test=_estimate(session, scorer, test_NM, entrant.id, "test"),
        cost=_cost(session, finalist, adapter, own, dataset),
        illegal_share=None if own is None else own.illegal_share,
        calibration=_calibration(session, finalist, adapter, dev_scorer, scorer, dataset),
        slices=slices,
        gaps=gaps,
        retention=_retention(session, entrant, adapter),
        remarks=(
            *session.remarks(finalist.shipped_test.given),
            *_unsaid(adapter, finalist.shipped_test.given),
            *(() if own is None else own.remarks),
        ),
    )
    return judged(session, found)


def _unsaid(adapter: Adapter, given: Sequence[str]) -> tuple[str, ...]:
    """How many texts are illegal: nothing stood behind the cue of the reasoning."""
    num = sum(not text for text in given)
    if adapter.reasoning is None or not adapter.writes_text or num == 0:
        return ()
    return (f"{num} of {len(given)} answers were not said behind {adapter.reasoning.cue!r}; they count as empty",)


def judged(session: Session, candidate: Candidate) -> Candidate:
    """The candidate with what it fails of the user's requirements."""
    return dataclasses.replace(candidate, unmet=unmet(session.requirements, candidate))


def _retention(session: Session, entrant: Entrant, adapter: Adapter) -> Retention | None:
    text = read_reference(session.config.retention)
    if text is None:
        return None
    return retention(adapter, text, session.workshop(entrant).material.backbone, session.clock)


def _calibration(
    session: Session, finalist: Finalist, adapter: Adapter, dev_scorer: Scorer, scorer: Scorer, dataset: Dataset
) -> Calibration | None:
    if dataset.task.kind != "classify":
        return None
    path = session.config.error_costs
    in_test = {str(row.label) for row in dataset.splits.test}
    costs_CC = None if path is None else error_costs(dataset.task.labels, path, also_known=in_test)
    dev, test = calibration.judged(finalist.dev, dev_scorer), calibration.judged(finalist.shipped_test, scorer)
    return calibration.assess(dev, test, adapter.temperature, costs_CC)


def _slices(
    session: Session, finalist: Finalist, dataset: Dataset, scorer: Scorer, test_NM: StatsArray
) -> tuple[tuple[Slice, ...], tuple[Gap, ...]]:
    slicings, _ = slice_rows(parse_rules(session.config.slice), dataset.splits.test)
    rng = generator(session.config.seed, "slices", finalist.entrant.id)
    return by_slice(scorer, test_NM, slicings, rng)


def flips_of(session: Session, finalist: Finalist, rows: Sequence[Example]) -> tuple[Flips, ...]:
    """Of each pair of terms that the test rows hold, from the answers that were stored beside the others."""
    swaps = [swap for swap in swapped_rows(session.config.swap, rows) if swap.rows]
    if not swaps:
        return ()
    file = predictions_file(session.out, finalist.entrant.id, finalist.shipped.seed, "swapped")
    ids = [row.id for swap in swaps for row in swap.rows]
    after = read_answers(file, session.workshop(finalist.entrant).material.task.labels, ids).given
    before = finalist.shipped_test.given
    ends = np.cumsum([len(swap.rows) for swap in swaps])
    return tuple(
        flips(swap.terms, [before[k] for k in swap.positions], after[end - len(swap.rows) : end])
        for swap, end in zip(swaps, ends.tolist(), strict=True)
    )


def _estimate(session: Session, scorer: Scorer, stats_NM: StatsArray, candidate: str, split: str) -> Estimate:
    rng = generator(session.config.seed, "interval", candidate, split)
    resamples = num_resamples(session, len(session.entrants))
    return bootstrap.interval(scorer, stats_NM, rng, num_resamples=resamples)


def _cost(session: Session, finalist: Finalist, adapter: Adapter, own: Bought | None, dataset: Dataset) -> Cost:
    """Of a candidate; `own` is what its requests elsewhere cost."""
    best, workshop, prices = finalist.shipped, session.workshop(finalist.entrant), session.price_list.prices
    peaks = [r.peak_memory_bytes for r in finalist.refits if r.peak_memory_bytes is not None]
    tokens = sum(fit.num_tokens for fit in (*finalist.trials, *again(finalist.refits)))
    modelled = model(adapter, workshop, num_tokens=best.num_tokens, num_tuning_tokens=tokens - best.num_tokens)
    spare_s = session.clock.left_s - session.pace.report_s
    timed = latency(adapter, dataset.splits.dev, workshop, allowed_s=spare_s) if own is None else own.latency
    price, ownership = modelled.price(prices), modelled.ownership(prices)
    taken = None if session.spending is None else session.spending.taken(finalist.entrant.id)
    paid_usd = 0.0 if taken is None else taken.price
    extra = extra_tokens(adapter, workshop.material.backbone) if own is None else own.extra_tokens
    return Cost(
        tune_s=round(sum(t.seconds for t in finalist.trials), 3),
        train_s=best.seconds,
        peak_memory_bytes=max(peaks, default=None),
        adapter_bytes=best.adapter_bytes,
        trainable_parameters=best.trainable,
        extra_tokens_per_request=None if extra is None else float(extra),
        latency_ms=next((each.p50_ms for each in timed if each.batch == 1), None),
        price=price if own is None else own.price(price),
        predict_s=_predict_s(session, finalist, adapter),
        tokens=tokens,
        latency=timed,
        ownership=ownership if own is None else own.ownership(ownership, paid_usd, prices),
        requests=taken,
    )


def _predict_s(session: Session, finalist: Finalist, adapter: Adapter) -> float | None:
    """Of the shipped one, with the bare base's features where it answers from those."""
    taken, entrant = session.clock.test_s, finalist.entrant
    own_s = taken.get(f"{entrant.id}/{finalist.shipped.seed}")
    shares = adapter.needs_features and not adapter.has_body
    return None if own_s is None else round(own_s + (taken.get(entrant.backbone, 0.0) if shares else 0.0), 3)


def unfinished(session: Session, entrant: Entrant, effort: Effort) -> Candidate:
    """A candidate without a test value, and why it has none."""
    trials = effort.of(entrant)
    status, reason = _why(session, entrant, effort)
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


def _why(session: Session, entrant: Entrant, effort: Effort) -> tuple[Status, str]:
    trials = effort.of(entrant)
    statuses = {t.status for t in trials}
    fault = session.workshop(entrant).material.backbone.fault
    if entrant.refused is not None:
        return "skipped", entrant.refused
    if fault is not None:
        return "failed", fault
    if not trials:
        return "skipped", "no trial was left for it; raise --trials or --budget"
    if statuses == {"failed"}:
        return "failed", f"no trial reached a dev score: {trials[-1].reason}"
    if "complete" not in statuses:
        return "skipped", "none of its trials could be finished in the time; raise --budget"
    return _why_no_answers(session, entrant)


def _why_no_answers(session: Session, entrant: Entrant) -> tuple[Status, str]:
    """Of a candidate whose search ended well."""
    if session.clock.budget_s is None:
        return "failed", "none of its refits reached a dev score; log.txt says why"
    if any(refit.candidate == entrant.id for refit in refits(session.out)):
        return "skipped", "it did not answer the test rows before the budget was spent; raise --budget"
    return "skipped", "not refitted before the budget was spent; raise --budget"
