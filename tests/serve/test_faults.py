"""Bad requests and faulty adapters: one shape of error, the right status, and nobody else harmed."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests import tiny
from tests.serve.live import ABOUT, Live, serving, wait_until_ready
from tunewright.adapters import folder
from tunewright.adapters.parts import Head
from tunewright.serve import cache, service
from tunewright.serve.connections import Connection
from tunewright.serve.gate import Limits
from tunewright.serve.keys import Keys, add_key

PREDICT, CHAT = "/v1/tasks/head-0/predict", "/v1/chat/completions"
VERDICTS_ALLOWED = "`verdict`: Input should be 'right', 'wrong' or 'corrected'."
MESSAGES = [{"role": "user", "content": "soup"}]
LONG = [{"role": "user", "content": "bread " * 300}]


def check_shape(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """OpenAI's error object, and a request id."""
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json"), reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    assert error["message"].endswith("."), error
    assert reply.headers["x-request-id"].startswith("req_")
    return error


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[httpx.Client]:
    with live.client() as found:
        yield found


BODIES: list[tuple[str, bytes | str | dict[str, Any], int, str]] = [
    (PREDICT, b"{", 400, "invalid_json"),
    (PREDICT, b"\xff\xfe", 400, "invalid_json"),
    (PREDICT, "[" * 100_000, 400, "invalid_json"),
    (PREDICT, '{"text": ' + "9" * 5000 + "}", 400, "invalid_json"),
    (PREDICT, b"", 400, "invalid_value"),
    (PREDICT, "[]", 400, "invalid_value"),
    (PREDICT, {"text": ""}, 400, "invalid_value"),
    (PREDICT, {"text": " \n"}, 400, "invalid_value"),
    (PREDICT, {"text": 5}, 400, "invalid_value"),
    (PREDICT, '{"text": "\\ud800"}', 400, "invalid_value"),
    (PREDICT, {"text": "soup", "txt_pair": "x"}, 400, "invalid_value"),
    (PREDICT, {"text": "x" * 100_001}, 400, "invalid_value"),
    (PREDICT, {"text": "soup", "text_pair": "bread"}, 400, "wrong_number_of_texts"),
    (PREDICT, {"rows": []}, 400, "invalid_value"),
    (PREDICT, {"rows": [{"text": "soup"}] * 257}, 400, "invalid_value"),
    ("/v1/tasks/nobody/predict", {"text": "soup"}, 404, "model_not_found"),
    ("/v1/tasks/..%2f..%2fetc/predict", {"text": "soup"}, 404, "not_found"),
    ("/v1/tasks/%2e%2e/predict", {"text": "soup"}, 400, "invalid_value"),
    (f"/v1/tasks/{'x' * 65}/predict", {"text": "soup"}, 400, "invalid_value"),
    ("/v1/nothing", {"text": "soup"}, 404, "not_found"),
    (CHAT, '{"model": "head-0", "messages": [], "temperature": NaN}', 400, "invalid_value"),
    (CHAT, json.dumps({"model": "head-0", "messages": MESSAGES})[:-1] + ', "temperature": NaN}', 400, "invalid_value"),
    (CHAT, json.dumps({"model": "head-0", "messages": MESSAGES})[:-1] + ', "top_p": 1e999}', 400, "invalid_value"),
    (CHAT, {"model": "head-0", "messages": MESSAGES, "stop": ["x"] * 10_000}, 400, "invalid_value"),
    (CHAT, {"model": "head-0", "messages": MESSAGES, "temperature": "0"}, 400, "invalid_value"),
    (CHAT, {"model": "head-0", "messages": MESSAGES, "n": 2}, 400, "invalid_value"),
    (CHAT, {"model": "head-0", "messages": MESSAGES, "tools": []}, 400, "invalid_value"),
    (CHAT, {"model": "head-0", "messages": [{"role": "system", "content": "x"}]}, 400, "invalid_messages"),
    (
        CHAT,
        {"model": "head-0", "messages": [{"role": "user", "content": "bread " * 300}]},
        400,
        "context_length_exceeded",
    ),
    ("/v1/completions", {"model": "head-0", "prompt": [1, 2, 3]}, 400, "invalid_value"),
    ("/v1/embeddings", {"model": "head-0", "input": []}, 400, "invalid_value"),
]


@pytest.mark.parametrize(("path", "body", "status", "code"), BODIES, ids=range(len(BODIES)))
def test_bad_body(path: str, body: bytes | str | dict[str, Any], status: int, code: str, client: httpx.Client) -> None:
    content = json.dumps(body) if isinstance(body, dict) else body
    reply = client.post(path, content=content, headers={"content-type": "application/json"})
    error = check_shape(reply, status, code)
    assert "soup" not in error["message"], "a text of the request is repeated"


def test_the_field_at_fault_is_named(client: httpx.Client) -> None:
    """Also where the body may be one of two kinds."""
    for body, param in (({"rows": []}, "rows"), ({"rows": [{"text": ""}]}, "rows.0.text"), ({"text": 5}, "text")):
        assert check_shape(client.post(PREDICT, json=body), 400, "invalid_value")["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (PREDICT, {"rows": [{"text": "soup"}] * 257}, "`rows`: List should have at most 256 items"),
        (PREDICT, {"rows": [{"text": "soup"}, {"txt": "soup"}]}, "`rows.1.text`: Field required; `rows.1.txt`: Extra"),
        (PREDICT, {"txt": "soup"}, "`text`: Field required; `txt`: Extra inputs are not permitted."),
        (PREDICT, {"a": 1, "b": 1, "c": 1}, "`text`: Field required; `a`: Extra inputs are not permitted; `b`: Extra"),
        ("/v1/feedback", {"request_id": "x", "verdict": "maybe"}, VERDICTS_ALLOWED),
        ("/v1/feedback", {"request_id": "x", "verdict": "maybe", "corrected": "y"}, VERDICTS_ALLOWED),
        (PREDICT, {"text": "soup", "Version-2": 1}, "`Version-2`: Extra inputs are not permitted."),
        (PREDICT, {"text": "soup", "version": 0}, "`version`: Input should be greater than or equal to 1."),
        (PREDICT, {"text": 5}, "`text`: Input should be a valid string."),
        (PREDICT, [], "Input should be a JSON object"),
        (
            CHAT,
            {"model": "head-0", "messages": [{"role": "user", "content": ""}]},
            "`messages.0.content`: String should",
        ),
        (
            CHAT,
            {"model": "head-0", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "`messages.0.content.0.type`: Input should be 'text'",
        ),
        ("/v1/completions", {"model": "head-0", "prompt": [1]}, "`prompt.0`: Input should be a valid string."),
        ("/v1/feedback", {"request_id": "x", "verdict": "corrected"}, "`corrected`: Field required."),
        ("/v1/feedback", {"request_id": "x", "verdict": "right", "corrected": "y"}, "`corrected`: Extra inputs"),
    ],
)
def test_faults_are_told_in_the_sender_s_words(path: str, body: Any, said: str, client: httpx.Client) -> None:
    """Where a value has several forms, those of the form it is nearest to; no name of a class of ours."""
    error = check_shape(client.post(path, json=body), 400, "invalid_value")
    assert error["message"].startswith(said)
    assert f"`{error['param']}`" in said or error["param"] is None


def test_body_that_is_too_large(client: httpx.Client) -> None:
    """Told by its length, or where it has none as soon as it is over the limit."""
    body = json.dumps({"text": "x" * 10_000_000}).encode()
    kind = {"content-type": "application/json"}
    check_shape(client.post(PREDICT, content=body, headers=kind), 413, "body_too_large")
    chunks = (body[k : k + 2**16] for k in range(0, len(body), 2**16))
    try:
        reply = client.post(PREDICT, content=chunks, headers=kind)
    except httpx.WriteError:
        return  # the server has closed before the client was done
    check_shape(reply, 413, "body_too_large")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_body_that_a_foreign_page_could_send(kind: str | None, client: httpx.Client) -> None:
    """A browser sends these across origins without asking; JSON it does not."""
    headers = {} if kind is None else {"content-type": kind}
    check_shape(client.post(PREDICT, content=b'{"text": "soup"}', headers=headers), 415, "not_json")


def test_other_hosts_and_methods(client: httpx.Client) -> None:
    check_shape(client.get("/v1/models", headers={"host": "evil.example"}), 421, "unknown_host")
    reply = client.get(PREDICT)
    check_shape(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


@pytest.fixture(scope="module")
def guarded(task_folders: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, str, str]]:
    """A server with two keys: one for everything, one for `head-0` alone and 4 rows a minute."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    full = add_key(path, "full", tasks=None, rows_per_minute=None)
    small = add_key(path, "small", tasks=["head-0"], rows_per_minute=4)
    assert full not in path.read_text(encoding="utf-8")
    with serving(task_folders[:3], keys=Keys.read(path)) as live:
        yield live, full, small


def test_the_page_asks_for_a_key_and_tells_nothing(guarded: tuple[Live, str, str]) -> None:
    live, full, _ = guarded
    with live.client() as client:
        asked = client.get("/")
        assert asked.status_code == 200
        assert "A key, please" in asked.text
        assert "head-0" not in asked.text
        check_shape(client.get("/", headers={"authorization": "Bearer nobody"}), 401, "invalid_api_key")
    with live.client(full) as client:
        assert "head-0" in client.get("/").text


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer nobody", "Basic abc", "Bearer \u00e4"])
def test_no_key_or_a_wrong_one(header: str | None, guarded: tuple[Live, str, str]) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    with guarded[0].client() as client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            reply = client.get(path, headers=headers)  # type: ignore[arg-type]
            check_shape(reply, 401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_keys_have_tasks_and_rates(guarded: tuple[Live, str, str]) -> None:
    live, full, small = guarded
    with live.client(full) as client:
        assert len(client.get("/v1/models").json()["data"]) == 3
        assert client.post("/v1/tasks/soft-0/predict", json={"text": "soup"}).status_code == 200
        assert 'task="soft-0"' in client.get("/metrics").text
    with live.client(small) as client:
        check_shape(client.get("/metrics"), 403, "metrics_not_allowed")
        assert "soft-0" not in client.get("/").text
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["head-0"]
        check_shape(client.post("/v1/tasks/soft-0/predict", json={"text": "soup"}), 403, "task_not_allowed")
        check_shape(client.post("/v1/tasks/nobody/predict", json={"text": "soup"}), 403, "task_not_allowed")
        assert client.post(PREDICT, json={"rows": [{"text": "soup"}] * 4}).status_code == 200
        reply = client.post(PREDICT, json={"text": "soup"})
        check_shape(reply, 429, "rate_limited")
        assert 10 <= int(reply.headers["retry-after"]) <= 17


def test_a_full_queue_refuses_and_says_when(task_folders: list[str]) -> None:
    with serving(task_folders[:1], limits=Limits(waiting_rows=3)) as live, live.client() as client:
        reply = client.post(PREDICT, json={"rows": [{"text": "soup"}] * 4})
        check_shape(reply, 429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        assert client.post(PREDICT, json={"rows": [{"text": "soup"}] * 3}).status_code == 200


def test_a_request_that_takes_too_long(task_folders: list[str]) -> None:
    """A body that never ends."""
    with serving(task_folders[:1], limits=Limits(time_s=0.5)) as live:
        host, port = live.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
            answer = raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 504")
        assert b'"code": "timeout"' in answer


def _connect(live: Live) -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_a_connection_that_says_nothing_is_closed(task_folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that begins to, nor one that does so after its first request; others live on."""
    monkeypatch.setattr(Connection, "head_s", 0.5)
    with serving(task_folders[:1]) as live:
        for begun in (b"", b"POST / HTTP/1.1\r\nHost: ", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET "):
            with _connect(live) as raw:
                raw.sendall(begun)
                received = b"".join(iter(lambda: raw.recv(65536), b""))
            assert received.startswith(b"HTTP/1.1 200") if b"healthz" in begun else received == b""
        with live.client() as client:
            assert client.post(PREDICT, json={"text": "soup"}).status_code == 200


def test_more_connections_than_there_may_be(task_folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told; when another ends there is room."""
    monkeypatch.setattr(Connection, "most_connections", 2)
    with serving(task_folders[:1]) as live, live.client() as client:
        assert client.get("/healthz").status_code == 200
        with _connect(live):
            refused = httpx.get(f"{live.url}/healthz")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
            assert refused.headers["retry-after"] == "5"
        for _ in range(100):
            if httpx.get(f"{live.url}/healthz").status_code == 200:
                break
            time.sleep(0.02)
        assert httpx.get(f"{live.url}/healthz").status_code == 200


def test_a_body_that_is_on_its_way_when_the_server_ends(task_folders: list[str]) -> None:
    """It is waited for no more: a slow client cannot hold a server that is told to end."""
    with serving(task_folders[:1]) as live:
        raw = _connect(live)
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
        time.sleep(0.2)
    with raw:
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"code": "shutting_down"' in answer


def test_not_ready_where_nothing_can_be_loaded(
    task_folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it can be."""
    monkeypatch.setattr(service, "_RETRY_S", 0.05)
    monkeypatch.setattr(cache, "_REMEMBERED_S", 0.05)
    path, file = tmp_path / "head-0", "adapter.safetensors"
    shutil.copytree(task_folders[0], path)
    (path / file).rename(tmp_path / file)
    with serving([str(path)], gets_ready=False) as live, live.client() as client:
        check_shape(client.post(PREDICT, json={"text": "soup"}), 503, "task_unavailable")
        assert "the server's log says why" in check_shape(client.get("/readyz"), 503, "not_ready")["message"]
        (tmp_path / file).rename(path / file)
        wait_until_ready(client)
        assert client.post(PREDICT, json={"text": "soup"}).status_code == 200


def test_a_client_that_leaves_is_forgotten(task_folders: list[str]) -> None:
    """Rows of a client that has left make room for others; who is there gets an answer."""
    with serving(task_folders[:1], max_batch=1) as live:
        host, port = live.url.removeprefix("http://").split(":")
        body = json.dumps({"rows": [{"text": "soup " * 50}] * 256}).encode()
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=10) as raw:
                raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                time.sleep(0.05)
        with live.client() as client:
            assert client.post(PREDICT, json={"text": "soup"}).status_code == 200
        for _ in range(100):
            if len(live.service._waiting) == 0:
                break
            time.sleep(0.02)
        assert len(live.service._waiting) == 0
        assert passes(live.service.metrics.text().decode()) < 700, "rows of those who left were run"


def test_a_client_that_reads_slowly_holds_up_nobody(live: Live) -> None:
    """Who takes byte after byte of a large answer: others are answered meanwhile, and it still comes whole."""
    host, port = live.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "head-0", "input": ["soup"] * 256}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.settimeout(30)
        raw.connect((host, int(port)))
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = bytearray()
        with live.client() as client:
            for _ in range(20):
                received += raw.recv(1)
                assert client.post(PREDICT, json={"text": "soup"}).status_code == 200
        while chunk := raw.recv(65536):
            received += chunk
    start, _, answer = bytes(received).partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200")
    assert len(answer) > 100_000
    assert len(json.loads(answer)["data"]) == 256


def passes(metrics: str) -> float:
    """Of the engine, of one row each."""
    (line,) = [line for line in metrics.splitlines() if line.startswith("tunewright_batch_rows_count")]
    return float(line.split()[1])


Spoil = Callable[[Path], None]


def _truncate(path: Path) -> None:
    file = path / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-20])


def _change(path: Path) -> None:
    file = path / "adapter.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def _other_base(path: Path) -> None:
    file = path / "adapter.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"sha256": "', '"sha256": "0'), encoding="utf-8")


def _remove(path: Path) -> None:
    (path / "adapter.safetensors").unlink()


def _pickle(path: Path) -> None:
    torch.save({"head.weight": torch.zeros(3, 32)}, path / "adapter.safetensors")


SPOILS: dict[str, Spoil] = {
    "truncated": _truncate,
    "changed": _change,
    "other-base": _other_base,
    "removed": _remove,
    "pickle": _pickle,
}


def _save_spoilt(base: Any, parent: Path) -> list[str]:
    """Adapter folders with every fault, beside one that is whole."""
    good = tiny.adapter(base).with_about(ABOUT)
    found = {"a-good": good}
    nan, wide = tiny.head(base, 1), tiny.normal(1, 3, base.width + 1)
    found["nan"] = tiny.adapter(base, head=Head(weight_CD=nan.weight_CD * torch.nan, bias_C=nan.bias_C))
    found["wide"] = tiny.adapter(base, head=Head(weight_CD=wide, bias_C=nan.bias_C))
    found["long"] = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, base.max_tokens, 1))
    for name, adapter in found.items():
        folder.save(adapter.with_about(ABOUT), parent / name)
    for name, spoil in SPOILS.items():
        shutil.copytree(parent / "a-good", parent / name)
        spoil(parent / name)
    return [str(path) for path in sorted(parent.iterdir())]


def test_broken_adapters_harm_nobody_else(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    given = _save_spoilt(tiny.encoder(tiny_folder("bert")), tmp_path)
    broken = [Path(path).name for path in given if not path.endswith("a-good")]
    assert len(broken) == 8
    with serving(given) as live, live.client() as client:
        replies: dict[str, httpx.Response] = {}

        def ask(name: str) -> None:
            replies[name] = client.post(f"/v1/tasks/{name}/predict", json={"text": "soup"})

        threads = [threading.Thread(target=ask, args=(name,)) for name in [*broken, "a-good"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies.pop("a-good").status_code == 200
        for reply in replies.values():
            error = check_shape(reply, 503, "task_unavailable")
            assert str(tmp_path) not in error["message"], "a path of the server is told"


def test_the_base_is_deleted_under_the_server(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder("bert"), model)
    base = tiny.encoder(model)
    for k in range(2):
        folder.save(tiny.adapter(base, head=tiny.head(base, k)).with_about(ABOUT), tmp_path / f"task-{k}")
    with serving([str(tmp_path / "task-0"), str(tmp_path / "task-1")]) as live, live.client() as client:
        shutil.rmtree(model)
        for k in range(2):
            assert client.post(f"/v1/tasks/task-{k}/predict", json={"text": "soup"}).status_code == 200
