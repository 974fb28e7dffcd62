"""The command itself: its version, its second way in, and the table of methods."""

import subprocess
import sys
from importlib import metadata

import pytest

from tests.commands import Call, environment
from tunewright.methods.table import METHODS
from tunewright.types import FAMILIES


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "tunewright", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == f"tunewright {metadata.version('tunewright')}\n"


def test_the_help_of_the_command_stays(call: Call) -> None:
    done = call("--help")
    assert done.code == 0
    assert "Should I write a better prompt" in done.out
    assert "--version" in done.out


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_names_of_methods_and_families_are_never_cut(call: Call, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    done = Call(monkeypatch=monkeypatch, capsys=call.capsys, columns=columns)("methods")
    assert done.code == 0
    cells = {cell.strip() for line in done.out.splitlines() for cell in line.split("│")}
    assert cells >= {*METHODS, *FAMILIES}
    assert "…" not in done.out
