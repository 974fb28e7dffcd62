"""The search: trials until every family has had its effort; each ends as a line on disk."""

import time
from dataclasses import replace

from tunewright.errors import EndpointError, OutOfMemory
from tunewright.files import append_line
from tunewright.methods.base import settings
from tunewright.methods.table import find
from tunewright.runs.fits import Trial, TrialStatus
from tunewright.runtime import generator, is_out_of_memory
from tunewright.training.loop import Trained
from tunewright.tuning.attempt import attempt
from tunewright.tuning.effort import Effort, Entrant, Proposal, size
from tunewright.tuning.progress import OutOfTime, Step
from tunewright.tuning.session import OUT_OF_TIME, TOO_SLOW, Foresight, Session, Watch
from tunewright.types import DevScore, Family

PRUNED = "behind the median of earlier trials"


def run_search(session: Session, effort: Effort) -> None:
    """Tries until every family has had its effort or the time for refits begins; each trial ends as a line on disk."""
    done = len(effort.history)
    total = None if effort.trials is None else _num_planned(effort, session.entrants)
    if effort.trials is not None and not effort.history:
        _say_who_is_left_out(session, effort.trials)
    while (entrant := effort.next(session.open(effort))) is not None:
        paid_usd = 0.0 if session.spending is None else session.spending.usd
        trial = _try(session, effort, entrant, done, total)
        if session.spending is not None:
            trial = replace(trial, usd=session.spending.usd - paid_usd)
        effort.history.append(trial)
        append_line(session.out / "trials.jsonl", trial.record())
        session.journal.note(_spoken(trial))
        done += 1
    for name in sorted(session.gone(effort)):
        session.journal.note(
            f"search ended before its time for {name}, which does not answer: --resume goes on with it"
        )
    if not session.timely(effort):
        session.journal.note("search ended: the rest of the budget is for refits and the test pass")


def _num_planned(effort: Effort, entrants: list[Entrant]) -> int:
    """Trials of the whole search, if none of it runs out of time."""
    assert effort.trials is not None
    tunable = _tunable(entrants)
    tuned = sum(min(effort.trials, sum(size(e.space) for e in family)) for family in tunable.values())
    return round(tuned) + len(entrants) - sum(map(len, tunable.values()))


def _tunable(entrants: list[Entrant]) -> dict[Family, list[Entrant]]:
    """Family -> candidates with something to tune; the others are tried beside the family's trials."""
    families = {e.family: [other for other in entrants if other.family == e.family and other.space] for e in entrants}
    return {family: found for family, found in families.items() if found}


def _say_who_is_left_out(session: Session, num_trials: int) -> None:
    """With fewer trials than methods in a family, some are not tried: said before time is spent."""
    out = [e.id for family in _tunable(session.entrants).values() for e in family[num_trials:]]
    if out:
        few = "1 trial" if num_trials == 1 else f"{num_trials} trials"
        session.journal.note(f"{few} for each family leave out {', '.join(out)}. Raise --trials to compare them too.")


def _try(session: Session, effort: Effort, entrant: Entrant, done: int, total: int | None) -> Trial:
    number = len(effort.of(entrant))
    proposal = effort.propose(entrant)
    rng = generator(session.config.seed, entrant.id, "trial", number)
    step = Step(
        phase="search",
        done=done,
        total=total,
        candidate=entrant.id,
        trial=f"trial {number + 1}",
    )
    watch = Watch(session, entrant, step)
    allowed_s = session.trial_s(effort, entrant)
    how = settings(find(entrant.method), proposal.params, session.workshop(entrant).material)
    earliest = min(how.epochs, how.patience + 1)
    foresight = Foresight(epochs=(earliest + how.epochs) / 2, allowed_s=allowed_s)

    def observe(epochs: float, score: DevScore | None) -> str | None:
        stop = watch(epochs, score)
        if stop is None and score is not None and proposal.should_prune(score):
            return PRUNED
        return TOO_SLOW if stop is None and foresight(epochs) else stop

    start = time.monotonic()
    try:
        with session.clock.bounded(allowed_s):
            outcome = attempt(find(entrant.method), proposal.params, session.workshop(entrant), rng, observe)
    except OutOfTime:
        return as_trial(entrant, number, proposal, None, time.monotonic() - start, reason=OUT_OF_TIME)
    except EndpointError as error:
        trial = as_trial(entrant, number, proposal, None, time.monotonic() - start, reason=str(error))
        is_gone = session.workshop(entrant).material.backbone.fault is not None
        return replace(trial, status="unanswered") if is_gone else trial
    except (OutOfMemory, RuntimeError) as error:
        if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
            raise
        return as_trial(entrant, number, proposal, None, time.monotonic() - start)  # another candidate may fit
    session.note_memory(entrant, outcome)
    trial = as_trial(entrant, number, proposal, outcome.trained, outcome.seconds)
    return replace(trial, needed_s=foresight.needed_s) if trial.status == "cut" else trial


_STATUSES: dict[str, TrialStatus] = {PRUNED: "pruned", OUT_OF_TIME: "cut", TOO_SLOW: "cut"}
"""What the search itself stopped, by the reason it gave."""


def as_trial(
    entrant: Entrant,
    number: int,
    proposal: Proposal,
    trained: Trained | None,
    seconds: float,
    *,
    reason: str = "out of memory, even one row at a time",
) -> Trial:
    """What the search remembers of an attempt: the line on disk, and what later proposals and pruning are made from.

    Args:
        entrant: Who was tried.
        number: Of the trial, within the candidate.
        proposal: The setting.
        trained: What came of it; None where nothing did.
        seconds: It took.
        reason: Why nothing came of it.
    """
    scores = () if trained is None else trained.scores
    best = None if trained is None else trained.best
    stopped = reason if trained is None else trained.stopped
    return Trial(
        candidate=entrant.id,
        method=entrant.method,
        family=entrant.family,
        backbone=entrant.backbone,
        trial=number,
        params=proposal.params,
        status=_STATUSES.get(stopped, "complete" if best is not None else "failed"),
        dev=tuple({"epoch": s.epoch, "value": s.value, "loss": s.loss} for s in scores),
        value=None if best is None else best.value,
        seconds=round(seconds, 3),
        epochs=len(scores),
        num_tokens=0 if trained is None else trained.num_tokens,
        reason=stopped,
    )


def _spoken(trial: Trial) -> str:
    value = "no dev score" if trial.value is None else f"dev {trial.value:.3f}"
    params = ", ".join(f"{k}={v:.2g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
    end = "" if trial.status == "complete" else f" ({trial.status}: {trial.reason})"
    return f"{trial.candidate} trial {trial.trial + 1}: {value} in {trial.seconds:.1f} s{end}" + (
        f" [{params}]" if params else ""
    )
