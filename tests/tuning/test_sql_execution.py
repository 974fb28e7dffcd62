"""A run judged by what its queries find: the figure, what is said of bad queries, and what the gate asks for."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import tunewright as tw
from tests.cli.test_bad_input import refused
from tests.commands import Call, write_table
from tunewright.tuning.progress import Silent

TOWNS = [f"{first}{last}" for first in ("north", "south", "east", "west", "new") for last in ("ville", "ham", "wick")]


@pytest.fixture(scope="module")
def run(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tw.Run:
    """The floors, and an outside candidate that answers with one right query, one that deletes and many wrong ones."""
    folder = tmp_path_factory.mktemp("towns")
    with sqlite3.connect(folder / "towns.sqlite") as made:
        made.execute("CREATE TABLE town (name TEXT, people INTEGER)")
        made.executemany("INSERT INTO town VALUES (?, ?)", [(town, 10 * k) for k, town in enumerate(TOWNS)])
    made.close()
    asked = [(f"how many live in {town}", f"SELECT people FROM town WHERE name = '{town}'") for town in TOWNS]
    asked += [(f"which town has more than {k} people", f"SELECT name FROM town WHERE people > {k}") for k in range(15)]
    data = write_table(folder / "asked.csv", ("question", "sql"), asked)
    given = [(question, "DELETE FROM town" if len(question) % 2 else f"{query} --") for question, query in asked]
    answers = write_table(folder / "today.csv", ("question", "predicted"), given)
    return tw.compare(
        str(data), task="generate", input="question", target="sql", model=str(tiny_folder("bert")), seeds=1, folds=1,
        methods="copy-input,nearest-target", predictions={"today": answers}, metric="sql-execution",
        database=folder / "towns.sqlite", out=str(folder / "run"), listener=Silent(),
    )  # fmt: skip


def test_figures_are_what_sqlite_finds(run: tw.Run) -> None:
    rows = [json.loads(line) for line in (run.folder / "test.jsonl").read_text().splitlines()]
    with sqlite3.connect(run.folder.parent / "towns.sqlite") as towns:
        right = {row["id"]: sorted(towns.execute(row["target"]).fetchall()) for row in rows}
        lines = (run.folder / "predictions" / "nearest-target" / "seed-0.jsonl").read_text().splitlines()
        found = {row["id"]: sorted(towns.execute(row["text"]).fetchall()) for row in map(json.loads, lines)}
    towns.close()
    by_id = {candidate.id: candidate for candidate in run.comparison.candidates}
    nearest, today = by_id["nearest-target"].test, by_id["today"].test
    assert nearest is not None
    assert nearest.value == pytest.approx(sum(found[row] == right[row] for row in right) / len(right), abs=1e-9)
    deleting = sum(len(row["text"]) % 2 for row in rows)
    assert today is not None
    assert today.value == pytest.approx(1 - deleting / len(rows), abs=1e-9)
    assert 0 < deleting < len(rows)
    said = f"{deleting} of {len(rows)} queries did more than read and were refused; they count as wrong"
    assert by_id["today"].remarks == (said,)
    assert said in run.report.read_text(encoding="utf-8")
    assert by_id["copy-input"].remarks == (f"{len(rows)} of {len(rows)} queries could not be run; they count as wrong",)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(monkeypatch=monkeypatch, capsys=capsys)


def test_the_gate_asks_for_the_database(run: tw.Run, call: Call) -> None:
    database = run.folder.parent / "towns.sqlite"
    given = ("check", run.folder, "--candidate", "today", "--min", "sql-execution=0.01")
    assert call(*given, "--database", database).out.startswith("passed: today: sql-execution")
    assert "--database" in refused(call, *given, where=run.folder)
    assert "not taken from a folder" in refused(
        call, "check", run.folder, "--not-worse-than", run.folder, "--candidate", "today", where=run.folder
    )


def test_a_setting_missing_is_one_line(run: tw.Run, call: Call) -> None:
    data = run.folder.parent / "asked.csv"
    given = ("compare", data, "--task", "generate", "--metric", "sql-execution")
    said = refused(call, *given, where=run.folder.parent)
    assert "needs `database`" in said
    assert len(said.splitlines()) == 1
    without = ("compare", data, "--task", "generate", "--database", run.folder.parent / "towns.sqlite")
    assert "`database` has no effect with metric 'rouge-l'" in refused(call, *without, where=run.folder.parent)
