"""What stands before every route: request ids, keys, hosts, limits of body and time, one line in the log."""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewright.serve.faults import Fault, as_fault
from tunewright.serve.keys import Key, Keys
from tunewright.serve.metrics import Metrics
from tunewright.serve.tasks import Served

_LOG = logging.getLogger("tunewright.serve")

_PORT = re.compile(":[0-9]*$")

_LAST_BODY_S = 1.0
"""For so long a server that ends waits for a body."""

_OPEN = ("/healthz", "/readyz")
"""Asked by machines without a key."""

_PAGE = "/"
"""Asked by browsers, which send no key before they are asked for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may take."""

    body_bytes: int = 4 * 2**20
    rows: int = 256
    waiting_rows: int = 2048
    """Of all requests together."""
    text_cache_bytes: int = 2 * 2**30
    """Of the keys and values of all rows that are answered in text."""
    time_s: float = 60.0
    """From the first byte of the request to the last of the answer."""


@dataclass(kw_only=True, slots=True)
class Context:
    """What is known of a request on its way."""

    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    key: Key | None = None
    served: Served | None = None
    wants_key: bool = False
    """Whether a key is to be asked for before anything is told."""


def context_of(scope: MutableMapping[str, Any]) -> Context:
    """What the gate knows of a request."""
    found = scope["tunewright"]
    assert isinstance(found, Context)
    return found


class Gate:
    """ASGI middleware.

    Args:
        app: What it protects.
        keys: Who may ask; None for everybody on this machine.
        hosts: Names this server answers to; None for any. A page in a browser can reach a loopback address under a
            name of its own (DNS rebinding), but not pretend to be another host.
        limits: Of one request.
        metrics: Told of every request.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Keys | None, hosts: Collection[str] | None, limits: Limits, metrics: Metrics
    ) -> None:
        self._app, self._keys, self._hosts, self._limits, self._metrics = app, keys, hosts, limits, metrics
        self._reading: set[asyncio.Timeout] = set()
        """Requests whose bodies are still on their way."""
        self._is_ending = False

    def end(self) -> None:
        """The server ends: bodies that are not here in a moment are waited for no more."""
        self._is_ending = True
        for reading in self._reading:
            reading.reschedule(asyncio.get_running_loop().time() + _LAST_BODY_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context, start_s = Context(), time.monotonic()
        scope["tunewright"] = context
        sending = _Sending(context, send)
        try:
            async with asyncio.timeout(self._limits.time_s):
                replay = await self._admit(scope, receive, context)
                await self._app(scope, replay, sending)
        except TimeoutError:
            message = f"the request took longer than {self._limits.time_s:g} s. Ask for less at once."
            await sending.refuse(Fault(504, "timeout", message))
        except Fault as fault:
            await sending.refuse(fault)
        except Exception as error:
            if sending.status != 0:
                raise
            _LOG.exception("request %s failed", context.request_id)
            await sending.refuse(as_fault(error))
        finally:
            seconds = time.monotonic() - start_s
            self._note(scope, context, sending.status, seconds)

    async def _admit(self, scope: Scope, receive: Receive, context: Context) -> Receive:
        """Checks host, key, kind and size of the body; returns it to be read again."""
        headers = dict(scope["headers"])
        if self._hosts is not None:
            host = _PORT.sub("", headers.get(b"host", b"").decode("latin-1")).lower()
            if host not in self._hosts:
                names = " or ".join(sorted(self._hosts))
                raise Fault(421, "unknown_host", f"the server answers to its own name only. Ask it as {names}.")
        if self._keys is not None and scope["path"] not in _OPEN:
            context.wants_key = scope["path"] == _PAGE and b"authorization" not in headers
            context.key = None if context.wants_key else self._keys.check(headers)
        body = await self._in_time(receive, headers)
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if body and kind != b"application/json":
            raise Fault(415, "not_json", "the body must be sent as `Content-Type: application/json`.")
        unread = True

        async def replay() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        return replay

    async def _in_time(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
        """The body, unless the server ends before it is here."""
        now_s = asyncio.get_running_loop().time()
        reading = asyncio.timeout_at(now_s + _LAST_BODY_S if self._is_ending else None)
        try:
            async with reading:
                self._reading.add(reading)
                return await self._body(receive, headers)
        except TimeoutError:
            raise Fault(503, "shutting_down", "the server is ending. Ask again in a moment.", retry_after_s=5) from None
        finally:
            self._reading.discard(reading)

    async def _body(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
        limit = self._limits.body_bytes
        too_large = Fault(413, "body_too_large", f"the body has more than {limit} bytes. Send fewer rows.")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise too_large
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise too_large
            more = message.get("more_body", False)
        return b"".join(chunks)

    def _note(self, scope: Scope, context: Context, status: int, seconds: float) -> None:
        task = None if context.served is None else context.served.task
        route = getattr(scope.get("route"), "path", "-")
        # The route's pattern, not the path: what a sender writes there may be a text.
        _LOG.info("%s %s %s %d %.1f ms %s", scope["method"], route, task, status, 1000 * seconds, context.request_id)
        if route.startswith("/v1/"):
            self._metrics.note_request(task, status, seconds)


class _Sending:
    """What is sent of one answer: its status, and whether it is a stream that has not ended."""

    def __init__(self, context: Context, send: Send) -> None:
        self._context, self._send = context, send
        self.status, self._streams = 0, False

    async def __call__(self, message: Message) -> None:
        """Sends a message of the application's, with the request's id in its head."""
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-request-id", self._context.request_id.encode())]
            if self._context.served is not None:
                headers.append((b"x-tunewright-version", str(self._context.served.version).encode()))
            self.status, message["headers"] = message["status"], headers
            self._streams = dict(headers).get(b"content-type", b"").startswith(b"text/event-stream")
        elif not message.get("more_body", False):
            self._streams = False
        await self._send(message)

    async def refuse(self, fault: Fault) -> None:
        """A fault as the answer; as the last event of a stream that has begun."""
        body = json.dumps(fault.body()).encode()
        if self._streams:
            await self({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})
        elif self.status == 0:
            headers = [(name.encode(), value.encode()) for name, value in fault.headers.items()]
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await self({"type": "http.response.start", "status": fault.status, "headers": headers})
            await self({"type": "http.response.body", "body": body})
