"""Which, by how much, how sure, and what next: for each kind of decision."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import MakeRun, change, result
from tunewright.report.first_screen import FirstScreen, failed, first_screen, found_folder
from tunewright.runs.record import RunRecord, read

NOTHING = "nothing learned is shown to work"


def screen(run: Path, **decision: Any) -> FirstScreen:
    change(run, decision=result(run)["decision"] | decision)
    return first_screen(read(run), "runs/x")


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    return make_run()


def pair_of(record: RunRecord, a: str, b: str) -> float:
    """Difference of a minus b, from whichever side the file has it."""
    for pair in record.comparison.pairs:
        if {pair.a, pair.b} == {a, b}:
            return pair.difference if pair.a == a else -pair.difference
    raise KeyError(a, b)


def test_the_rival_of_a_cheaper_candidate_is_the_best(run: Path) -> None:
    first = screen(run, best="full", recommended="lora")
    assert first.rival is not None
    assert (first.rival.a, first.rival.b) == ("lora", "full")
    assert first.rival.difference == pair_of(read(run), "lora", "full")
    assert first.said == "shown to lose less than 1 point, and cheaper"


def test_the_rival_of_the_best_is_the_next(run: Path) -> None:
    record = read(run)
    others = [c for c in record.comparison.candidates if c.test is not None and c.id != "full"]
    second = max(others, key=lambda c: 0.0 if c.test is None else c.test.value).id
    verdict = "the best is recommended but not shown to be better than all others"
    first = screen(run, best="full", recommended="full", verdict=verdict)
    assert first.rival is not None
    assert (first.rival.a, first.rival.b) == ("full", second)
    assert first.rival.difference == pair_of(record, "full", second)


@pytest.mark.parametrize(
    ("p_adjusted", "low", "high", "said"),
    [
        (0.01, 0.01, 0.05, "shown to be better"),
        (0.2, -0.01, 0.05, "not shown to differ, which does not mean equal"),
        (0.2, 0.001, 0.05, "by itself; over all pairs not shown to differ, which does not mean equal"),
    ],
)
def test_a_difference_is_called_what_it_shows(
    make_run: MakeRun, p_adjusted: float, low: float, high: float, said: str
) -> None:
    run = make_run(methods=("prefix", "lora"))
    shown = {"a": "lora", "b": "prefix", "difference": 0.03, "low": low, "high": high, "p_value": 0.001}
    change(run, pairs=[shown | {"p_adjusted": p_adjusted}])
    assert screen(run, best="lora", recommended="lora", verdict="x").said == said


def test_the_next_step_is_the_command_that_predicts_and_the_rows_to_settle(run: Path) -> None:
    seed = next(each["shipped_seed"] for each in shipped(run) if each["id"] == "lora")
    first = screen(run)
    assert first.steps[0].command == f"tunewright predict runs/x/adapters/lora/seed-{seed} FILE"
    assert "get about 1,900 more test rows (about 2,140 in all)" in first.steps[1].sentence.striptags()


def shipped(run: Path) -> list[dict[str, Any]]:
    return [
        {"id": each["id"], "shipped_seed": seed["seed"]}
        for each in result(run)["candidates"]
        for seed in each["seeds"]
        if seed["shipped"]
    ]


def test_where_nothing_works_the_step_is_to_find_out_and_not_to_ship(run: Path) -> None:
    open_ones = [{"id": "majority", "difference": -0.02, "rows_needed": 900}]
    first = screen(run, best="lora", recommended="majority", verdict=NOTHING, not_separated=open_ones)
    assert first.headline == "Nothing learned is shown to work"
    assert first.subline == "Recommended: stay with majority"
    (step,) = first.steps
    assert "To see whether lora is better, get about 660 more test rows" in step.sentence.striptags()
    assert step.command == result(run)["provenance"]["command"]
    assert step.sentence.striptags().startswith("Ship nothing that was learned.")
    (step,) = screen(run, recommended="majority", verdict=NOTHING, not_separated=[]).steps
    assert "are the labels right" in step.sentence


def test_where_nothing_works_a_learned_candidate_is_taken_for_now(run: Path) -> None:
    open_ones = [{"id": "majority", "difference": -0.02, "rows_needed": 900}]
    first = screen(run, best="lora", recommended="lora", verdict=NOTHING, not_separated=open_ones)
    assert (first.headline, first.subline) == (
        "Nothing learned is shown to work",
        "Recommended: lora, until more rows tell",
    )
    take, settle = first.steps
    assert take.command is not None
    assert take.command.startswith("tunewright predict")
    assert settle.sentence.striptags().startswith("Do not rely on it yet. To see whether lora is better, get about 660")


def test_an_outside_system_is_kept(rich_run: Path) -> None:
    record = read(rich_run)
    assert record.comparison.decision is not None
    decision = dataclasses.replace(record.comparison.decision, recommended="today", not_separated=())
    comparison = dataclasses.replace(record.comparison, decision=decision)
    first = first_screen(dataclasses.replace(record, comparison=comparison), "runs/x")
    (step,) = first.steps
    assert step.sentence == "Keep today: it answers already, outside of this run."
    assert step.command is None


def test_without_a_decision_or_a_candidate_the_run_is_to_be_repeated(run: Path) -> None:
    command = result(run)["provenance"]["command"]
    assert [step.command for step in screen(run, recommended=None).steps] == [command]
    change(run, decision=None)
    first = first_screen(read(run), "runs/x")
    assert (first.headline, [step.command for step in first.steps]) == ("Nothing to recommend", [command])


def test_failed_checks_are_those_that_touch_a_candidate_or_all(rich_run: Path) -> None:
    comparison = read(rich_run).comparison
    codes = {name: [check.code for check in failed(comparison, name)] for name in ("lora", "soft-prompt", None)}
    both = ["test-too-small", "unstable-across-seeds"]
    assert codes == {"lora": both[:1], "soft-prompt": both, None: both}


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("tunewright compare a.csv", "runs/name"),
        ("tunewright compare a.csv --out runs/demo --seeds 2", "runs/demo"),
        ("tunewright compare a.csv --out='my runs/demo'", "my runs/demo"),
        ("tunewright compare it's.csv --out", "runs/name"),
    ],
)
def test_the_folder_is_the_one_that_was_typed(command: str, folder: str) -> None:
    assert found_folder(command, "name") == folder
