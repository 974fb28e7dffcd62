"""What is printed at the end of a comparison, for each kind of decision."""

from pathlib import Path

import pytest

from tests.report.conftest import LABELS, change, enrich, result, write_run
from tunewright.api import Run
from tunewright.cli.summary import print_summary


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    methods = ("majority", "few-shot", "lora")
    return enrich(write_run(tmp_path / "run", labels=LABELS, n_test=120, methods=methods, hostile=False))


def printed(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    print_summary(Run(run), run.parent)
    return capsys.readouterr().out


def test_the_table_reads_as_the_page_does(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(run, capsys)
    row = next(line for line in out.splitlines() if line.strip().startswith("lora "))
    lora = next(each for each in result(run)["candidates"] if each["id"] == "lora")
    for shown in (f"{lora['test']['value']:.3f}", "5.53 min", "1.2 MB", "0.000171"):
        assert shown in row
    assert "Predict: tunewright predict run/adapters/lora/seed-" in out
    assert "  test-too-small: 240 test rows cannot separate the top two" in out
    assert "duplicates-across-splits" not in out


def test_without_a_recommended_candidate_the_nearest_misses_are_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    misses = ["lora: bytes 1.2 MB, at most 1 MB"]
    change(run, decision=result(run)["decision"] | {"recommended": None, "nearest_misses": misses})
    out = printed(run, capsys)
    assert "Nearest miss: lora: bytes 1.2 MB, at most 1 MB" in out
    assert "Predict:" not in out


def test_folds_say_what_they_do_not_measure(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "Probabilities: calibrated, but folds do not measure how far they are off; --folds 1 does."
    assert said in printed(run, capsys)
    change(run, protocol=result(run)["protocol"] | {"kind": "holdout"})
    assert said not in printed(run, capsys)


def test_an_outside_system_has_no_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, decision=result(run)["decision"] | {"recommended": "today"})
    assert "Predict:" not in printed(run, capsys)
