"""Who may still be tried, and for how long, when time is short."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tunewright.config import RunConfig
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice
from tunewright.runs.fits import Trial, TrialStatus
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import Clock, Journal, OutOfTime, Silent, Start
from tunewright.tuning.session import Foresight, Session

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
        is_reply=False,
        columns={},
        clock=Clock(folder / "elapsed.json", budget_s, Start.now()),
        journal=Journal(folder / "log.txt", Silent()),
        workshops={},
        entrants=[entrant(name) for name in NAMES],
        metric=METRICS["accuracy"],
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


def test_where_the_winning_trial_is_kept_no_time_is_held_back_for_refits(tmp_path: Path) -> None:
    """With one seed the search has all that the answers, the decision and the report leave."""
    run = session(tmp_path, 308, seeds=1)
    probe, lora = trial("probe", 10.0), trial("lora", 280.0)
    assert run.trial_s(effort(probe)) == pytest.approx(300 / 2, rel=0.01)
    assert ids(run.open(effort(probe, lora))) == list(NAMES)
    assert run.trial_s(effort(probe, lora, trial("full", 1.0))) == pytest.approx(300, rel=0.01)


def tunable(run: Session) -> list[Entrant]:
    run.entrants[:] = [replace(each, space={"a": _OPTIONS}) for each in run.entrants]
    return run.entrants


def test_who_takes_too_long_or_only_fails_drops_out(tmp_path: Path) -> None:
    run = session(tmp_path, 1000)
    tunable(run)
    history = [trial("probe", 1.0, "cut"), trial("lora", 1.0, "failed"), trial("lora", 1.0, "failed", 1)]
    chosen = effort(*history).next(run.open(effort(*history)))
    assert chosen is not None
    assert chosen.id == "full"
    history += [trial("full", 1.0, "failed")]
    again = effort(*history).next(run.open(effort(*history)))
    assert again is not None
    assert again.id == "full", "one failure is no verdict"


def test_who_was_too_slow_for_a_share_is_tried_again_when_the_rest_left_enough(tmp_path: Path) -> None:
    """The quicker of two, once, with its default setting, before second trials; not while others wait."""
    run = session(tmp_path, 308, seeds=2)
    slow = [replace(trial(name, 2.0, "cut"), needed_s=s) for name, s in (("lora", 80.0), ("full", 110.0))]
    probe = trial("probe", 1.0)
    lora = tunable(run)[1]
    assert ids(run.open(effort(*slow))) == ["probe"]
    assert ids(run.open(effort(*slow, probe))) == ["lora"]
    left_s = 300 - 1.15
    assert run.trial_s(effort(*slow, probe), lora) == pytest.approx(left_s / 2.15, rel=0.01)
    assert effort(*slow, probe).propose(lora).params == {"a": _OPTIONS.default}
    assert ids(run.open(effort(*slow, probe, trial("lora", 80.0, "cut", 1)))) == ["full"]
    assert ids(run.open(effort(*slow, probe, trial("lora", 80.0, number=1)))) == ["probe"]
    assert ids(session(tmp_path, 190, seeds=2).open(effort(*slow, probe))) == ["probe"]
    assert ids(run.open(effort(*(replace(each, needed_s=None) for each in slow), probe))) == ["probe"]


def test_a_trial_that_cannot_end_in_time_is_told_by_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four seconds to place it, then 10 for an epoch of 20 steps: 53.5 s for five of them, 23.5 for two."""
    for allowed_s, epochs, told in ((53.0, 5, 53.5), (54.0, 5, None), (23.0, 2, 23.5), (24.0, 2, None)):
        now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: now)  # noqa: B023
        foresight = Foresight(epochs=epochs, allowed_s=allowed_s)
        now += 2 + 2
        found = None
        for step in range(1, 20):
            if foresight(step / 20):
                found = foresight.needed_s
                break
            now += 0.5
        assert found == (None if told is None else pytest.approx(told)), allowed_s
        assert found is None or step <= 4, "after a second and a tenth of an epoch"


# --- the end is reserved for ------------------------------------------------------------------------------------------


def test_answers_and_the_decision_are_reserved_for(tmp_path: Path) -> None:
    """Three seeds of each answer all rows; the features of the base are computed once; three may have to be decided
    among, as the third has no trial yet."""
    run = session(tmp_path, 1000)
    run.workshops["base"] = None  # type: ignore[assignment]  # only its name is read
    run.pace.report_s, run.pace.candidate_s, run.pace.num_test, run.pace.num_dev = 5.0, 2.0, 150, 50
    run.pace.note("base", 10.0, 100)
    run.pace.note("lora", 30.0, 100)
    run.pace.note("lora", 10.0, 100)  # faster: the slower one counts
    done = effort(trial("lora", 40.0), trial("probe", 10.0))
    expected = 1000 - (5 + 3 * 2) - 150 * 0.1 - 3 * (1.15 * 50 + 200 * 0.3)
    assert run.left_s(done, 3) == pytest.approx(expected, abs=0.5)


def test_with_no_time_at_all_the_floor_and_a_quick_one_are_tried(tmp_path: Path) -> None:
    run = session(tmp_path, 1.0)
    space = {"neighbours": _OPTIONS}
    floor = Entrant(id="majority", method="majority", family="no training", backbone="base", space={})
    quick = [Entrant(id=n, method=n, family="no training", backbone="base", space=space) for n in ("zero", "few")]
    run.entrants[:] = [*quick, entrant("lora"), floor]
    assert ids(run.open(effort())) == ["majority", "zero"]
    assert ids(run.open(effort(trial("majority", 0.0)))) == ["zero"]
    assert run.open(effort(trial("majority", 0.0), trial("zero", 1.0, "cut"))) == []


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget_s", "grace_s"), [(5.0, 5.0), (200.0, 5.0), (1000.0, 25.0), (None, 0.0)])
def test_grace_is_half_of_what_is_promised(budget_s: float | None, grace_s: float, tmp_path: Path) -> None:
    assert Clock(tmp_path / "elapsed.json", budget_s, Start.now()).grace_s == grace_s


def test_work_is_interrupted_by_the_tightest_bound(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "elapsed.json", None, Start.now())
    clock.check()
    with clock.bounded(60.0):
        with clock.bounded(0.01):
            time.sleep(0.02)
            with pytest.raises(OutOfTime):
                clock.check()
        with clock.bounded(600.0):
            clock.check()
        assert not clock.is_out
    with clock.bounded(-1.0), clock.bounded(60.0), pytest.raises(OutOfTime):
        clock.check()  # an inner bound cannot give more time
    clock.check()


def test_a_process_begins_before_its_first_line() -> None:
    """Imports count, and so does the processor time they took."""
    code = (
        f"import time; time.sleep(0.5); begun = time.monotonic(); import sys; sys.path[:] = {sys.path!r};"
        "from tunewright.tuning.progress import Start; start = Start.of_process();"
        "print(begun - start.wall_s, start.cpu_s)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before_s, cpu_s = map(float, done.stdout.split())
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not say when a process began")
    assert 0.5 <= before_s < 30
    assert cpu_s == 0


def test_processor_time_goes_on_over_sessions(tmp_path: Path) -> None:
    path = tmp_path / "elapsed.json"
    first = Clock(path, None, Start.now())
    begun = time.process_time()
    while time.process_time() - begun < 0.2:
        pass
    first.test_s["lora/0"] = 1.5
    first.save()
    second = Clock(path, None, Start.now())
    assert 0.2 <= second.cpu_s < 0.2 + (time.process_time() - begun)
    assert second.test_s == {"lora/0": 1.5}
