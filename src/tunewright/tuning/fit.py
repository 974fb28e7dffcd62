"""A fit: one training of a candidate, remembered as a line, and what is kept of it."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Thresholds
from tunewright.data.examples import MARK
from tunewright.errors import EndpointError, OutOfMemory
from tunewright.evaluation.calibration import fit_temperature
from tunewright.methods.table import find
from tunewright.runs.fits import Trial, TrialStatus
from tunewright.runs.folder import adapter_folder
from tunewright.runtime import is_out_of_memory
from tunewright.training import state
from tunewright.training.loop import Observe, Trained
from tunewright.training.objective import Rows
from tunewright.tuning.attempt import Outcome, attempt, fitted_thresholds
from tunewright.tuning.effort import Entrant
from tunewright.tuning.progress import OutOfTime
from tunewright.tuning.session import OUT_OF_TIME, PRUNED, TOO_SLOW, Session
from tunewright.types import Params, Task

_STATUSES: Mapping[str, TrialStatus] = {PRUNED: "pruned", OUT_OF_TIME: "cut", TOO_SLOW: "cut"}
"""What was stopped from outside, by the reason that was given."""


def fit(
    session: Session,
    entrant: Entrant,
    number: int,
    params: Params,
    rng: np.random.Generator,
    observe: Observe,
    *,
    may_ship: bool,
) -> tuple[Trial, Outcome | None]:
    """Trains a candidate once: the line that is remembered of it, and what came of it, if anything did."""
    start, workshop = time.monotonic(), session.workshop(entrant)
    keeps_state = may_ship and session.config.keep_state
    try:
        outcome = attempt(find(entrant.method), params, workshop, rng, observe, keeps_state=keeps_state)
        session.note_memory(entrant, outcome)
        return as_trial(entrant, number, params, outcome), outcome
    except OutOfTime:
        reason = OUT_OF_TIME
    except EndpointError as error:
        reason = str(error)
    except (OutOfMemory, RuntimeError) as error:
        if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
            raise
        reason = "out of memory, even one row at a time"  # another candidate may fit
    nothing = as_trial(entrant, number, params, None, seconds=time.monotonic() - start, reason=reason)
    is_gone = reason != OUT_OF_TIME and workshop.material.backbone.fault is not None
    return replace(nothing, status="unanswered") if is_gone else nothing, None


def as_trial(
    entrant: Entrant, number: int, params: Params, outcome: Outcome | None, *, seconds: float = 0.0, reason: str = ""
) -> Trial:
    """What is remembered of a fit; where nothing came of it, of how long it took, and why."""
    trained = None if outcome is None else outcome.trained
    scores, best = ((), None) if trained is None else (trained.scores, trained.best)
    stopped = reason if trained is None else trained.stopped
    return Trial(
        candidate=entrant.id,
        method=entrant.method,
        family=entrant.family,
        backbone=entrant.backbone,
        trial=number,
        params=params,
        status=_STATUSES.get(stopped, "complete" if best is not None else "failed"),
        dev=tuple({"epoch": s.epoch, "value": s.value, "loss": s.loss} for s in scores),
        value=None if best is None else best.value,
        seconds=round(seconds if outcome is None else outcome.seconds, 3),
        epochs=len(scores),
        num_tokens=0 if trained is None else trained.num_tokens,
        reason=stopped,
        trainable=0 if outcome is None else outcome.trainable,
        peak_memory_bytes=None if outcome is None else outcome.peak_memory_bytes,
        num_cut=0 if outcome is None else outcome.num_cut,
    )


def keep(session: Session, entrant: Entrant, made: Trial, outcome: Outcome, seed: int | None = None) -> Adapter:
    """Writes what came of a fit as the artefact of a seed, for the one that was there.

    Without a seed it is a trial of the search, which takes the place of the first.
    """
    shop, trained = session.workshop(entrant), outcome.trained
    about = {
        **trained.adapter.about,
        **_about(session, entrant),
        "params": dict(made.params),
        **({"seed": 0, "trial": made.trial} if seed is None else {"seed": seed}),
        "dev": made.value,
        "epoch": None if made.best is None else made.best.epoch,
    }
    adapter = _calibrated(trained.adapter.with_about(about), trained, shop.exam.rows, shop.material.task)
    place = adapter_folder(session.out, entrant.id, about["seed"])
    folder.save(adapter, place)
    if trained.state is not None:
        state.save(trained.state, place)
    return adapter


def kept(session: Session, entrant: Entrant, trial: Trial) -> Adapter | None:
    """What the search kept of a trial; None where it is not on disk."""
    place = adapter_folder(session.out, entrant.id, 0)
    adapter = folder.load(place) if place.exists() else None
    return adapter if adapter is not None and adapter.about.get("trial") == trial.trial else None


def _about(session: Session, entrant: Entrant) -> dict[str, Any]:
    """Of which task, base and candidate an adapter is."""
    material, target = session.workshop(entrant).material, session.columns.get("target")
    task, base = material.task, material.backbone
    return {
        "task": task.name,
        "metric": task.metric,
        "columns": dict(session.columns),
        **({"label_separator": session.config.label_separator} if task.kind == "multi-label" else {}),
        **({"choices": list(session.config.choices)} if task.kind == "choose" else {}),
        **({"messages": True} if material.examples[0].messages else {}),
        **({"reply_behind": True} if session.is_reply else {}),
        **({"target_behind": MARK} if target is not None and target == session.config.reasoning else {}),
        **({} if base.precision is None else {"dtype": base.precision}),
        **base.about,
        "candidate": entrant.id,
        "method": entrant.method,
    }


def _calibrated(adapter: Adapter, trained: Trained, dev: Rows, task: Task) -> Adapter:
    """The adapter with the temperature or the thresholds that its answers to the dev rows ask for.

    One that writes texts stays as it is.
    """
    logits_NC = trained.dev_logits_NC
    if logits_NC is None:
        return adapter
    if dev.sets_NC is not None:
        return replace(adapter, thresholds=Thresholds(logits_C=fitted_thresholds(task, logits_NC, dev)))
    return adapter.with_temperature(fit_temperature(logits_NC.double().numpy(), dev.labels_N.numpy()))
