"""What an endpoint answered, as it is read and kept: nothing that was paid for is asked for again.

The cache is one SQLite file for all runs; a run keeps its own answers too, so that it goes on without it. A key is a
hash of everything that is sent, and where to; of an answer there is its text, the probabilities that were told, and
what it was billed for.
"""

import contextlib
import dataclasses
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.backbones.base import FinishReason
from tunewright.backbones.heard import Usage
from tunewright.errors import RunError

MOST_BYTES = 2**30
"""Of the cache; beyond them the oldest quarter of the answers goes."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
_AT_ONCE = 500
"""Keys of a query."""


class BrokenReply(ValueError):
    """An answer that is none: no JSON, no choice in it, no usage.

    Args:
        why: What is wrong with it.
        usage: What it is billed for, where it says so all the same.
    """

    def __init__(self, why: str, usage: Usage | None = None) -> None:
        super().__init__(why)
        self.usage = usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A token of an answer, with what could have stood there."""

    text: str
    log_prob: float
    top: tuple[tuple[str, float], ...]
    """Token and log-probability, the likeliest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer."""

    text: str
    finish_reason: FinishReason
    tokens: tuple[Told, ...] = ()
    """Empty where no probabilities are told."""
    usage: Usage
    waited_ms: float
    """For the answer when it was asked for, retries left out."""


def read_reply(body: str, waited_ms: float) -> Reply:
    """From the body of an answer of chat/completions or completions.

    Raises:
        BrokenReply: With what is wrong with it.
    """
    try:
        content = json.loads(body)
    except ValueError:
        raise BrokenReply("its answer is no JSON") from None
    try:
        if not content["choices"]:
            raise BrokenReply("its answer has no choices", _billed(content))
        choice = content["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Reply(
            text="" if text is None else str(text),
            finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
            tokens=tuple(_told(choice.get("logprobs"))),
            usage=_usage(content["usage"]),
            waited_ms=waited_ms,
        )
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, BrokenReply):
            raise
        raise BrokenReply(f"its answer is not as OpenAI's: {error!r}", _billed(content)) from None


def _billed(content: Any) -> Usage | None:
    """Of an answer that cannot be read."""
    try:
        return _usage(content["usage"])
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def _usage(content: Mapping[str, Any]) -> Usage:
    details = content.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=int(content["prompt_tokens"]),
        cached_tokens=int(details.get("cached_tokens") or 0),
        output_tokens=int(content.get("completion_tokens") or 0),
    )


def _told(content: Mapping[str, Any] | None) -> Iterator[Told]:
    """Of chat/completions a list of tokens, of completions lists beside each other; none without alternatives."""
    if not content:
        return
    if "tokens" in content:
        tops = [list(top.items()) for top in content.get("top_logprobs") or ()]
        tokens = zip(content["tokens"], content["token_logprobs"], tops, strict=False)
    else:
        tokens = (  # type: ignore[assignment]
            (each["token"], each["logprob"], [(top["token"], top["logprob"]) for top in each["top_logprobs"]])
            for each in content["content"] or ()
        )
    for text, log_prob, top in tokens:
        ranked = sorted(((str(t), float(p)) for t, p in top), key=lambda pair: -pair[1])
        if ranked:
            yield Told(text=str(text), log_prob=float(log_prob), top=tuple(ranked))


def cache_path() -> Path:
    """`TUNEWRIGHT_CACHE`, or a folder of the user's cache."""
    named = os.environ.get("TUNEWRIGHT_CACHE")
    if named is not None:
        return Path(named) / "answers.sqlite"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path.home() / ".cache" if home is None else Path(home)) / "tunewright" / "answers.sqlite"


class Cache:
    """Answers on disk, shared by all processes.

    Args:
        path: The file; it appears with the first answer.
        most_bytes: That its answers may take.
        kept: A run's own file of all that it was answered, of any size.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES, *, kept: Path | None = None) -> None:
        self._path, self._most_bytes, self._kept = path, most_bytes, kept
        self._keeps = False

    def keep(self, replies: Mapping[str, Reply]) -> None:
        """From here on the run has its folder: what it is answered, and was so far, is kept there."""
        self._keeps = self._kept is not None
        self._note(replies)

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Those of the answers that are there.

        Raises:
            RunError: A broken file.
        """
        own = {} if self._kept is None else _read(self._kept, keys)
        shared = _read(self._path, [key for key in keys if key not in own])
        self._note(shared)
        return own | shared

    def put(self, key: str, reply: Reply) -> None:
        """Keeps an answer, on disk before it returns.

        Raises:
            RunError: A file that cannot be written.
        """
        self._note({key: reply})
        with _opened(self._path) as db:
            _write(db, {key: reply})
            if _used_bytes(db) > self._most_bytes:
                oldest = "SELECT rowid FROM answers ORDER BY rowid LIMIT (SELECT 1 + count(*) / 4 FROM answers)"
                db.execute(f"DELETE FROM answers WHERE rowid IN ({oldest})")

    def _note(self, replies: Mapping[str, Reply]) -> None:
        if self._keeps and self._kept is not None and replies:
            with _opened(self._kept) as db:
                _write(db, replies)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
            path.chmod(0o600)  # answers may say as much as the texts
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(_SCHEMA)
            yield db
    except (sqlite3.Error, OSError) as error:
        raise RunError(
            f"cannot use the cache of answers {path}: {error}. Mend or remove it; that of all runs is in the folder "
            "that TUNEWRIGHT_CACHE names."
        ) from None


def _read(path: Path, keys: Sequence[str]) -> dict[str, Reply]:
    """Those of the answers that a file has, if it is there."""
    found: dict[str, Reply] = {}
    unique = list(dict.fromkeys(keys))
    if not unique or not path.exists():
        return found
    with _opened(path) as db:
        for start in range(0, len(unique), _AT_ONCE):
            some = unique[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = db.execute(f"SELECT key, reply FROM answers WHERE key IN ({marks})", some)
            replies = ((str(key), _from_json(reply)) for key, reply in rows)
            found |= {key: reply for key, reply in replies if reply is not None}
    return found


def _write(db: sqlite3.Connection, replies: Mapping[str, Reply]) -> None:
    lines = [(key, json.dumps(dataclasses.asdict(reply))) for key, reply in replies.items()]
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", lines)
    db.execute("COMMIT")


def _used_bytes(db: sqlite3.Connection) -> int:
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (pages - free) * size


def _from_json(text: str) -> Reply | None:
    """A kept answer; None of what is damaged, or kept in another form: it is asked for again."""
    try:
        content = json.loads(text)
        tokens = tuple(
            Told(text=str(each["text"]), log_prob=float(each["log_prob"]), top=tuple((t, p) for t, p in each["top"]))
            for each in content["tokens"]
        )
        return Reply(**{**content, "tokens": tokens, "usage": Usage(**content["usage"])})
    except (KeyError, TypeError, ValueError):
        return None
