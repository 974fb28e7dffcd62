"""Who may ask: keys kept as hashes, each with its tasks and its rate."""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.errors import ConfigError
from tunewright.files import write_json
from tunewright.releases.entries import NAME
from tunewright.serve.faults import Fault

_PREFIX = "tw-"
_ROWS_PER_MINUTE = 600


class Entry(BaseModel):
    """One key, as the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the key; it has 256 random bits, so that a slow hash would protect nothing."""
    tasks: tuple[str, ...] | None = None
    """None for all."""
    rows_per_minute: int = Field(default=_ROWS_PER_MINUTE, ge=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[Entry, ...] = ()


@dataclass(kw_only=True, slots=True)
class Key:
    """A key in use: a bucket that holds a minute's rows and fills evenly."""

    entry: Entry
    left: float = 0.0
    at_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = float(self.entry.rows_per_minute)

    def check_task(self, task: str) -> None:
        """Refuses a task that the key is not for, whether or not there is one of that name.

        Raises:
            Fault: 403.
        """
        if not self.allows(task):
            raise Fault(403, "task_not_allowed", f"key {self.entry.name!r} is not for task {task!r}.", param="model")

    def allows(self, task: str) -> bool:
        """Whether the key is for a task."""
        return self.entry.tasks is None or task in self.entry.tasks

    def spend(self, rows: int) -> None:
        """Takes rows out of the bucket; a request of more rows than a minute has empties it.

        Raises:
            Fault: 429, with the seconds after which the bucket holds enough.
        """
        now_s, per_s = time.monotonic(), self.entry.rows_per_minute / 60
        self.left = min(float(self.entry.rows_per_minute), self.left + (now_s - self.at_s) * per_s)
        self.at_s = now_s
        wanted = min(rows, self.entry.rows_per_minute)
        if self.left < wanted:
            message = f"key {self.entry.name!r} may ask {self.entry.rows_per_minute} rows a minute. Ask again later."
            raise Fault(429, "rate_limited", message, retry_after_s=1 + (wanted - self.left) / per_s)
        self.left -= wanted


class Keys:
    """All keys of a server, by hash."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._known = {entry.sha256: Key(entry=entry) for entry in entries}

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """From a file that `tunewright key` wrote.

        Raises:
            ConfigError: No such file, not what it should be, or without a key.
        """
        entries = _read(path)
        if not entries:
            raise ConfigError(f"{path} holds no key. Make one: tunewright key NAME --file {path}")
        return cls(entries)

    def check(self, headers: Mapping[bytes, bytes]) -> Key:
        """The key of a request.

        Raises:
            Fault: 401 where there is none, or an unknown one.
        """
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        found = self._known.get(_hash(key.strip())) if kind.lower() == b"bearer" else None
        if found is None:
            message = "no valid key. Send the header `Authorization: Bearer KEY`."
            raise Fault(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})
        return found


def add_key(path: Path, name: str, *, tasks: Sequence[str] | None, rows_per_minute: int | None) -> str:
    """Makes a key and stores its hash; the key itself is returned and kept nowhere.

    Raises:
        ConfigError: The name is taken, a value is not allowed, a task cannot be called so, or the file is none.
    """
    before = _read(path) if path.exists() else ()
    if any(entry.name == name for entry in before):
        raise ConfigError(f"{path} has a key {name!r} already. Choose another name, or take it out of the file.")
    wrong = [task for task in tasks or () if not NAME.fullmatch(task)]
    if wrong:
        raise ConfigError(f"`--tasks` are names of tasks, with commas between them. Got {', '.join(map(repr, wrong))}.")
    key = _PREFIX + secrets.token_urlsafe(32)
    rate = _ROWS_PER_MINUTE if rows_per_minute is None else rows_per_minute
    try:
        entry = Entry(
            name=name, sha256=_hash(key.encode()), tasks=None if tasks is None else tuple(tasks), rows_per_minute=rate
        )
    except ValidationError as error:
        raise ConfigError([f"`{e['loc'][0]}`: {e['msg']}. Got {e['input']!r}." for e in error.errors()]) from None
    write_json(path, _File(keys=(*before, entry)).model_dump(mode="json"))
    return key


def _hash(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _read(path: Path) -> tuple[Entry, ...]:
    try:
        return _File.model_validate(json.loads(path.read_text(encoding="utf-8"))).keys
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Make it: tunewright key NAME --file {path}") from None
    except (ValueError, RecursionError):
        # What is in the file may be a key by mistake: it is not shown.
        raise ConfigError(f"{path} is no file of keys. Make one: tunewright key NAME --file {path}") from None
