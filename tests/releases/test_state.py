"""What is remembered, on SQLite and on PostgreSQL."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.commands import environment
from tunewright.errors import AdapterError, RegistryError, StateError
from tunewright.releases.entries import Feedback, ShadowPair
from tunewright.releases.state import State

Make = Callable[[str], Path]


def add(state: State, adapter: Make, *names: str, task: str = "tickets") -> None:
    for name in names:
        state.add(task, adapter(name), who="ada")


def test_versions_count_up_and_none_is_live(state: State, adapter: Make) -> None:
    add(state, adapter, "a", "b")
    assert [version.name for version in state.versions("tickets")] == ["tickets@1", "tickets@2"]
    assert state.live("tickets") is None
    first, second = state.versions("tickets")
    assert first.folder == str(adapter("a").resolve())
    assert first.adapter_sha256 != second.adapter_sha256
    assert (first.base_name, first.base_sha256, first.added_by, first.measured) == ("tiny", "b" * 64, "ada", None)
    (entry,) = state.tasks()
    assert (entry.name, entry.live, entry.shadow, entry.num_versions) == ("tickets", None, None, 2)


def test_promote_and_roll_back(state: State, adapter: Make) -> None:
    add(state, adapter, "a", "b", "c")
    state.promote("tickets", 1, reason="first", expected=None, who="ada")
    state.promote("tickets", 3, reason="better", expected=1, who="bob")
    state.promote("tickets", 2, reason="in a hurry", expected=3, forced=True, who="eve")
    assert state.rollback("tickets", who="ada").version == 3
    assert state.rollback("tickets", who="ada").version == 1
    with pytest.raises(RegistryError, match="no earlier live version"):
        state.rollback("tickets")
    live = state.live("tickets")
    assert live is not None
    assert live.version == 1
    story = [(p.action, p.previous, p.version, p.who, p.forced) for p in state.promotions("tickets")]
    assert story == [
        ("promote", None, 1, "ada", False),
        ("promote", 1, 3, "bob", False),
        ("promote", 3, 2, "eve", True),
        ("rollback", 2, 3, "ada", False),
        ("rollback", 3, 1, "ada", False),
    ]
    assert [p.reason for p in state.promotions("tickets")][:3] == ["first", "better", "in a hurry"]


def test_a_version_judged_against_another_is_not_promoted(state: State, adapter: Make) -> None:
    add(state, adapter, "a", "b", "c")
    state.promote("tickets", 1, reason="first", expected=None)
    state.promote("tickets", 2, reason="better", expected=1)
    with pytest.raises(RegistryError, match="tickets@2 became live meanwhile"):
        state.promote("tickets", 3, reason="better than 1", expected=1)
    with pytest.raises(RegistryError, match="live already"):
        state.promote("tickets", 2, reason="again", expected=2)


def test_removed_versions_are_gone_and_their_numbers_are_not_given_again(state: State, adapter: Make) -> None:
    add(state, adapter, "a", "b", "c")
    state.promote("tickets", 1, reason="first", expected=None)
    state.promote("tickets", 2, reason="second", expected=1)
    state.promote("tickets", 3, reason="third", expected=2)
    with pytest.raises(RegistryError, match="is live"):
        state.remove("tickets", 3)
    state.remove("tickets", 2)
    with pytest.raises(RegistryError, match=r"unknown version of tickets '2'\. Allowed: 1, 3"):
        state.version("tickets", 2)
    assert state.rollback("tickets").version == 1
    state.remove("tickets")
    assert state.tasks() == ()
    with pytest.raises(RegistryError, match="unknown task 'tickets'"):
        state.live("tickets")
    assert state.add("tickets", adapter("d")).version == 4
    assert state.live("tickets") is None
    assert len(state.promotions("tickets")) == 4


def test_the_counter_tells_of_changes_but_not_of_feedback(state: State, adapter: Make) -> None:
    seen = [state.change_counter()]

    def changed() -> bool:
        seen.append(state.change_counter())
        return seen[-1] > seen[-2]

    add(state, adapter, "a", "b")
    assert changed()
    state.promote("tickets", 1, reason="", expected=None)
    assert changed()
    state.set_shadow("tickets", 2, 0.1)
    assert changed()
    state.add_feedback(Feedback(request_id="r", task="tickets", version=1, verdict="right"))
    assert not changed()
    state.remove("tickets", 2)
    assert changed()
    with pytest.raises(RegistryError):
        state.remove("tickets", 7)
    assert not changed()


def test_feedback_comes_back_as_it_was_given(state: State, adapter: Make) -> None:
    add(state, adapter, "a")
    strange = "naïve \u2028 ' \" ; DROP TABLE feedback; -- \U0001f600"
    given = [
        Feedback(request_id="1", task="tickets", version=1, verdict="right", answer="yes"),
        Feedback(request_id="2", task="tickets", version=1, verdict="wrong", comment=strange),
        Feedback(request_id="3", task="tickets", version=1, verdict="corrected", corrected="no", text=strange),
    ]
    stored = [state.add_feedback(each) for each in given]
    assert state.feedback("tickets") == tuple(stored)
    assert state.feedback("tickets", limit=1) == (stored[2],)
    assert [(f.request_id, f.verdict, f.answer, f.corrected, f.comment, f.text) for f in stored] == [
        (f.request_id, f.verdict, f.answer, f.corrected, f.comment, f.text) for f in given
    ]
    assert all(f.at for f in stored)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"verdict": "rigth"}, "unknown verdict 'rigth'. Did you mean 'right'"),
        ({"verdict": "corrected"}, "`corrected` is the right answer"),
        ({"corrected": "no"}, "`corrected` is the right answer"),
        ({"version": 2}, "tickets@2 never answered"),
        ({"task": "other"}, "other@1 never answered"),
    ],
)
def test_feedback_that_is_none(changed: dict[str, object], said: str, tmp_path: Path, adapter: Make) -> None:
    state = State.open(str(tmp_path / "s.db"))
    add(state, adapter, "a")
    given: dict[str, object] = {"request_id": "r", "task": "tickets", "version": 1, "verdict": "right"} | changed
    with pytest.raises(RegistryError, match=said):
        state.add_feedback(Feedback(**given))  # type: ignore[arg-type]
    assert state.feedback("tickets") == ()


def test_shadow(state: State, adapter: Make) -> None:
    add(state, adapter, "a", "b")
    with pytest.raises(RegistryError, match="no other live version"):
        state.set_shadow("tickets", 2, 0.5)
    state.promote("tickets", 1, reason="", expected=None)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(RegistryError, match="`share` must be above 0"):
            state.set_shadow("tickets", 2, share)
    state.set_shadow("tickets", 2, 0.25)
    (entry,) = state.tasks()
    assert entry.shadow is not None
    assert (entry.shadow.version, entry.shadow_share) == (2, 0.25)
    pairs = [
        ShadowPair(request_id=str(k), task="tickets", version=1, shadow=2, answer="yes", shadow_answer="no")
        for k in range(3)
    ]
    state.add_shadow_pairs(pairs)
    assert [pair.request_id for pair in state.shadow_pairs("tickets", 1, 2)] == ["0", "1", "2"]
    assert state.shadow_pairs("tickets", 2, 1) == ()
    state.promote("tickets", 2, reason="", expected=1)
    (entry,) = state.tasks()
    assert entry.shadow is None


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", "a@1", ".hidden", "x" * 65, "a\n"])
def test_names_that_are_none(name: str, tmp_path: Path, adapter: Make) -> None:
    state = State.open(str(tmp_path / "s.db"))
    with pytest.raises(RegistryError, match="is no name of a task"):
        state.add(name, adapter("a"))


def test_a_broken_adapter_is_not_registered(tmp_path: Path, adapter: Make) -> None:
    state = State.open(str(tmp_path / "s.db"))
    path = adapter("a")
    tensors = path / "adapter.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(bytes(content))
    with pytest.raises(AdapterError, match="is not what was saved"):
        state.add("tickets", path)
    assert state.tasks() == ()


def test_numbers_are_unique_when_many_add_at_once(state: State, adapter: Make) -> None:
    paths = [adapter(f"n{k}") for k in range(8)]
    threads = [threading.Thread(target=state.add, args=("tickets", path)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = state.versions("tickets")
    assert [version.version for version in found] == list(range(1, 9))
    assert {version.folder for version in found} == {str(path.resolve()) for path in paths}


# --- faults -----------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from tunewright.releases.entries import Feedback
from tunewright.releases.state import State

state, k = State.open(sys.argv[1]), int(sys.argv[2])
while True:
    state.add_feedback(Feedback(request_id=str(k), task="tickets", version=1, verdict="right"))
    print(k, flush=True)
    k += 1
"""


def test_nothing_acknowledged_is_lost_by_a_kill(where: str, adapter: Make) -> None:
    state = State.open(where)
    add(state, adapter, "a")
    acknowledged: list[int] = []
    for delay_s in (0.0, 0.03, 0.05, 0.07, 0.11, 0.13):
        command = [sys.executable, "-c", WRITER, where, str(1000 * len(acknowledged))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        assert process.stdout is not None
        acknowledged.append(int(process.stdout.readline()))
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged += [int(line) for line in rest.splitlines()]
    kept = [int(f.request_id) for f in state.feedback("tickets")]
    assert len(set(kept)) == len(kept)
    assert set(acknowledged) <= set(kept)
    assert len(set(kept) - set(acknowledged)) <= 6  # one may be on disk whose acknowledgement the kill cut off
    state.close()


def test_every_commit_is_flushed(tmp_path: Path) -> None:
    state = State.open(str(tmp_path / "s.db"))
    with state._database.reading() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 2]  # 2 is FULL


def test_a_locked_database(tmp_path: Path, adapter: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.releases.database._PRAGMAS", ("journal_mode=WAL", "busy_timeout=50"))
    path = tmp_path / "s.db"
    state = State.open(str(path))
    add(state, adapter, "a")
    given = Feedback(request_id="r", task="tickets", version=1, verdict="right")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match=r"s\.db: database is locked\. Try again\."):
        state.add_feedback(given)
    assert [task.name for task in state.tasks()] == ["tickets"]  # readers go on
    other.execute("ROLLBACK")
    other.close()
    state.add_feedback(given)
    assert len(state.feedback("tickets")) == 1


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_database_that_is_gone_acknowledges_nothing(how: str, tmp_path: Path, adapter: Make) -> None:
    path = tmp_path / "s.db"
    state = State.open(str(path))
    add(state, adapter, "a")
    path.rename(tmp_path / "elsewhere.db")
    if how == "replaced":
        path.touch()
    with pytest.raises(StateError, match=r"s\.db is gone: deleted or replaced"):
        state.add_feedback(Feedback(request_id="r", task="tickets", version=1, verdict="right"))
    with pytest.raises(StateError, match="is gone"):
        state.tasks()


def test_a_disk_that_is_full(tmp_path: Path, adapter: Make) -> None:
    state = State.open(str(tmp_path / "s.db"))
    add(state, adapter, "a")
    with state._database.reading() as connection:  # SQLite's own limit gives the error of a full disk
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StateError, match=r"database or disk is full\. Check --state and its disk\."):
        state.add_feedback(Feedback(request_id="r", task="tickets", version=1, verdict="right", comment="x" * 100_000))
    assert state.feedback("tickets") == ()


def test_a_server_that_is_gone(postgresql: Callable[[], str]) -> None:
    url = "postgresql://ada:secret-word@127.0.0.1:1/registry"
    assert postgresql()
    with pytest.raises(StateError, match="cannot use the state postgresql") as caught:
        State.open(url)
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("text.db", "file is not a database"),
        ("missing/s.db", "is no folder"),
        ("mysql://host/name", "Allowed: a file, sqlite, postgresql"),
        ("nonsense://", "Allowed: a file"),
        ("sqlite://", "must be a file"),
        (".", "unable to open database file"),
    ],
)
def test_what_is_no_database(where: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.db").write_text("not a database at all, but long enough for a header of one\n" * 4)
    with pytest.raises(StateError, match=said):
        State.open(where)


def test_a_newer_schema(where: str) -> None:
    state = State.open(where)
    with state._database.writing() as connection:
        connection.execute(text("UPDATE changes SET schema_version = 99"))
    state.close()
    with pytest.raises(StateError, match=r"has schema 99\. Allowed: up to 1\. Update tunewright\."):
        State.open(where)


def test_a_failed_transaction_leaves_nothing(state: State, adapter: Make) -> None:
    add(state, adapter, "a")
    before = state.change_counter()
    with pytest.raises(RegistryError):
        state.set_shadow("tickets", 9, 0.5)
    assert state.change_counter() == before


def test_two_processes_open_a_new_database_at_once(where: str) -> None:
    code = "import sys; from tunewright.releases.state import State; State.open(sys.argv[1])"
    started = [
        subprocess.Popen([sys.executable, "-c", code, where], env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"})
        for _ in range(3)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
