"""Who may still be tried, and for how long, when time is short."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunewright.config import RunConfig
from tunewright.methods.base import Choice
from tunewright.runs.fits import Trial, TrialStatus
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import Clock, Journal, Silent
from tunewright.tuning.session import Session

NAMES = ("probe", "lora", "full")
_OPTIONS = Choice(options=tuple(range(9)))


def entrant(name: str) -> Entrant:
    return Entrant(id=name, method=name, family="fine-tuning", backbone="base", space={})


def trial(name: str, seconds: float, status: TrialStatus = "complete", number: int = 0) -> Trial:
    dev = ({"epoch": 1.0, "value": 0.5, "loss": 1.0},) if status != "failed" else ()
    return Trial(
        candidate=name, method=name, family="fine-tuning", backbone="base", trial=number, params={}, status=status,
        dev=dev, value=0.5, seconds=seconds, epochs=1, num_tokens=1, reason="",
    )  # fmt: skip


def session(folder: Path, budget_s: float | None, *, seeds: int = 3) -> Session:
    return Session(
        config=RunConfig(data="d.csv", seeds=seeds),
        out=folder,
        columns={},
        clock=Clock(folder / "elapsed.json", budget_s, time.monotonic()),
        journal=Journal(folder / "log.txt", Silent()),
        workshops={},
        entrants=[entrant(name) for name in NAMES],
    )


def effort(*history: Trial) -> Effort:
    return Effort(trials=None, pruning=True, seed=0, history=list(history))


def ids(entrants: Sequence[Entrant]) -> list[str]:
    return [e.id for e in entrants]


def test_one_trial_cannot_take_the_time_of_the_others(tmp_path: Path) -> None:
    """Each of those without a trial gets its share, with one refit."""
    run = session(tmp_path, 308)
    assert run.trial_s(effort()) == pytest.approx(300 / 3 / 2.15, rel=0.01)
    assert run.trial_s(effort(trial("probe", 1.0))) == pytest.approx((300 - 1.15) / 2 / 2.15, rel=0.01)


def test_later_trials_have_what_the_refits_leave(tmp_path: Path) -> None:
    run = session(tmp_path, 308)
    done = effort(trial("probe", 10.0), trial("lora", 20.0), trial("full", 30.0))
    assert run.trial_s(done) == pytest.approx(300 - 3 * 1.15 * 60, rel=0.01)


def test_the_untried_go_before_more_seeds(tmp_path: Path) -> None:
    """Not enough for three refits of each, but for one: only who was not tried yet is. Then nobody."""
    run = session(tmp_path, 208)
    assert ids(run.open(effort(trial("probe", 20.0)))) == list(NAMES)
    assert ids(run.open(effort(trial("probe", 20.0), trial("lora", 60.0)))) == ["full"]
    assert ids(run.open(effort(trial("probe", 20.0), trial("lora", 180.0)))) == []
    assert ids(session(tmp_path, None).open(effort(trial("probe", 1e6)))) == list(NAMES)


def test_who_takes_too_long_or_only_fails_drops_out() -> None:
    entrants = [
        Entrant(id=name, method=name, family="fine-tuning", backbone="base", space={"a": _OPTIONS}) for name in NAMES
    ]
    history = [trial("probe", 1.0, "cut"), trial("lora", 1.0, "failed"), trial("lora", 1.0, "failed", 1)]
    chosen = effort(*history).next(entrants)
    assert chosen is not None
    assert chosen.id == "full"
    history += [trial("full", 1.0, "failed")]
    again = effort(*history).next(entrants)
    assert again is not None
    assert again.id == "full", "one failure is no verdict"
