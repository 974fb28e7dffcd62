"""A registry's server: promotions, shadow and feedback without a restart; its end, gentle and not."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests import tiny
from tests.commands import COMMAND, environment
from tests.serve.live import ABOUT, rename_base, serving, wait_until_ready
from tunewright.adapters import folder
from tunewright.adapters.parts import Candidates, Decoding, Part, Template
from tunewright.releases.state import State
from tunewright.serve.ask import Ask, Label, Usage
from tunewright.serve.registered import Registered
from tunewright.serve.silent import Silent
from tunewright.serve.tasks import Served
from tunewright.serve.waiting import Waiting
from tunewright.types import Example

LABELS = ("food", "travel", "music")


@pytest.fixture
def versions(tiny_folder: Callable[[str], Path], tmp_path: Path) -> list[Path]:
    """Three adapters, each of which always answers with the label of its number."""
    base = tiny.encoder(tiny_folder("bert"))
    paths = []
    for k in range(3):
        bias_C = tiny.normal(0, 3) * 0
        bias_C[k] = 100.0
        head = tiny.head(base, 1)
        adapter = tiny.adapter(base, head=type(head)(weight_CD=head.weight_CD * 0, bias_C=bias_C))
        paths.append(tmp_path / f"version-{k + 1}")
        folder.save(adapter.with_about({**ABOUT, "number": k}), paths[-1])
    return paths


@pytest.fixture
def state(versions: list[Path], tmp_path: Path) -> Iterator[State]:
    opened = State.open(str(tmp_path / "state.db"))
    for path in versions:
        opened.add("topics", path)
    opened.promote("topics", 1, reason="", expected=None)
    yield opened
    opened.close()


def ask(client: httpx.Client, text: str = "soup") -> tuple[int, str, str]:
    """Version, label, id."""
    body = client.post("/v1/tasks/topics/predict", json={"text": text}).json()
    (answer,) = body["answers"]
    return body["version"], answer["label"], answer["id"]


def model_names(client: httpx.Client) -> list[str]:
    return [model["id"] for model in client.get("/v1/models").json()["data"]]


def until_version(client: httpx.Client, wanted: int) -> None:
    for _ in range(100):
        if ask(client)[0] == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"version {wanted} never answered")


def test_promotion_and_rollback_under_load(state: State) -> None:
    """Every answer is that of the version it names."""
    with serving(Registered(state), state=state) as live, live.client() as client:
        seen: list[tuple[int, str, str]] = []
        stop = threading.Event()

        def load() -> None:
            with live.client() as mine:
                while not stop.is_set():
                    seen.append(ask(mine))

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(seen) < 10:
            time.sleep(0.01)
        state.promote("topics", 2, reason="", expected=1)
        until_version(client, 2)
        state.promote("topics", 3, reason="", expected=2)
        until_version(client, 3)
        state.rollback("topics")
        until_version(client, 2)
        stop.set()
        for thread in threads:
            thread.join()
        assert {version for version, _, _ in seen} == {1, 2, 3}
        assert all(label == LABELS[version - 1] for version, label, _ in seen)
        assert all(re.fullmatch(rf"req_[0-9a-f]{{40}}-{version}-topics", row_id) for version, _, row_id in seen)
        state.add("later", Path(state.version("topics", 3).folder))
        state.promote("later", 1, reason="", expected=None)
        state.remove("topics")
        for _ in range(100):
            if model_names(client) == ["later"]:
                break
            time.sleep(0.05)
        assert model_names(client) == ["later"]
        assert client.post("/v1/tasks/later/predict", json={"text": "soup"}).json()["version"] == 1
        assert client.post("/v1/tasks/topics/predict", json={"text": "soup"}).status_code == 404


def test_shadow_answers_are_stored_beside_the_live_ones(state: State) -> None:
    state.set_shadow("topics", 2, 1.0)
    with serving(Registered(state), state=state) as live, live.client() as client:
        ids = [ask(client)[2] for _ in range(5)]
        rows = [{"text": "soup"}, {"text": "train"}]
        many = client.post("/v1/tasks/topics/predict", json={"rows": rows}).json()["answers"]
        ids += [answer["id"] for answer in many]
    pairs = state.shadow_pairs("topics", 1, 2)
    assert sorted(pair.request_id for pair in pairs) == sorted(ids)
    assert {(pair.answer, pair.shadow_answer) for pair in pairs} == {("food", "travel")}


def test_what_is_under_way_in_shadow_is_given_up_at_the_end(state: State) -> None:
    """Where it does not end in time; its rows are forgotten."""
    put, gone = Waiting(8), list[Ask]()
    silent = Silent(put.put_silent, gone.extend, state, lambda _: None)
    served = Served(task="topics", version=2, folder="/f")
    usage = Usage(text_tokens=1, prefix_tokens=0, num_cut=0)
    label = Label(label="food", labels=LABELS, probabilities=(1.0, 0.0, 0.0), usage=usage)

    async def life() -> None:
        silent.begin(served, replace(served, version=1), ["a"], [Example(id="0", text="soup")], [label])
        await asyncio.wait_for(silent.finish(0.01), 10)

    asyncio.run(life())
    assert gone == put.drop_all()
    assert len(gone) == 1


def test_feedback(state: State) -> None:
    with serving(Registered(state), state=state) as live, live.client() as client:
        _, _, row_id = ask(client)
        reply = client.post("/v1/feedback", json={"request_id": row_id, "verdict": "wrong", "comment": "no"})
        assert reply.status_code == 200, reply.text
        assert (reply.json()["task"], reply.json()["version"]) == ("topics", 1)
        many = client.post("/v1/tasks/topics/predict", json={"rows": [{"text": "soup"}] * 3}).json()["answers"]
        said = {"request_id": many[2]["id"], "verdict": "corrected", "corrected": "music", "text": "a song"}
        assert client.post("/v1/feedback", json=said).status_code == 200
        for wrong in (
            {"request_id": "req_nothing", "verdict": "right"},
            {"request_id": f"req_{'0' * 40}-1-topics", "verdict": "right", "text": "made up", "answer": "food"},
            {"request_id": row_id.replace("topics", "nobody"), "verdict": "right"},
            {"request_id": f"{row_id}/1", "verdict": "right"},
        ):
            reply = client.post("/v1/feedback", json=wrong)
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_request")
        for wrong in (
            {"request_id": row_id, "verdict": "corrected"},
            {"request_id": row_id, "verdict": "right", "corrected": "music"},
            {"request_id": row_id, "verdict": "maybe"},
        ):
            assert client.post("/v1/feedback", json=wrong).status_code == 400
    first, second = state.feedback("topics")
    assert (first.request_id, first.verdict, first.answer, first.comment, first.text) == (
        row_id,
        "wrong",
        "food",
        "no",
        None,
    )
    assert (second.answer, second.corrected, second.text) == ("food", "music", "a song")


def test_a_correction_is_a_label_of_the_version_that_answered(state: State, versions: list[Path]) -> None:
    """Of that one, not of the live one; where nobody knows its labels any more, any."""
    other = replace(folder.load(versions[1]), labels=("soups", "trains", "songs"))
    folder.save(other, versions[0].parent / "other")
    state.add("topics", versions[0].parent / "other")
    with serving(Registered(state), state=state) as live, live.client() as client:

        def correct(row_id: str, label: str) -> httpx.Response:
            said = {"request_id": row_id, "verdict": "corrected", "corrected": label, "text": "a song"}
            return client.post("/v1/feedback", json=said)

        _, _, row_id = ask(client)
        reply = correct(row_id, "musik")
        assert (reply.status_code, reply.json()["error"]) == (
            400,
            {
                "message": "`corrected`: unknown label 'musik'. Did you mean 'music'? Allowed: food, travel, music.",
                "type": "invalid_request_error",
                "param": "corrected",
                "code": "unknown_label",
            },
        )
        assert len(correct(row_id, "x" * 10_000).text) < 400
        asked = client.post("/v1/tasks/topics/predict", json={"text": "soup", "version": 4}).json()
        assert correct(asked["request_id"], "music").status_code == 400
        assert state.feedback("topics") == ()
        assert correct(asked["request_id"], "songs").status_code == 200
        folder.save(other, versions[0])  # no longer what answered
        assert correct(row_id, "anything").status_code == 200
        shutil.rmtree(versions[0])
        assert correct(row_id, "anything").status_code == 200
        state.remove("topics", 4)
        assert correct(asked["request_id"], "anything").status_code == 200


def test_what_a_sender_says_was_answered_is_a_label_too(state: State) -> None:
    """After a restart, when the server does not know it any more."""
    with serving(Registered(state), state=state) as live, live.client() as client:
        _, _, row_id = ask(client)
    with serving(Registered(state), state=state) as live, live.client() as client:
        said = {"request_id": row_id, "verdict": "right", "text": "a song"}
        reply = client.post("/v1/feedback", json={**said, "answer": "musik"})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "answer")
        assert client.post("/v1/feedback", json={**said, "answer": "music"}).status_code == 200
    assert [each.answer for each in state.feedback("topics")] == ["music"]


@pytest.mark.parametrize("parts", [{"decoding": Decoding()}, {"candidates": Candidates()}])
def test_a_correction_is_any_text_where_a_task_has_no_labels(
    parts: dict[str, Part], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    labels = ("1", "2") if "candidates" in parts else ()
    bare = replace(tiny.adapter(tiny.decoder(tiny_folder("llama"))), head=None, labels=labels)
    folder.save(replace(bare, template=Template(fixed="", row="{text}:"), **parts), tmp_path / "a")  # type: ignore[arg-type]
    with contextlib.closing(State.open(str(tmp_path / "t.db"))) as opened:
        opened.add("topics", tmp_path / "a")
        opened.promote("topics", 1, reason="", expected=None)
        with serving(Registered(opened), state=opened) as live, live.client() as client:
            row_id = live.service.ids.issue(Served(task="topics", version=1, folder=""), 1)
            said = {"request_id": row_id, "verdict": "corrected", "corrected": "a whole answer"}
            assert client.post("/v1/feedback", json=said).status_code == 200


@pytest.mark.parametrize("keeps", [False, True])
def test_texts_are_kept_only_where_asked_for(keeps: bool, state: State, tmp_path: Path) -> None:
    with serving(Registered(state), state=state, keeps_texts=keeps) as live, live.client() as client:
        _, _, row_id = ask(client, "a very secret soup")
        assert client.post("/v1/feedback", json={"request_id": row_id, "verdict": "right"}).status_code == 200
    (stored,) = state.feedback("topics")
    assert stored.text == ("a very secret soup" if keeps else None)
    state.close()
    written = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert (b"very secret" in written) is keeps


def test_feedback_when_the_state_is_gone(state: State, tmp_path: Path) -> None:
    """Nothing is acknowledged that is not stored; answers go on."""
    with serving(Registered(state), state=state) as live, live.client() as client:
        _, _, row_id = ask(client)
        for path in tmp_path.glob("state.db*"):
            path.unlink()
        reply = client.post("/v1/feedback", json={"request_id": row_id, "verdict": "right"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "state_unavailable")
        assert str(tmp_path) not in reply.text
        assert ask(client)[:2] == (1, "food")
        for reply in (client.get("/"), client.post("/v1/tasks/topics/predict", json={"text": "soup", "version": 2})):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "state_unavailable")
            assert reply.headers["retry-after"] == "5"


@pytest.mark.parametrize("fault", ["locked", "full"])
def test_feedback_while_the_state_takes_none(
    fault: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is acknowledged that is not stored; answers go on, and so does feedback when the fault is over."""
    path = tmp_path / "state.db"
    other = sqlite3.connect(path, isolation_level=None)
    (pages,) = other.execute("PRAGMA page_count").fetchone()
    limit = [f"max_page_count={pages}"] * (fault == "full")  # SQLite's own limit gives the error of a full disk
    monkeypatch.setattr("tunewright.releases.database._PRAGMAS", ("journal_mode=WAL", "busy_timeout=50", *limit))
    state.close()
    opened = State.open(str(path))
    with serving(Registered(opened), state=opened) as live, live.client() as client:
        said = [{"request_id": ask(client)[2], "verdict": "right", "comment": "x" * 9_000} for _ in range(3)]
        if fault == "locked":
            other.execute("BEGIN IMMEDIATE")
        replies = [client.post("/v1/feedback", json=each) for each in said]
        stored = [each["request_id"] for each, reply in zip(said, replies, strict=True) if reply.status_code == 200]
        assert replies[-1].status_code == 503
        assert replies[-1].json()["error"]["code"] == "state_unavailable"
        assert ask(client)[:2] == (1, "food")
        if fault == "locked":
            other.execute("ROLLBACK")
            assert client.post("/v1/feedback", json=said[0]).status_code == 200
            stored.append(str(said[0]["request_id"]))
    opened.close()
    other.close()
    assert [each.request_id for each in State.open(str(path)).feedback("topics")] == stored


@contextlib.contextmanager
def process(*arguments: str | Path, cwd: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`tunewright serve` as a user starts it, and its URL."""
    command = [*COMMAND, "serve", *map(str, arguments), "--port", "0"]
    started = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        match = re.search(r"http://\S+", line)
        assert match is not None, line + (started.stderr.read() if started.stderr is not None else "")
        with httpx.Client(base_url=match[0], timeout=30) as client:
            wait_until_ready(client)
        yield started, match[0]
    finally:
        started.kill()
        started.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of this machine")
def test_own_names_of_a_loopback_server(task_folders: list[str], tmp_path: Path) -> None:
    """The address it was told to listen on is one; a port may be left out, also behind an IPv6 address."""
    with (
        process(task_folders[0], "--host", "127.0.0.2", cwd=tmp_path) as (_, url),
        httpx.Client(base_url=url) as client,
    ):
        for host in ("127.0.0.2", "LOCALHOST:80", "[::1]", "[::1]:8000"):
            assert client.get("/v1/models", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "127.0.0.2.evil.example", "[::1", ""):
            assert client.get("/v1/models", headers={"host": host}).status_code == 421, host


@pytest.mark.slow
def test_sigterm_answers_what_was_asked(task_folders: list[str], tmp_path: Path) -> None:
    with process(*task_folders[:4], "--max-batch", "1", cwd=tmp_path) as (started, url):
        replies: list[httpx.Response] = []

        def load() -> None:
            with httpx.Client(base_url=url, timeout=60) as client:
                rows = [{"text": "a secret soup " * 4}] * 256
                replies.append(client.post("/v1/tasks/lora-0/predict", json={"rows": rows}))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        os.kill(started.pid, signal.SIGTERM)
        for thread in threads:
            thread.join()
        _, errors = started.communicate(timeout=60)
        assert started.returncode == 0
        assert [reply.status_code for reply in replies] == [200] * 4
        assert all(len(reply.json()["answers"]) == 256 for reply in replies)
        assert "POST /v1/tasks/{task}/predict lora-0 200" in errors
        assert "secret" not in errors


@pytest.mark.slow
def test_acknowledged_feedback_survives_a_kill(state: State, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with process("--state", tmp_path / "state.db", cwd=tmp_path) as (started, url):

        def load() -> None:
            with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=url, timeout=10) as client:
                while True:
                    _, _, row_id = ask(client)
                    said = {"request_id": row_id, "verdict": "right"}
                    if client.post("/v1/feedback", json=said).status_code == 200:
                        acknowledged.append(row_id)

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 30:
            time.sleep(0.01)
        started.kill()
        for thread in threads:
            thread.join()
    stored = {each.request_id for each in state.feedback("topics")}
    assert set(acknowledged) <= stored
    assert len(acknowledged) >= 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "is neither a run folder nor an adapter folder"),
        (["--state", "none.db"], "no registry none.db"),
        (["{task}", "--state", "other.db"], "leave it or the folders out"),
        (["{task}", "--keep-texts"], "leave the folders out"),
        (["{task}", "{task}"], "two tasks are called 'head-0'"),
        (["a b={task}"], "a task's name has letters"),
        (["{task}", "--prefix-cache", "much"], "`--prefix-cache` must be a size"),
        (["{task}", "--host", "0.0.0.0"], "it needs --api-keys FILE"),
        (["{task}", "--api-keys", "none.json"], "cannot read none.json"),
        (["{remote}"], "asks openai:big@https://example.org/v1, which answers elsewhere, which is not served"),
    ],
)
def test_mistakes_of_a_command_line(arguments: list[str], said: str, task_folders: list[str], tmp_path: Path) -> None:
    """One line, exit code 2, before anything is loaded."""
    rename_base(
        copy := Path(shutil.copytree(task_folders[0], tmp_path / "remote")), "openai:big@https://example.org/v1"
    )
    given = [argument.replace("{task}", task_folders[0]).replace("{remote}", str(copy)) for argument in arguments]
    code = "import sys; from tunewright.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", *given],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 2, done
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout.strip() == "False", "torch was loaded"


def test_keys_are_made_once_and_kept_as_hashes(tmp_path: Path) -> None:
    def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*COMMAND, "key", *arguments, "--file", "keys.json"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())

    first = make("ann", "--tasks", "a,b", "--rows-per-minute", "30")
    assert first.returncode == 0
    (entry,) = json.loads((tmp_path / "keys.json").read_text(encoding="utf-8"))["keys"]
    assert (entry["name"], entry["tasks"], entry["rows_per_minute"]) == ("ann", ["a", "b"], 30)
    assert first.stdout.strip() not in (tmp_path / "keys.json").read_text(encoding="utf-8")
    again = make("ann")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "has a key 'ann' already" in again.stderr
    assert make("bob", "--rows-per-minute", "0").returncode == 2
    assert "Got 'b c', ''." in make("bob", "--tasks", "a,b c,").stderr
