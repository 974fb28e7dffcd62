"""The search: trials until every family has had its effort; each ends as a line on disk."""

from dataclasses import replace

from tunewright.files import append_line
from tunewright.methods.base import settings
from tunewright.methods.table import find
from tunewright.runs.fits import Trial, finalist
from tunewright.runtime import generator
from tunewright.tuning.effort import Effort, Entrant, size
from tunewright.tuning.fit import fit, keep
from tunewright.tuning.progress import Step
from tunewright.tuning.session import PRUNED, TOO_SLOW, Foresight, Session, Watch
from tunewright.types import DevScore, Family


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
        rest = "the test pass" if session.ships_trials else "refits and the test pass"
        session.journal.note(f"search ended: the rest of the budget is for {rest}")


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

    with session.clock.bounded(allowed_s):
        trial, outcome = fit(session, entrant, number, proposal.params, rng, observe, may_ship=session.ships_trials)
    if outcome is not None and session.ships_trials and finalist([*effort.of(entrant), trial]) is trial:
        keep(session, entrant, trial, outcome)  # before its line: a trial without one is repeated
    is_slow = outcome is not None and trial.status == "cut"
    return replace(trial, needed_s=foresight.needed_s) if is_slow else trial


def _spoken(trial: Trial) -> str:
    value = "no dev score" if trial.value is None else f"dev {trial.value:.3f}"
    params = ", ".join(f"{k}={v:.2g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
    end = "" if trial.status == "complete" else f" ({trial.status}: {trial.reason})"
    return f"{trial.candidate} trial {trial.trial + 1}: {value} in {trial.seconds:.1f} s{end}" + (
        f" [{params}]" if params else ""
    )
