"""The search: equal effort for every family, and proposals that are a function of what was tried."""

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from tunewright.errors import RunError
from tunewright.files import append_line, read_lines
from tunewright.methods.base import Choice, Range, Space
from tunewright.runs.fits import Trial, TrialStatus, finalist
from tunewright.tuning.effort import Effort, Entrant, size
from tunewright.types import DevScore, Family, Params

NOTHING: Space = {}
TWO_CHOICES: Space = {"template": Choice(options=("a", "b", "c")), "words": Choice(options=(1, 2))}
RATES: Space = {"lr": Range(low=1e-4, high=1e-1, default=1e-2), "rank": Choice(options=(8, 2, 32))}


def entrant(name: str, family: Family, space: Space) -> Entrant:
    return Entrant(id=name, method=name, family=family, backbone="base", space=space)


FIELD = (
    entrant("majority", "no training", NOTHING),
    entrant("zero-shot", "no training", TWO_CHOICES),
    entrant("soft-prompt", "soft prompts", RATES),
    entrant("prefix", "soft prompts", RATES),
    entrant("probe", "fine-tuning", {"lr": RATES["lr"]}),
    entrant("lora", "fine-tuning", RATES),
    entrant("full", "fine-tuning", {"lr": RATES["lr"]}),
)


def trial(
    of: Entrant,
    number: int,
    params: Params,
    curve: Sequence[float] = (0.5,),
    *,
    status: TrialStatus = "complete",
    losses: Sequence[float] | None = None,
    seconds: float = 1.0,
) -> Trial:
    losses = [1.0] * len(curve) if losses is None else losses
    dev = [
        {"epoch": k, "value": v, "loss": loss} for k, (v, loss) in enumerate(zip(curve, losses, strict=True), start=1)
    ]
    return Trial(
        candidate=of.id,
        method=of.method,
        family=of.family,
        backbone=of.backbone,
        trial=number,
        params=params,
        status=status,
        dev=tuple(dev),
        value=max(curve, default=None),
        seconds=seconds,
        epochs=len(curve),
        num_tokens=100,
        reason="finished",
    )


def peak(params: Params) -> float:
    """A made-up dev score, best at lr 0.003 and rank 2."""
    lr = float(params.get("lr", 0.003))
    return 0.9 - 0.1 * abs(math.log10(lr / 0.003)) - 0.001 * float(params.get("rank", 2))


def search(
    effort: Effort,
    field: Sequence[Entrant],
    rounds: int = 200,
    seconds: Callable[[Entrant], float] = lambda _: 1.0,
) -> list[str]:
    """Ids in the order in which they had their turn, until no effort is left."""
    turns = []
    for _ in range(rounds):
        chosen = effort.next(field)
        if chosen is None:
            break
        params = effort.propose(chosen).params
        number = len(effort.of(chosen))
        effort.history.append(trial(chosen, number, params, (peak(params),), seconds=seconds(chosen)))
        turns.append(chosen.id)
    return turns


def effort_of(trials: int | None, history: Sequence[Trial] = (), *, pruning: bool = True, seed: int = 0) -> Effort:
    return Effort(trials=trials, pruning=pruning, seed=seed, history=list(history))


# --- whose turn it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"lr": 1e-2}, {"lr": 1e-2, "rank": 7}, {"lr": 1e-2, "rank": 8, "alpha": 2}])
def test_trials_of_another_version_are_refused(params: Params) -> None:
    lora = FIELD[5]
    effort = Effort(trials=4, pruning=True, seed=0, history=[trial(lora, 0, params)])
    with pytest.raises(RunError, match=r"trial 1 of lora tried \{'lr'.*Allowed by this version: values of lr, rank\."):
        effort.propose(lora)


def test_every_family_has_the_same_number_of_trials() -> None:
    turns = Counter(search(effort_of(6), FIELD))
    # `majority` has nothing to tune: it takes no trial from its family.
    assert turns == {
        "majority": 1,
        "zero-shot": 6,
        "soft-prompt": 3,
        "prefix": 3,
        "probe": 2,
        "lora": 2,
        "full": 2,
    }


def test_families_take_turns() -> None:
    """At any moment no family is more than one trial ahead: a search that is cut off is fair too."""
    family = {e.id: e.family for e in FIELD if e.space}
    turns = [name for name in search(effort_of(6), FIELD) if name in family]
    for end in range(1, len(turns) + 1):
        counts = Counter(family[name] for name in turns[:end])
        assert max(counts.values()) - min(counts.get(e.family, 0) for e in FIELD) <= 1


def test_a_family_whose_spaces_are_exhausted_drops_out() -> None:
    turns = Counter(search(effort_of(20), FIELD))
    assert turns["majority"] == 1
    assert turns["zero-shot"] == 6  # 3 x 2 points
    assert turns["soft-prompt"] + turns["prefix"] == 20
    assert turns["probe"] + turns["lora"] + turns["full"] == 20
    assert {turns["probe"], turns["lora"], turns["full"]} == {6, 7}


def test_under_a_budget_families_have_the_same_seconds() -> None:
    """A trial of full costs ten times one of the soft prompts: fewer of them are tried."""
    cost = {"full": 20.0, "lora": 8.0, "probe": 2.0, "soft-prompt": 1.5, "prefix": 2.5}
    field = [e for e in FIELD if e.family != "no training"]
    effort = effort_of(None)
    search(effort, field, rounds=200, seconds=lambda e: cost[e.id])
    spent = Counter[Family]()
    for done in effort.history:
        spent[done.family] += int(done.seconds * 2)
    assert abs(spent["soft prompts"] - spent["fine-tuning"]) <= 2 * max(cost.values())
    assert Counter(t.family for t in effort.history)["soft prompts"] > 100


def test_pruned_and_failed_trials_count() -> None:
    lora = FIELD[5]
    history = [
        trial(lora, 0, {"lr": 0.01, "rank": 8}, (0.2,), status="pruned"),
        trial(lora, 1, {"lr": 0.02, "rank": 8}, (), status="failed"),
    ]
    assert effort_of(2, history).next([lora]) is None
    assert effort_of(3, history).next([lora]) == lora


def test_nothing_to_do() -> None:
    assert effort_of(5).next([]) is None


# --- what is tried ----------------------------------------------------------------------------------------------------


def test_defaults_come_first() -> None:
    assert effort_of(5).propose(FIELD[2]).params == {"lr": 1e-2, "rank": 8}
    assert effort_of(5).propose(FIELD[0]).params == {}
    assert effort_of(5).propose(FIELD[1]).params == {"template": "a", "words": 1}


@pytest.mark.parametrize("seed", range(5))
def test_finite_spaces_are_enumerated_without_repetition(seed: int) -> None:
    zero_shot = FIELD[1]
    effort = effort_of(100, seed=seed)
    assert len(search(effort, [zero_shot])) == size(TWO_CHOICES) == 6
    tried = [(t.params["template"], t.params["words"]) for t in effort.history]
    assert sorted(tried) == sorted(itertools.product("abc", (1, 2)))
    assert effort.next([zero_shot]) is None


def test_proposals_stay_in_the_space_and_learn() -> None:
    """After ten trials of a score with one peak the rates are nearer to it than chance would have them."""
    lora = FIELD[5]
    effort = effort_of(40)
    search(effort, [lora])
    rates = np.array([float(t.params["lr"]) for t in effort.history])
    assert ((rates >= 1e-4) & (rates <= 1e-1)).all()
    assert {t.params["rank"] for t in effort.history} <= {8, 2, 32}
    assert len(set(rates.tolist())) == 40
    distance = np.abs(np.log10(rates[10:] / 0.003))
    # Uniform on the log scale over three decades, the mean distance from the peak would be 0.75.
    assert distance.mean() < 0.55


def test_another_seed_tries_others() -> None:
    found = []
    for seed in (0, 1):
        effort = effort_of(4, seed=seed)
        search(effort, [FIELD[5]])
        found.append([t.params["lr"] for t in effort.history[1:]])
    assert set(found[0]).isdisjoint(found[1])


REPLAY = """
import json, sys
from pathlib import Path
from tests.tuning.test_effort import FIELD, effort_of
from tunewright.runs.fits import Trial
from tunewright.files import read_lines

history = [Trial.read(line) for line in read_lines(Path(sys.argv[1]))]
for end in range(len(history) + 1):
    effort = effort_of(4, history[:end])
    chosen = effort.next(FIELD)
    print(json.dumps(None if chosen is None else [chosen.id, effort.propose(chosen).params]))
"""


def test_a_fresh_process_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """From each prefix of the written trials another process makes the very proposal that was made here."""
    effort = effort_of(4)
    search(effort, FIELD)
    for done in effort.history:
        append_line(tmp_path / "trials.jsonl", done.record())
    assert [Trial.read(line) for line in read_lines(tmp_path / "trials.jsonl")] == effort.history
    command = [sys.executable, "-c", REPLAY, str(tmp_path / "trials.jsonl")]
    root = Path(__file__).parents[2]
    done_there = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root, env={"PYTHONPATH": f"{root}/src:{root}"}
    )
    assert done_there.returncode == 0, done_there.stderr
    replayed = [json.loads(line) for line in done_there.stdout.splitlines()]
    assert replayed == [*([t.candidate, t.params] for t in effort.history), None]


# --- pruning ----------------------------------------------------------------------------------------------------------


def pruned_at(effort: Effort, curve: Sequence[float]) -> int | None:
    """Epoch at which a trial with this curve is given up."""
    proposal = effort.propose(FIELD[5])
    for epoch, value in enumerate(curve, 1):
        if proposal.should_prune(DevScore(epoch=epoch, value=value, loss=1.0)):
            return epoch
    return None


CURVES = ((0.4, 0.6, 0.7), (0.5, 0.7, 0.8), (0.3, 0.65, 0.9))


def with_curves(*, pruning: bool = True) -> Effort:
    lora = FIELD[5]
    history = [trial(lora, k, {"lr": 0.001 * (k + 1), "rank": 8}, curve) for k, curve in enumerate(CURVES)]
    return effort_of(9, history, pruning=pruning)


def test_a_trial_behind_the_median_is_given_up() -> None:
    # The medians of the best so far: 0.4, 0.65, 0.8; the first epoch is never judged.
    assert pruned_at(with_curves(), (0.1, 0.66, 0.85)) is None
    assert pruned_at(with_curves(), (0.1, 0.64, 0.9)) == 2
    assert pruned_at(with_curves(), (0.1, 0.7, 0.75)) == 3
    assert pruned_at(with_curves(), (0.9, 0.1, 0.1)) is None  # its best so far counts


def test_without_pruning_nothing_is_given_up() -> None:
    assert pruned_at(with_curves(pruning=False), (0.1, 0.1, 0.1)) is None


def test_the_first_trial_is_not_given_up() -> None:
    assert pruned_at(effort_of(9), (0.1, 0.05, 0.0)) is None


def test_pruning_is_the_same_after_reading_from_disk(tmp_path: Path) -> None:
    effort = with_curves()
    for done in effort.history:
        append_line(tmp_path / "t.jsonl", done.record())
    again = replace(effort, history=[Trial.read(line) for line in read_lines(tmp_path / "t.jsonl")])
    for curve in itertools.product((0.3, 0.64, 0.66, 0.79, 0.81), repeat=3):
        assert pruned_at(again, curve) == pruned_at(effort, curve)


def test_pruned_trials_inform_the_sampler() -> None:
    """Failed ones cannot; Optuna accepts all three states."""
    lora = FIELD[5]
    history = [
        trial(lora, 0, {"lr": 0.01, "rank": 8}, (0.6, 0.7)),
        trial(lora, 1, {"lr": 0.02, "rank": 2}, (0.2, 0.1), status="pruned"),
        trial(lora, 2, {"lr": 0.03, "rank": 2}, (), status="failed"),
    ]
    params = effort_of(9, history).propose(lora).params
    assert set(params) == {"lr", "rank"}
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


# --- the finalist -----------------------------------------------------------------------------------------------------


def test_the_finalist_has_the_best_value_then_the_lowest_loss_then_comes_first() -> None:
    lora = FIELD[5]
    base = trial(lora, 0, {"lr": 0.01}, (0.6, 0.8, 0.7), losses=(1.0, 0.9, 0.1))
    better = trial(lora, 1, {"lr": 0.02}, (0.81,), losses=(5.0,))
    assert finalist([base, better]) is better
    # Same best value: the loss at the best epoch counts, not the lowest of all.
    same = trial(lora, 2, {"lr": 0.03}, (0.8,), losses=(0.85,))
    assert finalist([base, same]) is same
    worse_loss = trial(lora, 3, {"lr": 0.04}, (0.8, 0.1), losses=(0.95, 0.01))
    assert finalist([worse_loss, base]) is base
    twin = replace(base, trial=4)
    assert finalist([twin, base]) is base
    # Two epochs of one value: the one with the lower loss is the best.
    assert replace(base, dev=(*base.dev, {"epoch": 4, "value": 0.8, "loss": 0.2})).best == DevScore(
        epoch=4, value=0.8, loss=0.2
    )


def test_only_complete_trials_can_be_finalists() -> None:
    lora = FIELD[5]
    pruned = trial(lora, 0, {"lr": 0.01}, (0.99,), status="pruned")
    failed = trial(lora, 1, {"lr": 0.01}, (), status="failed")
    assert finalist([pruned, failed]) is None
    assert finalist([]) is None
    complete = trial(lora, 2, {"lr": 0.01}, (0.1,))
    assert finalist([pruned, failed, complete]) is complete


def test_trials_survive_the_way_to_disk_and_back() -> None:
    done = trial(FIELD[5], 0, {"lr": 0.1 + 0.2, "rank": 8}, (1 / 3, 2 / 3))
    assert Trial.read(json.loads(json.dumps(done.record()))) == done
    assert asdict(done)["dev"][1] == {"epoch": 2, "value": 2 / 3, "loss": 1.0}
