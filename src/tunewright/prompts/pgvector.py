"""Vectors in a PostgreSQL with the extension pgvector, searched exactly, without an index.

A collection is a table named by the hash of its vectors and filled in one transaction: whole or absent, the same for
everybody who has these vectors, never another run's. Texts stay with the adapter: a server says positions alone.

Shapes: N vectors, D width.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from torch import Tensor

from tunewright.errors import ConfigError, VectorStoreError

URL = "TUNEWRIGHT_VECTOR_STORE"
"""Names the server for adapters that are loaded: a folder must not say who gets a password."""
WAITS_S = (0.2, 1.0, 3.0)
"""Before a statement whose connection broke is tried again; a restarted server is back by then."""
_DOWN_S = 10.0
"""For so long a server that was given up is not asked; whoever asks next tries once."""
_FORM = "Write postgresql://USER@HOST/NAME, without a password: it goes in PGPASSWORD."


class PgVector:
    """A collection on a server, by default the environment's; raises VectorStoreError where that does not answer."""

    def __init__(self, collection: str, url: str | None = None) -> None:
        self._collection, self._url = collection, url

    def nearest(self, vector_D: Tensor, count: int) -> Sequence[int]:
        columns = _table(self._collection).c
        near = columns.vector.max_inner_product(vector_D.float().cpu().numpy())
        query = sql.select(columns.position).order_by(near, columns.position).limit(count)
        try:
            there = server(os.environ.get(URL, "") if self._url is None else self._url)
        except ConfigError as error:  # no request's fault where it is served
            raise VectorStoreError(str(error)) from None
        found: list[int] = there.ask(lambda connection: connection.scalars(query).all())
        return found


class Server:
    """A PostgreSQL; nothing is asked of it yet. Passwords are libpq's to find (`PGPASSWORD`, `~/.pgpass`)."""

    def __init__(self, url: str) -> None:
        found = sql.make_url(url)
        told = found.password is not None or any("password" in key.casefold() for key in found.query)
        if found.get_backend_name() != "postgresql" or told:
            raise ValueError
        self.name, self._fault, self._down_until_s = str(found), "", 0.0
        limits = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "options": "-c statement_timeout=60000"}
        found = found.set(drivername="postgresql+psycopg")
        self._engine = sql.create_engine(found, pool_pre_ping=True, connect_args=limits)

    def ask(self, work: Callable[[sql.Connection], Any], waits_s: Sequence[float] = WAITS_S) -> Any:
        """What comes of a transaction, begun again a few times where its connection breaks; at once without waits.

        Raises:
            VectorStoreError: It cannot be reached any more, or refuses, or was given up a moment ago.
        """
        if waits_s and time.monotonic() < self._down_until_s:
            raise VectorStoreError(self._fault)
        waits = iter(() if self._fault else waits_s)
        while True:
            try:
                with self._engine.begin() as connection:
                    found = work(connection)
                self._fault, self._down_until_s = "", 0.0
                return found
            except DBAPIError as error:
                is_lost = error.connection_invalidated or isinstance(error, OperationalError)
                wait_s = next(waits, None) if is_lost else None
                if wait_s is None:
                    cause = str(error.orig).strip().partition("\n")[0]
                    todo = "Mend it and repeat the call; a run goes on with --resume."
                    fault = f"cannot use the vector store {self.name}: {cause}. {todo}"
                    self._fault, self._down_until_s = (fault, time.monotonic() + _DOWN_S) if is_lost else ("", 0.0)
                    raise VectorStoreError(fault) from None
            time.sleep(wait_s)


@cache
def server(url: str) -> Server:
    """A server, with one pool of connections for all that use it.

    Raises:
        ConfigError: Another kind of URL, a password in it, none at all; or the client is not installed.
    """
    try:
        import pgvector.sqlalchemy  # noqa: F401  # told before any work

        return Server(url)
    except ImportError:
        raise ConfigError("a vector store needs its client. Run: pip install 'tunewright[pgvector]'.") from None
    except (ArgumentError, ValueError):
        where = f"`vector_store` (--vector-store, or {URL} for adapters that need one)"
        raise ConfigError(f"{where} is {'no URL of a PostgreSQL' if url else 'not given'}. {_FORM}") from None


def use(url: str) -> None:
    """From here on the environment names this server.

    Raises:
        VectorStoreError: It is not there, or has no pgvector.
    """
    server(url).ask(_extend, waits_s=())
    os.environ[URL] = url


def keep(url: str, vectors_ND: Tensor) -> str:
    """The name of the collection of these vectors, fp32, which is on that server from now on.

    Raises:
        VectorStoreError: It cannot be filled, or is not as it was left.
    """
    values_ND = vectors_ND.float().cpu().contiguous().numpy()
    digest = hashlib.sha256(str(values_ND.shape).encode() + values_ND.tobytes()).hexdigest()
    table = _table(f"tunewright_{digest[:40]}", values_ND.shape[1])

    def fill(connection: sql.Connection) -> int | None:
        _extend(connection)
        if not sql.inspect(connection).has_table(table.name):
            table.create(connection)
            rows = [{"position": k, "vector": vector_D} for k, vector_D in enumerate(values_ND)]
            connection.execute(sql.insert(table), rows)
        return connection.scalar(sql.select(sql.func.count()).select_from(table))

    if (held := server(url).ask(fill)) != len(values_ND):
        what = f"{table.name} holds {held} of {len(values_ND)} vectors. Drop that table: it is filled again."
        raise VectorStoreError(f"{server(url).name}: {what}")
    return table.name


def _table(name: str, *width: int) -> sql.Table:
    from pgvector.sqlalchemy import VECTOR

    position = sql.Column("position", sql.Integer, primary_key=True)
    return sql.Table(name, sql.MetaData(), position, sql.Column("vector", VECTOR(*width), nullable=False))


def _extend(connection: sql.Connection) -> None:
    # Any number: two processes must not fill a collection at the same time.
    connection.execute(sql.text("SELECT pg_advisory_xact_lock(7386106)"))
    connection.execute(sql.text("CREATE EXTENSION IF NOT EXISTS vector"))
