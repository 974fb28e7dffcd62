"""A run folder belongs to one session at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment
from tunewright.errors import RunError
from tunewright.runs.folder import open_run

HOLD = """
import sys
from pathlib import Path
from tunewright.runs.folder import open_run
with open_run(Path(sys.argv[1]), resume=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    """Another session, at work until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_session_is_refused_and_named_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with holder(path) as first:
        with pytest.raises(RunError) as refused, open_run(path, resume=True):
            raise AssertionError
        assert str(refused.value) == (
            f"{path} is in use: process {first.pid} is at work on it. Wait for its end, or choose another --out."
        )
        first.communicate("")
    assert list(path.iterdir()) == []
    with open_run(path, resume=True) as begun:
        assert not begun
        with pytest.raises(RunError, match="is in use"), open_run(path, resume=True):
            raise AssertionError


def test_a_killed_session_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with holder(path) as first:
        first.kill()
    assert [file.name for file in path.iterdir()] == ["session.lock"]
    (path / ".data.json.7.tmp").write_text("torn", encoding="utf-8")
    with open_run(path, resume=True) as begun:
        assert not begun
        assert [file.name for file in path.iterdir()] == ["session.lock"]
    assert list(path.iterdir()) == []
