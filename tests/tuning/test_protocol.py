"""When rows are held out in folds, and what is said about it."""

from pathlib import Path

import pytest

from tests.commands import write_table, write_topics, write_yaml
from tunewright.api import compare
from tunewright.config import RunConfig
from tunewright.data.load import read_rows
from tunewright.errors import ConfigError
from tunewright.evaluation.statistics import minimum_detectable_difference
from tunewright.tuning.progress import Silent
from tunewright.tuning.protocol import DISAGREEMENT, FOLDS, SEPARATED, Plan, make_plan


def plan(data: Path, **settings: object) -> Plan:
    config = RunConfig.model_validate({"data": str(data), **settings})
    return make_plan(config, read_rows(config))


def test_folds_where_a_test_split_would_be_too_small(tmp_path: Path) -> None:
    chosen = plan(write_topics(tmp_path / "d.csv", 60), repeats=1)
    assert (chosen.protocol.kind, chosen.protocol.folds, chosen.protocol.repeats) == ("folds", 5, 1)
    assert len(chosen.folds) == 5
    assert chosen.protocol.reason == (
        "A test split of 12 rows can show only differences of 23 points or more: each of the 60 rows is held out once "
        "instead, in 5 folds. That takes 3 to 5 times as long; --folds 1 keeps the single split."
    )
    assert minimum_detectable_difference(DISAGREEMENT, 12) == pytest.approx(0.23, abs=0.005)
    assert [n.message for n in chosen.dataset.notices if n.code == "few-test-rows"] == [chosen.protocol.reason]
    assert len(plan(tmp_path / "d.csv", folds=1).dataset.splits.test) == 12  # what the sentence says of it


def test_a_single_split_where_it_is_asked_for(tmp_path: Path) -> None:
    single = plan(write_topics(tmp_path / "d.csv", 60), folds=1)
    assert (single.protocol.kind, single.protocol.reason, single.folds) == ("holdout", None, ())
    assert not [n for n in single.dataset.notices if n.code == "few-test-rows"]


def test_a_single_split_where_it_is_large_enough(tmp_path: Path) -> None:
    """The border lies where the formula has it."""
    least = next(n for n in range(1, 1000) if minimum_detectable_difference(DISAGREEMENT, n) <= SEPARATED)
    rows = [
        (f"row number {k}, as {'ab'[k % 2] * (k % 19 + 3)} says {k * 7919}", "ab"[k % 2]) for k in range(5 * least + 10)
    ]
    kinds = []
    for count in (5 * least - 10, 5 * least + 10):
        chosen = plan(write_table(tmp_path / f"{count}.csv", ("text", "label"), rows[:count]))
        kinds.append(chosen.protocol.kind)
    assert kinds == ["folds", "holdout"]


def test_a_single_split_where_a_class_is_too_small_for_folds(tmp_path: Path) -> None:
    rows = [(f"an apple a day {k}", "food") for k in range(20)] + [(f"train to {c}", "travel") for c in "abcd"]
    assert plan(write_table(tmp_path / "d.csv", ("text", "label"), rows)).protocol.kind == "holdout"


@pytest.mark.parametrize("split", ["test", "dev"])
def test_a_single_split_where_rows_are_given(split: str, tmp_path: Path) -> None:
    data, other = write_topics(tmp_path / "d.csv", 60), write_topics(tmp_path / "o.csv", 12, seed=1)
    assert plan(data, **{split: str(other)}).protocol.kind == "holdout"
    with pytest.raises(
        ConfigError, match=f"Got 3 folds and 12 {split} rows besides. Leave those out, or use --folds 1"
    ):
        plan(data, **{split: str(other)}, folds=3)


@pytest.mark.parametrize("limit", [{"budget": "10m"}, {"max_cost": 5}])
def test_a_limited_run_is_told_what_folds_would_do(limit: dict[str, object], tmp_path: Path) -> None:
    single = plan(write_topics(tmp_path / "d.csv", 60), **limit)
    assert (single.protocol.kind, single.protocol.reason) == ("holdout", None)
    (notice,) = [n for n in single.dataset.notices if n.code == "few-test-rows"]
    assert f"With --folds {FOLDS} each of the 60 rows would be held out once; 6 searches would then" in notice.message
    assert plan(tmp_path / "d.csv", **limit, folds=3).protocol.kind == "folds"


def test_costs_of_errors_keep_to_one_split_and_it_is_said(tmp_path: Path) -> None:
    costs = write_yaml(tmp_path / "c.yaml", {"food": {"music": 3}})
    single = plan(write_topics(tmp_path / "d.csv", 60), error_costs=str(costs))
    assert single.protocol.kind == "holdout"
    (notice,) = [n for n in single.dataset.notices if n.code == "few-test-rows"]
    assert notice.message.endswith("--error-costs needs one model and its test rows, so there is one split.")


@pytest.mark.parametrize("folds", [None, 1])
def test_repeats_without_folds(folds: int | None, tmp_path: Path) -> None:
    """With all other faults."""
    with pytest.raises(ConfigError) as caught:
        compare("d.csv", metric="bleu", repeats=2, folds=folds, out=str(tmp_path / "run"), listener=Silent())
    metric, repeats = caught.value.faults
    assert "unknown metric 'bleu'" in metric
    assert repeats == "`repeats` needs folds to repeat. Got 2. Add --folds 5, or leave it out."
    assert not (tmp_path / "run").exists()
