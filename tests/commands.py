"""The command as a user calls it, and made-up tables to call it on."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunewright.cli.main import main

_HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""Ctrl-C, even where the tests run in a background that does not."""

COMMAND = (sys.executable, "-c", f"{_HEARS}; from tunewright.cli.main import main; main()")
"""The console script in a process of its own."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a call ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """The command within this process: importing torch again and again would take most of the time."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    columns: int = 400

    def __call__(self, *arguments: str | Path) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["tunewright", *map(str, arguments)])
        self.monkeypatch.setenv("COLUMNS", str(self.columns))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self.capsys.readouterr()
        code = ended.value.code
        return Done(code=code if isinstance(code, int) else 0, out=captured.out, err=captured.err)


def environment() -> dict[str, str]:
    """For a process that imports what this one does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUNBUFFERED": "1"}


def spawn(*arguments: str | Path) -> "subprocess.Popen[str]":
    """The command in a process of its own, output and errors in one pipe."""
    command = [*COMMAND, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment())


def finish(process: "subprocess.Popen[str]", timeout_s: float = 300) -> Done:
    """Waits for the end."""
    out, _ = process.communicate(timeout=timeout_s)
    return Done(code=process.returncode, out=out, err=out)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """A csv file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def write_topics(path: Path, count: int = 60, seed: int = 0) -> Path:
    """Sentences about three topics, as a csv file with the columns `text` and `label`."""
    from tests import tiny

    return write_table(path, ("text", "label"), ((e.text, str(e.label)) for e in tiny.examples(count, seed)))


def write_yaml(path: Path, settings: Any) -> Path:
    """Settings; JSON is YAML."""
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def files_in(folder: Path) -> set[str]:
    """All files and folders below, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


MEASURED = ("tune_s", "train_s", "peak_memory_bytes", "latency_ms", "latency", "predict_s")
"""Of a candidate's cost; its modelled price must not depend on the machine."""


def comparison_of(run: Path) -> dict[str, Any]:
    """`comparison.json` without what is measured, or says when and how it was called."""
    found: dict[str, Any] = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    del found["provenance"]["started"], found["provenance"]["command"], found["test_reads"]
    found["checks"] = [check for check in found["checks"] if check["code"] != "test-reused"]
    del found["ledger"]
    for family in found["effort"]:
        del family["seconds"], family["price"]
    for candidate in found["candidates"]:
        for name in MEASURED:
            del candidate["cost"][name]
    return found


NAMES = (
    "Alimentum",
    "Blue Spice",
    "Cocum",
    "The Mill",
    "Zizzi",
    "Wildwood",
    "The Vaults",
    "Strada",
    "Loch Fyne",
    "Aromi",
)
AREAS = {"riverside": "by the river", "city": "in the city centre", "park": "next to the park"}


def write_meanings(path: Path, per_input: int = 2) -> Path:
    """Made-up data to text: 30 inputs, each with so many different references."""
    rows = []
    for name in NAMES:
        for area, words in AREAS.items():
            said = [f"{name} is a pub {words}.", f"There is a pub {words} called {name}.", f"Visit {name} {words}."]
            rows += [(f"name[{name}], area[{area}]", text) for text in said[:per_input]]
    return write_table(path, ("mr", "ref"), rows)
