"""Reports and faults in the settings need no model: they are told at once, and where torch is not installed."""

import json
import subprocess
import sys
from pathlib import Path

from tests.commands import environment

HEAVY = ("torch", "transformers", "optuna", "peft", "datasets")

RUN = f"""
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))), file=sys.stderr))
from tunewright.cli.main import main
main()
"""


def imported(*arguments: str, code: int = 0) -> set[str]:
    """Heavy packages in `sys.modules` at the end of the command."""
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == code, done
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_report_is_made_without_torch_and_always_the_same(finished_run: Path) -> None:
    page = finished_run / "report.html"
    before = page.read_bytes()
    assert len(before) > 10_000
    page.unlink()
    assert imported("report", str(finished_run)) == set()
    assert page.read_bytes() == before


def test_a_run_is_checked_without_torch(finished_run: Path) -> None:
    assert imported("check", str(finished_run), "--min", "accuracy=0") == set()


def test_settings_are_checked_before_torch_is_loaded(tmp_path: Path) -> None:
    """A typo is told at once."""
    assert imported("compare", str(tmp_path / "d.csv"), "--trials", "0", code=2) == set()


def test_the_version_is_told_without_torch() -> None:
    assert imported("--version") == set()
