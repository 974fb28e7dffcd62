"""A database that never loses what it acknowledged: SQLite beside the server, or a PostgreSQL shared by several.

SQLite runs with a write-ahead log flushed at every commit (`synchronous=FULL`), so that what is committed survives a
kill of the process and of the machine.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tunewright.errors import StateError

WAIT_S = 5.0
"""For a lock or a connection, before the database counts as locked."""

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={int(1000 * WAIT_S)}")
_ADVISORY_LOCK = 7_386_105
"""Any number: it keeps two processes from making the tables of a PostgreSQL at the same time."""


class Database:
    """Transactions on one database, from any thread.

    Args:
        where: A file, made where there is none, or a URL such as `postgresql://user@host/name`.
        prepare: Makes the tables where there are none; no two processes do so at once.

    Raises:
        StateError: No database there, or no right to it; a password in the URL is never shown.
    """

    def __init__(self, where: str, prepare: Callable[[Connection], None]) -> None:
        url = _url(where)
        self._file = Path(str(url.database)) if url.get_backend_name() == "sqlite" else None
        self.name = url.render_as_string() if self._file is None else str(self._file)
        self._inode: tuple[int, int] | None = None
        with self._errors():
            self._engine = _engine(url)
            if self._file is not None:
                event.listen(self._engine, "connect", _connected)
                event.listen(self._engine, "begin", _begin)
            try:
                self._prepare(prepare)
            except BaseException:
                self.close()
                raise
        self._inode = self._identity()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment.

        Raises:
            StateError: Locked, gone or broken.
        """
        with self._errors():
            self._check_there()
            with self._engine.begin() as connection:
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on disk when its block has ended, or has not happened.

        Raises:
            StateError: Locked, gone, broken or full.
        """
        with self._errors():
            self._check_there()
            with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
                yield connection
            self._check_there()

    def close(self) -> None:
        """Ends all connections."""
        self._engine.dispose()

    def _prepare(self, prepare: Callable[[Connection], None]) -> None:
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            prepare(connection)

    def _identity(self) -> tuple[int, int] | None:
        """Of the file; a new one under the same name is another database."""
        if self._file is None:
            return None
        found = self._file.stat()
        return found.st_dev, found.st_ino

    def _check_there(self) -> None:
        """An open SQLite file goes on taking rows after it was deleted: they would be acknowledged and lost.

        Raises:
            StateError: Deleted or replaced.
        """
        if self._inode is None:
            return
        try:
            is_there = self._identity() == self._inode
        except OSError:
            is_there = False
        if not is_there:
            raise StateError(f"the state {self.name} is gone: deleted or replaced. Restore it and start again.")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What a database raises, as one line for the user."""
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
            todo = "Try again" if "locked" in cause or isinstance(error, PoolTimeout) else "Check --state and its disk"
            raise StateError(f"cannot use the state {self.name}: {cause}. {todo}.") from None


def _url(where: str) -> URL:
    """A file or a URL, as a URL.

    Raises:
        StateError: Neither, or of a kind that is not run here.
    """
    try:
        url = make_url(where) if "://" in where else URL.create("sqlite", database=where)
    except ArgumentError:
        raise StateError("`--state` is no URL. Write postgresql://USER@HOST/NAME, or a file.") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StateError(f"`--state` is of kind {url.get_backend_name()!r}. Allowed: a file, sqlite, postgresql.")
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise StateError("`--state` must be a file: what is kept in memory does not survive the server.")
        return URL.create("sqlite", database=os.path.abspath(str(url.database)))  # noqa: PTH100 - a link stays a link
    return url.set(drivername="postgresql+psycopg")


def _engine(url: URL) -> Engine:
    """Raises StateError where the driver is missing or the file cannot be."""
    if url.get_backend_name() == "sqlite":
        folder = Path(str(url.database)).parent
        if not folder.is_dir():
            raise StateError(f"cannot use the state {url.database}: {folder} is no folder. Make it, or use --state.")
        return create_engine(url, connect_args={"timeout": WAIT_S}, pool_timeout=WAIT_S)
    try:
        return create_engine(url, pool_pre_ping=True, pool_timeout=WAIT_S, connect_args={"connect_timeout": 5})
    except (ModuleNotFoundError, NoSuchModuleError):
        raise StateError("PostgreSQL needs its driver: pip install 'tunewright[postgresql]'.") from None


def _connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would open transactions late, and upgrade their locks
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """Writers take their lock at once: one that reads first and is overtaken could not go on."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
