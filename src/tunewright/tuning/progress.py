"""What is said while a run goes on, to whoever listens and to the run's log."""

import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tunewright.files import disk_errors, read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Where the run is."""

    phase: str
    """`search`, `refit` or `test`."""
    done: int
    total: int | None
    """None where time alone decides."""
    candidate: str
    trial: str
    """Such as `trial 3` or `seed 1`."""
    epochs: float = 0.0
    """Done in this trial."""
    dev: float | None = None
    """Best value so far in this trial."""
    left_s: float | None = None
    """Time left of the budget; None without one."""

    def moved(self, epochs: float, dev: float | None, left_s: float) -> "Step":
        """The same step, further on."""
        return replace(self, epochs=epochs, dev=dev, left_s=None if math.isinf(left_s) else left_s)


class Listener(Protocol):
    """A terminal, a notebook or nobody."""

    def note(self, message: str) -> None:
        """One line worth keeping."""
        ...

    def step(self, step: Step) -> None:
        """Something moved; called often."""
        ...


class Silent:
    """Nobody listens."""

    def note(self, message: str) -> None:
        """Nothing."""

    def step(self, step: Step) -> None:
        """Nothing."""


class Journal:
    """Notes go to the listener and to `log.txt`.

    Args:
        path: The log.
        listener: Who hears it at once.
    """

    def __init__(self, path: Path, listener: Listener) -> None:
        self._path, self._listener = path, listener

    def note(self, message: str) -> None:
        """Says and writes one line."""
        self._listener.note(message)
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {message}\n")

    def step(self, step: Step) -> None:
        """Passes it on."""
        self._listener.step(step)


_BEAT_S = 2.0


class Clock:
    """Time the run has taken, over all its sessions: a resumed run has what is left, not the whole.

    Args:
        path: Where it is kept between sessions.
        budget_s: Of the whole run; None without limit.
        begun: When this session began, by `time.monotonic`.
    """

    def __init__(self, path: Path, budget_s: float | None, begun: float) -> None:
        self._path, self.budget_s = path, budget_s
        self._before_s = float(read_json(path)["elapsed_s"]) if path.exists() else 0.0
        self._start, self._beaten = begun, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of all sessions so far."""
        return self._before_s + time.monotonic() - self._start

    @property
    def left_s(self) -> float:
        """Seconds to the end of the budget; infinite without one."""
        return float("inf") if self.budget_s is None else self.budget_s - self.elapsed_s

    def until(self, budget_s: float | None) -> "Clock":
        """The same clock for a part of the run that has to end earlier."""
        part = copy.copy(self)
        part.budget_s = budget_s
        return part

    def beat(self) -> None:
        """Keeps the time on disk, every few seconds."""
        if time.monotonic() - self._beaten >= _BEAT_S:
            self.save()

    def save(self) -> None:
        """Keeps the time on disk now."""
        self._beaten = time.monotonic()
        write_json(self._path, {"elapsed_s": round(self.elapsed_s, 3)})
