"""A socket, the application behind it, and an end that answers what was asked."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

import uvicorn

from tunewright.errors import ConfigError
from tunewright.serve.keys import Keys

if TYPE_CHECKING:
    from tunewright.serve.gate import Gate
    from tunewright.serve.service import Service

_IDLE_S = 30
"""Between two requests of a connection."""

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def bind(host: str, port: int, keys: Keys | None) -> socket.socket:
    """Opens the socket before anything is loaded.

    Raises:
        ConfigError: Off loopback without keys, the port is taken, or there is no such address.
    """
    if keys is None and not _is_loopback(host):
        raise ConfigError(
            f"`--host {host}` can be reached from other machines: it needs --api-keys FILE. "
            "Make a key with `tunewright key NAME --file FILE`, or leave --host out."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        where = f"{host}:{port}"
        raise ConfigError(f"cannot listen on {where}: {error.strerror}. Choose another --host or --port.") from None
    listening.setblocking(False)
    return listening


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(listening: socket.socket) -> str:
    """Where a socket can be asked."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """Uvicorn's, which ends with exit code 0 after SIGTERM: what was asked has been answered.

    Args:
        gate: The application.
        time_s: For so long, at its end, it waits for answers that are on their way.
    """

    def __init__(self, gate: "Gate", *, time_s: float) -> None:
        from tunewright.serve.connections import Connection

        super().__init__(
            uvicorn.Config(
                gate,
                http=Connection,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=int(time_s),
            )
        )
        self._gate = gate

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers what has been asked, waits no more for what is still being asked, and ends."""
        self._gate.end()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which raises the signal again when all is done; other threads than the first hear of none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(service: "Service", listening: socket.socket, *, keys: Keys | None, on_start: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; what is being answered then is answered first.

    Args:
        service: Tasks and engine.
        listening: From `bind`.
        keys: Who may ask.
        on_start: Told the server's URL.
    """
    from tunewright.serve.app import create_app  # torch; a wrong setting is told before

    url = url_of(listening)
    hosts = None if keys is not None else _LOOPBACK_NAMES | {url.removeprefix("http://").rpartition(":")[0]}
    logging.getLogger("tunewright.serve").setLevel(logging.INFO)
    server = Server(create_app(service, keys=keys, hosts=hosts), time_s=service.limits.time_s)
    on_start(url)
    server.run(sockets=[listening])
