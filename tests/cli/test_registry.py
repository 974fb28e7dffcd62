"""`tunewright registry`, as a user calls it."""

import csv
from pathlib import Path

import pytest

from tests.commands import Call
from tunewright.files import read_json
from tunewright.releases.entries import Feedback, ShadowPair
from tunewright.releases.state import State


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_version_s_life(call: Call, finished_run: Path, tmp_path: Path) -> None:
    who = read_json(finished_run / "comparison.json")["decision"]["recommended"]
    other = next(path for path in sorted((finished_run / "adapters").iterdir()) if path.name not in (who, "majority"))
    assert call("registry", "add", "topics", finished_run).out.startswith("added: topics@1 (accuracy ")
    assert (tmp_path / "tunewright.db").exists()
    assert call("registry", "add", "topics", next(other.glob("seed-*"))).code == 0
    assert call("registry", "promote", "topics", "1").out.startswith("promoted: topics@1 is live: the first")
    forced = call("registry", "promote", "topics", "2", "--force")
    assert forced.out.startswith(("forced: topics@2 is live in place of topics@1", "promoted: topics@2"))
    listed = call("registry", "list")
    assert listed.out.splitlines()[0].split() == ["task", "live", "test", "shadow"]
    assert "topics  2 of 2" in listed.out
    detail = call("registry", "list", "topics")
    assert str(finished_run) in detail.out
    assert "promote topics@1: the first live version" in detail.out
    assert call("registry", "rollback", "topics", "--reason", "complaints").out.startswith("rolled back: topics@1")
    assert "rollback topics@1: complaints" in call("registry", "list", "topics").out
    assert call("registry", "remove", "topics", "2").out == "removed: topics@2\n"
    assert call("registry", "remove", "topics").out == "removed: topics\n"
    assert "topics" not in call("registry", "list").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "no registry in tunewright.db"),
        (("promote", "topics", "1", "--state", "nowhere/x.db"), "no registry in nowhere/x.db"),
        (("add", "topics", "."), "is no adapter folder"),
        (("add", "a/b", "RUN"), "is no name of a task"),
        (("add", "topics", "RUN", "--state", "mysql://h/n"), "Allowed: a file, sqlite, postgresql"),
    ],
)
def test_mistakes_are_one_line(call: Call, finished_run: Path, arguments: tuple[str, ...], said: str) -> None:
    done = call("registry", *(str(finished_run) if word == "RUN" else word for word in arguments))
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_shadow_and_feedback(call: Call, finished_run: Path, tmp_path: Path) -> None:
    call("registry", "add", "topics", finished_run)
    call("registry", "add", "topics", finished_run)
    assert "has no other live version" in call("registry", "shadow", "topics", "2").err
    call("registry", "promote", "topics", "1")
    assert "on 50%" in call("registry", "shadow", "topics", "2", "--share", "0.5").out
    assert "2 on 50%" in call("registry", "list").out
    state = State.open("tunewright.db")
    for k in range(40):
        name = f"request {k}"
        pair = ShadowPair(request_id=name, task="topics", version=1, shadow=2, answer="a", shadow_answer="b")
        state.add_shadow_pairs([pair])
        state.add_feedback(
            Feedback(
                request_id=name, task="topics", version=1, verdict="corrected", answer="a", corrected="b", text=name
            )
        )
    state.close()
    found = call("registry", "shadow", "topics").out.splitlines()
    assert found[0].startswith("same answer: 0.0% (95%, valid at every look: 0.0 to")
    assert found[1].startswith("right more often than live: 100.0%")
    assert call("registry", "shadow", "topics", "--off").out == "shadow of topics ended\n"
    assert "has no version in shadow" in call("registry", "shadow", "topics").err
    said = call("registry", "feedback", "topics", "--out", "next.csv")
    assert said.out == "next.csv: 40 rows (0 confirmed, 40 corrected); left out: none\n"
    with (tmp_path / "next.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[:2] == [{"text": "request 0", "label": "b"}, {"text": "request 1", "label": "b"}]
    assert "next.csv exists" in call("registry", "feedback", "topics", "--out", "next.csv").err
    assert "unknown ending '.txt'" in call("registry", "feedback", "topics", "--out", "next.txt").err


def test_no_feedback_writes_no_file(call: Call, finished_run: Path, tmp_path: Path) -> None:
    call("registry", "add", "topics", finished_run)
    done = call("registry", "feedback", "topics", "--out", "next.csv")
    assert done.code == 2
    assert "nothing to write: 0 rows" in done.err
    assert not (tmp_path / "next.csv").exists()
