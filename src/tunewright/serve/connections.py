"""Connections to clients: how many there may be, and how long one may take to say what it wants."""

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tunewright.serve.faults import Fault

HEAD_S = 20.0
"""From a connection, or the first byte of its next request, to the end of the head; uvicorn alone waits for ever."""

MOST_CONNECTIONS = 800
"""Below the 1024 files that a process may usually have open."""


class Connection(HttpToolsProtocol):
    """One that is closed where no head of a request comes in time, or where there are too many."""

    head_s = HEAD_S
    most_connections = MOST_CONNECTIONS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.write(_refusal(self.most_connections))
            transport.close()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client, or this server, has closed."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if self._deadline is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head of a request is here; what follows is under the limits of a request."""
        self._cancel_deadline()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_s, self._close)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        """Unless the answer to the request before is still on its way."""
        self._deadline = None
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()


def _refusal(most: int) -> bytes:
    fault = Fault(503, "too_many_connections", f"the server has {most} connections. Ask again later.")
    body = json.dumps(fault.body()).encode()
    head = f"HTTP/1.1 503 \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nretry-after: 5\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body
