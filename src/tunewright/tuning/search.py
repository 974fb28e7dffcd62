"""The search: trials until every family has had its effort; each ends as a line on disk."""

import time

from tunewright.errors import OutOfMemory
from tunewright.files import append_line
from tunewright.methods import METHODS
from tunewright.runs.fits import Trial, TrialStatus
from tunewright.runtime import generator, is_out_of_memory
from tunewright.training.loop import Trained
from tunewright.tuning.attempt import attempt
from tunewright.tuning.effort import Effort, Entrant, Proposal, size
from tunewright.tuning.progress import Step
from tunewright.tuning.session import Session
from tunewright.types import DevScore, Family

OUT_OF_TIME = "out of time"
PRUNED = "behind the median of earlier trials"


def run_search(session: Session, effort: Effort) -> None:
    """Tries until every family has had its effort or the time for refits begins; each trial ends as a line on disk."""
    done = len(effort.history)
    total = None if effort.trials is None else _num_planned(effort, session.entrants)
    if effort.trials is not None and not effort.history:
        _say_who_is_left_out(session, effort.trials)
    while (entrant := effort.next(session.open(effort))) is not None:
        trial = _try(session, effort, entrant, done, total)
        effort.history.append(trial)
        append_line(session.out / "trials.jsonl", trial.record())
        session.journal.note(_spoken(trial))
        done += 1
    if not session.open(effort):
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
    watch = _Watch(session, effort, proposal, step)
    start = time.monotonic()
    try:
        outcome = attempt(METHODS[entrant.method], proposal.params, session.workshop(entrant), rng, watch)
    except (OutOfMemory, RuntimeError) as error:
        if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
            raise
        return as_trial(entrant, number, proposal, None, time.monotonic() - start)  # another candidate may fit
    session.note_memory(entrant, outcome)
    return as_trial(entrant, number, proposal, outcome.trained, outcome.seconds)


_STATUSES: dict[str, TrialStatus] = {PRUNED: "pruned", OUT_OF_TIME: "cut"}
"""What the search itself stopped, by the reason it gave."""


def as_trial(entrant: Entrant, number: int, proposal: Proposal, trained: Trained | None, seconds: float) -> Trial:
    """What the search remembers of an attempt: the line on disk, and what later proposals and pruning are made from.

    Args:
        entrant: Who was tried.
        number: Of the trial, within the candidate.
        proposal: The setting.
        trained: What came of it; None where not even one row fitted in memory.
        seconds: It took.
    """
    scores = () if trained is None else trained.scores
    best = None if trained is None else trained.best
    stopped = "out of memory, even one row at a time" if trained is None else trained.stopped
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


class _Watch:
    """Listens to one trial of the search: passes progress on, prunes, and minds the time."""

    def __init__(self, session: Session, effort: Effort, proposal: Proposal, step: Step) -> None:
        self._session, self._proposal, self._step = session, proposal, step
        self._start, self._allowed_s = time.monotonic(), session.trial_s(effort)

    def __call__(self, epochs: float, score: DevScore | None) -> str | None:
        session, step = self._session, self._step
        best = step.dev if score is None else max(score.value, -1.0 if step.dev is None else step.dev)
        self._step = step.moved(epochs, best, session.clock.left_s)
        session.journal.step(self._step)
        session.clock.beat()
        if time.monotonic() - self._start > self._allowed_s:
            return OUT_OF_TIME
        return PRUNED if score is not None and self._proposal.should_prune(score) else None
