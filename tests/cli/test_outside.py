"""Outside candidates in a whole run: judged on the same rows, never loaded, and refused before any training."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

import tunewright as tw
from tests.cli.test_bad_input import refused
from tests.commands import Call, write_table, write_topics
from tunewright.errors import RunError
from tunewright.tuning.progress import Silent


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("data") / "topics.csv", 90)


def source(data: Path) -> list[dict[str, str]]:
    with data.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def whole(data: Path, path: Path, wrong_each: int) -> Path:
    """Answers to all rows of the data, by text; each so-many-th is wrong."""
    lines = [
        (line["text"], "food" if k % wrong_each == 0 and line["label"] != "food" else line["label"])
        for k, line in enumerate(source(data))
    ]
    return write_table(path, ("text", "predicted"), lines)


@pytest.fixture(scope="module")
def run(data: Path, tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tw.Run:
    folder = tmp_path_factory.mktemp("outside")
    return tw.compare(
        str(data),
        model=str(tiny_folder("bert")),
        methods="majority,linear-probe",
        trials=1,
        seeds=2,
        folds=1,
        predictions={"today": whole(data, folder / "today.csv", 10), "rule": whole(data, folder / "rule.csv", 2)},
        out=str(folder / "run"),
        listener=Silent(),
    )


def test_is_judged_as_the_others_are(run: tw.Run) -> None:
    test = rows(run.folder / "test.jsonl")
    by_id = {candidate.id: candidate for candidate in run.comparison.candidates}
    assert list(by_id) == ["majority", "linear-probe", "today", "rule"]
    right: dict[str, list[bool]] = {}
    for name, candidate in by_id.items():
        answers = rows(run.folder / "predictions" / name / f"seed-{candidate.shipped_seed}.jsonl")
        assert [a["id"] for a in answers] == [row["id"] for row in test]
        right[name] = [a["label"] == row["label"] for a, row in zip(answers, test, strict=True)]
        assert candidate.test is not None
        assert candidate.test.value == pytest.approx(sum(right[name]) / len(test), abs=1e-12)
    for name in ("today", "rule"):
        one = by_id[name]
        assert (one.family, one.status, one.parts, one.trials, one.dev) == ("outside", "ok", (), 0, None)
        assert one.cost.price is None
        assert not one.is_floor
    pairs = {frozenset((pair.a, pair.b)): pair for pair in run.comparison.pairs}
    assert len(pairs) == 6
    wins = sum(a and not b for a, b in zip(right["today"], right["rule"], strict=True))
    losses = sum(b and not a for a, b in zip(right["today"], right["rule"], strict=True))
    pair = pairs[frozenset(("today", "rule"))]
    assert pair.p_value == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, abs=1e-12)
    assert pair.methods is None


def test_is_recommended_and_has_nothing_to_load(run: tw.Run) -> None:
    assert run.decision.recommended == "today"
    assert "equal" not in run.decision.reason
    assert "nan" not in run.decision.reason
    assert "inf" not in run.decision.reason.split()
    assert set(run) == {"majority", "linear-probe"}
    with pytest.raises(RunError, match="'today' answered outside of this run: there is no adapter"):
        run["today"]
    assert (run.folder / "report.html").stat().st_size > 0


def test_check_takes_it(run: tw.Run, call: Call) -> None:
    assert call("check", run.folder, "--candidate", "today", "--min", "accuracy=0.3").code == 0


def test_answers_that_changed_are_not_resumed(run: tw.Run, data: Path, call: Call) -> None:
    file = run.folder.parent / "today.csv"
    before = file.read_bytes()
    try:
        whole(data, file, 3)
        done = call("compare", "--resume", "--out", run.folder)
        assert done.code == 2
        assert "the answers of today, rule changed since the run began" in done.err
    finally:
        file.write_bytes(before)
    again = call("compare", "--resume", "--out", run.folder)
    assert again.code == 0, again
    assert "Predict:" not in again.out
    assert "checks failed" in again.out
    assert "few-test-rows: " in again.out
    assert "Predict:" not in again.err


def test_faults_of_settings_and_of_files_before_any_training(data: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ["--predictions", "lora=x.csv", "--predictions", "plain", "--metric", "acuracy"]
    lines = refused(call, "compare", data, *given, "--out", out, where=tmp_path).splitlines()
    assert len(lines) == 3
    bad = write_table(tmp_path / "bad.csv", ("id", "predicted"), [("topics:1", "planes")])
    said = refused(call, "compare", data, "--predictions", f"bad={bad}", "--out", out, where=tmp_path)
    assert "test rows have no answer" in said
