"""Errors that are the user's to mend: one line saying what, got, allowed and what to do.

    TunewrightError                 exit code 2
    |-- DataError                   the file, its columns, its labels
    |-- ConfigError                 flags and YAML; lists every fault at once
    |-- ModelError                  a model folder or name
    |   `-- EndpointError           a model elsewhere does not answer
    |-- AdapterError                an adapter folder, or an adapter on another base
    |-- RunError                    the run folder: exists, is none, disk full
    |-- StateError                  the registry's database: locked, gone, no database
    |-- VectorStoreError            the server that searches demonstrations or passages: gone, or without them
    |-- RegistryError               a task or version that is none, a promotion that is refused
    `-- OutOfMemory                 even one row at a time does not fit

A mistake of ours is an `assert` or an ordinary exception and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Sequence

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class TunewrightError(Exception):
    """Base of all errors that the command line prints as one line."""


class DataError(TunewrightError):
    """The data cannot be used as it is."""


class ConfigError(TunewrightError):
    """Settings are wrong. `faults` holds one line for each."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class ModelError(TunewrightError):
    """The base model cannot be loaded or is of the wrong kind."""


class EndpointError(ModelError):
    """A model elsewhere does not answer, or not with what was asked for."""


class AdapterError(TunewrightError):
    """The adapter cannot be loaded, or not onto this base."""


class RunError(TunewrightError):
    """The run folder cannot be used."""


class StateError(TunewrightError):
    """The registry's database cannot be used, now or at all; nothing of what was asked is stored."""


class VectorStoreError(TunewrightError):
    """A server of vectors cannot be used, now or at all."""


class RegistryError(TunewrightError):
    """What is asked of the registry is not possible."""


class OutOfMemory(TunewrightError):
    """A single row does not fit in memory."""


def unknown(what: str, got: str, allowed: Iterable[str], *, todo: str = "") -> str:
    """One line for a name that is not known: what, got, the nearest name, what is allowed."""
    names = list(allowed)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    tail = f" {todo}" if todo else ""
    return f"unknown {what} {got!r}.{hint} Allowed: {', '.join(names)}.{tail}"


def counted(count: float, one: str, many: str | None = None) -> str:
    """A count with what is counted: `1 row`, `2,000 rows`, `1 row stands`, `0.5 points`."""
    return f"{count:,.10g} {one if count == 1 else f'{one}s' if many is None else many}"
