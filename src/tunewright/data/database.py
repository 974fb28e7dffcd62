"""A SQLite database that answers queries of anybody: opened to read, by steps and sizes that are limited."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError

MOST_STEPS = 20_000_000
"""Of SQLite's machine, about a second: counted, not timed, so that a busy machine gives the same answers."""

MOST_ROWS = 10_000

MOST_FOUND_BYTES = 16 * 2**20
"""Of all that a query finds: texts and blobs by their length, a number as eight."""

_HEAP_BYTES = 256 * 2**20
"""Of SQLite in this process, also within one row, which no count of ours sees in time."""

_STEPS_AT_ONCE = 100_000
_MOST_BYTES = 1_000_000
"""Of a value, or of a query."""

_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_FORBIDDEN = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})


class Refused(Exception):
    """A query that was not answered; its text says why in few words, the same for all that share the fault."""


class Database:
    """Answers queries that read; refuses all others.

    Args:
        path: The file. It is opened read-only, and nothing in it can be changed.

    Raises:
        ConfigError: No such file, or no database.
    """

    def __init__(self, path: str) -> None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ConfigError(f"`database` must be a file. Got {path!r}. Check the path.")
        try:
            self._connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._connection.execute("PRAGMA query_only = 1")
            self._connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
        except sqlite3.Error as error:
            raise ConfigError(f"`database` must be a SQLite database. Got {path!r} ({error}).") from None
        self._connection.text_factory = lambda value: value.decode(errors="replace")
        for limit, most in (
            (sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, _MOST_BYTES),
            (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        ):
            self._connection.setlimit(limit, most)
        self._steps = 0
        self._is_denied = False
        self._connection.set_authorizer(self._allows)
        self._connection.set_progress_handler(self._count, _STEPS_AT_ONCE)

    def rows(self, query: str) -> tuple[tuple[Any, ...], ...]:
        """What a query finds.

        Raises:
            Refused: It does more than read, fails, does not end or finds too much.
        """
        self._steps, self._is_denied = 0, False
        try:
            cursor = self._connection.execute(query)
            found = tuple(_within_limits(cursor))
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError, OverflowError):
            raise Refused(self._fault()) from None
        if cursor.description is None:
            raise Refused("asked nothing")
        return found

    def _fault(self) -> str:
        if self._is_denied:
            return "did more than read and were refused"
        return "did not end in time" if self._steps > MOST_STEPS else "could not be run"

    def _allows(self, action: int, _what: str | None, detail: str | None, *_: str | None) -> int:
        """SQLite asks before each part of a query, while it is compiled: nothing has happened yet."""
        is_read = action in _READS and not (action == sqlite3.SQLITE_FUNCTION and detail in _FORBIDDEN)
        self._is_denied |= not is_read
        return sqlite3.SQLITE_OK if is_read else sqlite3.SQLITE_DENY

    def _count(self) -> int:
        self._steps += _STEPS_AT_ONCE
        return int(self._steps > MOST_STEPS)


def _within_limits(cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    """Row by row, so that what is too much is never held.

    Raises:
        Refused: Too many rows, or too many bytes in them.
    """
    num_bytes = 0
    for number, row in enumerate(cursor):
        if number == MOST_ROWS:
            raise Refused(f"found more than {MOST_ROWS} rows")
        num_bytes += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
        if num_bytes > MOST_FOUND_BYTES:
            raise Refused(f"found more than {MOST_FOUND_BYTES >> 20} MiB")
        yield row
