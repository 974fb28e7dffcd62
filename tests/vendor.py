"""An OpenAI-compatible endpoint in this process: it answers by a table, fails as it is told to, and counts.

A token is a word with the space before it. What is likely is a function of the prompt, so that anybody can work out
what the answers must be.
"""

import contextlib
import hashlib
import json
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-of-the-tests"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request instead of an answer."""

    status: int = 200
    body: str = "{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    stall_s: float = 0.0
    """Before anything is sent."""


def refusal(status: int, message: str, *, code: str = "", **headers: str) -> Fault:
    """As OpenAI tells of it."""
    error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return Fault(status=status, body=json.dumps(error), headers={k.replace("_", "-"): v for k, v in headers.items()})


def guess(prompt: str, labels: Sequence[str]) -> dict[str, float]:
    """Label -> probability; together .9, the rest is for what is no label."""
    weights = [math.exp(hashlib.sha256(f"{prompt}|{label}".encode()).digest()[0] / 50) for label in labels]
    return {label: 0.9 * weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}


Table = Callable[[str], dict[str, float]]
"""Prompt -> answer -> probability."""


@dataclass(kw_only=True)
class Vendor:
    """What it does, and what it was asked."""

    table: Table
    models: tuple[str, ...] = ("big",)
    most_top: int = 20
    """Alternatives that it tells; 0 where it tells no probabilities."""
    chats: bool = True
    completes: bool = False
    drops: str | None = None
    """A setting that it refuses."""
    faults: deque[Fault] = field(default_factory=deque)
    """For the next requests, in their order."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of all requests that were answered."""
    tries: int = 0
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def input_tokens(self) -> int:
        """Of all answers."""
        return sum(len(prompt_of(body).split()) for body in self.asked)

    @property
    def output_tokens(self) -> int:
        """Of all answers."""
        return sum(len(self.answer(body)) for body in self.asked)

    def answer(self, body: Mapping[str, Any]) -> list[str]:
        """Tokens of the likeliest answer, as many as are asked for."""
        likely = self.table(prompt_of(body))
        words = max(likely, key=lambda each: likely[each]).split(" ")
        most = body["max_tokens"] if "max_tokens" in body else body["max_completion_tokens"]
        return [word if k == 0 else f" {word}" for k, word in enumerate(words)][:most]

    def reply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        prompt, tokens = prompt_of(body), self.answer(body)
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(tokens)}
        usage["total_tokens"] = sum(usage.values())
        asked = body.get("top_logprobs", body.get("logprobs")) if body.get("logprobs") else 0
        tops = self._tops(prompt, tokens, min(int(asked or 0), self.most_top))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if "messages" in body:
            told = [
                {"token": t, "logprob": top[t], "top_logprobs": [{"token": o, "logprob": p} for o, p in top.items()]}
                for t, top in zip(tokens, tops, strict=False)
            ]
            choice |= {"message": {"role": "assistant", "content": "".join(tokens)}}
            choice |= {"logprobs": {"content": told} if tops else None}
        else:
            chosen = [top[t] for t, top in zip(tokens, tops, strict=False)]
            choice |= {"text": "".join(tokens)}
            choice |= {"logprobs": {"tokens": tokens, "token_logprobs": chosen, "top_logprobs": tops} if tops else None}
        return {"id": "1", "object": "answer", "created": 1, "model": "big", "choices": [choice], "usage": usage}

    def _tops(self, prompt: str, tokens: list[str], most: int) -> list[dict[str, float]]:
        """For each token the likeliest next words given those before, and their log-probabilities."""
        if most == 0:
            return []
        likely, found = self.table(prompt), list[dict[str, float]]()
        for k in range(len(tokens)):
            nexts: dict[str, float] = {}
            begun = [token.strip() for token in tokens[:k]]
            for answer, p in likely.items():
                words = answer.split(" ")
                if words[:k] == begun and len(words) > k:
                    word = words[k] if k == 0 else f" {words[k]}"
                    nexts[word] = nexts.get(word, 0.0) + p
            before = sum(p for answer, p in likely.items() if answer.split(" ")[:k] == begun) if k else 1.0
            ranked = sorted(nexts.items(), key=lambda pair: -pair[1])[:most]
            found.append({word: math.log(p / before) for word, p in ranked})
        return found

    def refuses(self, path: str, body: Mapping[str, Any]) -> Fault | None:
        """What is wrong with a request."""
        known = {"chat/completions": self.chats, "completions": self.completes}
        if not known.get(path, False):
            return refusal(404, f"no path {path}")
        if body["model"] not in self.models:
            return refusal(404, f"The model `{body['model']}` does not exist", code="model_not_found")
        if not -(2**63) <= body.get("seed", 0) < 2**63:
            return refusal(400, f"Invalid 'seed': {body['seed']} is no 64-bit integer.")
        if self.drops is not None and self.drops in body:
            instead = " Use max_completion_tokens." if self.drops == "max_tokens" else ""
            return refusal(400, f"Unsupported parameter: '{self.drops}'.{instead}")
        return None


def prompt_of(body: Mapping[str, Any]) -> str:
    """The text of a request."""
    return str(body["messages"][0]["content"] if "messages" in body else body["prompt"])


@contextlib.contextmanager
def selling(vendor: Vendor) -> Iterator[Vendor]:
    """It answers for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            allowed = self.headers["authorization"] == f"Bearer {KEY}"
            self._send(Fault(body='{"object": "list", "data": []}') if allowed else refusal(401, f"wrong key {KEY}"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            path = self.path.removeprefix("/v1/")
            with vendor.lock:
                vendor.tries += 1
                vendor.at_once += 1
                vendor.most_at_once = max(vendor.most_at_once, vendor.at_once)
                fault = vendor.refuses(path, body)
                if self.headers["authorization"] != f"Bearer {KEY}":
                    fault = refusal(401, f"Incorrect API key provided: {KEY}")
                elif fault is None and vendor.faults:
                    fault = vendor.faults.popleft()
                elif fault is None:
                    vendor.asked.append(body)
            if fault is not None and fault.stall_s:
                stopped.wait(fault.stall_s)
            self._send(Fault(body=json.dumps(vendor.reply(body))) if fault is None else fault)
            with vendor.lock:
                vendor.at_once -= 1

        def _send(self, what: Fault) -> None:
            content = what.body.encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(what.status)
                for name, value in {"content-type": "application/json", **what.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    stopped = threading.Event()

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        """More than come at once: beyond it the system drops connections."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield vendor
    finally:
        stopped.set()
        server.shutdown()
        thread.join(10)
        server.server_close()
