"""Two runs: paired where they answered the same rows, side by side where not. Against scipy and statsmodels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from tests.report.conftest import MakeRun, change, result
from tunewright.cli.main import app
from tunewright.errors import RunError
from tunewright.report.build import build_versus
from tunewright.report.versus import compare_runs
from tunewright.runs.record import read


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def right(run: Path, candidate: str) -> np.ndarray:
    """Whether each row was answered rightly by the shipped seed."""
    each = next(each for each in result(run)["candidates"] if each["id"] == candidate)
    seed = next(seed["seed"] for seed in each["seeds"] if seed["shipped"])
    truth = {row["id"]: row["label"] for row in lines_of(run / "test.jsonl")}
    answers = lines_of(run / "predictions" / candidate / f"seed-{seed}.jsonl")
    return np.array([truth[answer["id"]] == answer["label"] for answer in answers])


@pytest.fixture
def runs(make_run: MakeRun) -> tuple[Path, Path]:
    """The same rows; in the later run lora is worse, full is not there and majority is recommended."""
    old = make_run(methods=("majority", "lora", "full"), name="before")
    new = Path(shutil.copytree(old, old.parent / "after"))
    for seed in range(3):
        worse = lines_of(new / f"predictions/lora/seed-{seed}.jsonl")
        for row in worse[:60]:
            row["label"] = "praise"
        text = "".join(json.dumps(row) + "\n" for row in worse)
        (new / f"predictions/lora/seed-{seed}.jsonl").write_text(text, encoding="utf-8")
    content = result(new)
    content["candidates"] = [each for each in content["candidates"] if each["id"] != "full"]
    change(new, candidates=content["candidates"], decision=content["decision"] | {"recommended": "majority"})
    return old, new


def test_differences_on_the_same_rows_are_paired(runs: tuple[Path, Path]) -> None:
    old, new = runs
    versus = compare_runs(read(old), read(new))
    assert versus.unpaired == ""
    pairs = {change.name: change.pair for change in versus.changes}
    assert set(pairs) == {"majority", "lora", "full"}
    assert pairs["full"] is None
    assert versus.recommended is not None
    assert versus.recommended.name == "lora \u2192 majority"
    tested = {"majority": ("majority", "majority"), "lora": ("lora", "lora")}
    found = {name: pairs[name] for name in tested} | {"crossed": versus.recommended.pair}
    exact = []
    for name, pair in found.items():
        before, after = tested.get(name, ("lora", "majority"))
        old_N, new_N = right(old, before), right(new, after)
        wins, losses = int((new_N & ~old_N).sum()), int((old_N & ~new_N).sum())
        p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert pair is not None
        assert pair.difference == pytest.approx(float(new_N.mean() - old_N.mean()), abs=1e-12)
        assert pair.p_value == pytest.approx(p, rel=1e-9)
        assert pair.low <= pair.difference <= pair.high
        exact.append(p)
    adjusted = multipletests(exact, method="holm")[1]
    assert [pair.p_adjusted for pair in found.values() if pair is not None] == pytest.approx(adjusted.tolist())
    assert found["lora"] is not None
    assert found["lora"].high < 0


def test_the_other_way_round_has_the_other_sign(runs: tuple[Path, Path]) -> None:
    there, back = (
        next(each.pair for each in compare_runs(read(a), read(b)).changes if each.name == "lora")
        for a, b in (runs, runs[::-1])
    )
    assert there is not None
    assert back is not None
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("metric", "macro-f1", "they were judged by accuracy and by macro-f1"),
        ("labels", ["a", "b"], "they have different labels"),
        (None, None, "they have different test rows"),
    ],
)
def test_what_cannot_be_paired_stands_side_by_side_and_it_is_said(
    runs: tuple[Path, Path], key: str | None, value: object, reason: str
) -> None:
    old, new = runs
    if key is not None:
        change(new, task=result(new)["task"] | {key: value})
    else:
        (new / "test.jsonl").write_text((new / "test.jsonl").read_text(encoding="utf-8").replace("hi!!", "hi"))
    path, versus = build_versus(old, new)
    assert versus.unpaired == reason
    assert all(change.pair is None for change in versus.changes)
    html = path.read_text(encoding="utf-8")
    assert reason in html
    assert "Difference" not in html


def test_the_command_prints_the_table_and_writes_the_page(runs: tuple[Path, Path]) -> None:
    old, new = runs
    done = CliRunner().invoke(app, ["report", str(old), str(new)], env={"COLUMNS": "160"})
    assert done.exit_code == 0
    page = old.parent / "before-vs-after.html"
    assert str(page) in done.stdout.replace("\n", "")
    lora = next(line.split() for line in done.stdout.splitlines() if line.strip().startswith("lora "))
    shown = [f"{100 * each.mean():.1f}" for each in (right(old, "lora"),)]
    assert lora[1] == shown[0]
    assert "recommended: lora \u2192 majority" in done.stdout
    assert "shown to be worse" in page.read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for pair in ((runs[0], tmp_path), (tmp_path, runs[0])):
        with pytest.raises(RunError, match=r"no comparison\.json in .*finished run folder\?$"):
            build_versus(*pair)
