"""What is said while a run goes on, to whoever listens and to the run's log."""

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Iterator
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
_PROMISE_S, _PROMISE = 10.0, 0.05
"""A budget is kept to within the larger of these seconds and this share of it."""


class OutOfTime(Exception):
    """Work was interrupted because the time for it is spent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """When a session began."""

    wall_s: float
    """By `time.monotonic`."""
    cpu_s: float
    """By `time.process_time`."""

    @classmethod
    def now(cls) -> "Start":
        """A session that begins here, in a process that does other things too."""
        return cls(wall_s=time.monotonic(), cpu_s=time.process_time())

    @classmethod
    def of_process(cls) -> "Start":
        """A process that does nothing else: imports count. As `now` where the system does not tell."""
        try:
            stat = Path("/proc/self/stat").read_text(encoding="ascii")
            ticks = int(stat.rpartition(")")[2].split()[19])
            age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        except (OSError, AttributeError, IndexError, ValueError):
            return cls.now()
        return cls(wall_s=time.monotonic() - max(0.0, age_s), cpu_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Purse:
    """The price that a run may have: of its hours, and of what it pays for elsewhere."""

    max_usd: float
    usd_per_s: float
    """Of this machine."""
    paid_usd: Callable[[], float]
    """Elsewhere, so far."""

    def left_usd(self, elapsed_s: float) -> float:
        """After so many seconds."""
        return self.max_usd - elapsed_s * self.usd_per_s - self.paid_usd()

    def share(self, elapsed_s: float, parts: int) -> "Purse":
        """For the next of so many parts of the run that share what is left."""
        left_usd = self.left_usd(elapsed_s)
        return replace(self, max_usd=self.max_usd - left_usd + max(0.0, left_usd) / parts)


class Clock:
    """Time the run has taken, over all its sessions: a resumed run has what is left, not the whole.

    Args:
        path: Where it is kept between sessions.
        budget_s: Of the whole run; None without limit.
        start: When this session began.
    """

    def __init__(self, path: Path, budget_s: float | None, start: Start) -> None:
        self._path, self.budget_s, self._start = path, budget_s, start
        kept = read_json(path) if path.exists() else {}
        self._before_s, self._cpu_before_s = float(kept.get("elapsed_s", 0.0)), float(kept.get("cpu_s", 0.0))
        self.test_s: dict[str, float] = dict(kept.get("test_s", {}))
        """`candidate/seed` -> seconds of its pass over the test rows; a base's name -> of its bare features of them."""
        self._beaten, self._stop_at = time.monotonic(), math.inf
        self.purse: Purse | None = None
        """What limits the run beside its time."""

    @property
    def elapsed_s(self) -> float:
        """Seconds of all sessions so far."""
        return self._before_s + time.monotonic() - self._start.wall_s

    @property
    def cpu_s(self) -> float:
        """Seconds of all cores and sessions so far."""
        return self._cpu_before_s + time.process_time() - self._start.cpu_s

    @property
    def slowdown(self) -> float:
        """How many seconds one of a single core has taken so far: above 1 where others use the machine too."""
        cpu_s = time.process_time() - self._start.cpu_s
        return max(1.0, (time.monotonic() - self._start.wall_s) / max(cpu_s, 1e-3))

    @property
    def left_s(self) -> float:
        """Seconds to the end of the budget; infinite without one. What is paid elsewhere takes its worth of them."""
        time_s = math.inf if self.budget_s is None else self.budget_s - self.elapsed_s
        return time_s if self.purse is None else min(time_s, self.purse.left_usd(self.elapsed_s) / self.purse.usd_per_s)

    @property
    def left_usd(self) -> float:
        """Of the money; infinite where it does not limit the run."""
        return math.inf if self.purse is None else self.purse.left_usd(self.elapsed_s)

    def worth_s(self, usd: float) -> float:
        """Seconds of this machine for so much; 0 where money does not limit the run."""
        return 0.0 if self.purse is None else usd / self.purse.usd_per_s

    @property
    def grace_s(self) -> float:
        """Seconds after the budget that what a decision cannot do without may take: half of what is promised."""
        return 0.0 if self.budget_s is None else max(_PROMISE_S, _PROMISE * self.budget_s) / 2

    @contextlib.contextmanager
    def bounded(self, allowed_s: float) -> Iterator[None]:
        """Work in here is interrupted by `check` when it takes longer."""
        before, self._stop_at = self._stop_at, min(self._stop_at, time.monotonic() + allowed_s)
        try:
            yield
        finally:
            self._stop_at = before

    @property
    def is_out(self) -> bool:
        """Whether the work around has had its time."""
        return time.monotonic() > self._stop_at

    def check(self) -> None:
        """Called between the batches of long work.

        Raises:
            OutOfTime: The work around has had its time.
        """
        self.beat()
        if self.is_out:
            raise OutOfTime

    def share(self, parts: int) -> "Clock":
        """The same clock for the next of so many parts of the run that share what is left, of time and of money."""
        part = copy.copy(self)
        if self.budget_s is not None:
            part.budget_s = self.elapsed_s + max(0.0, self.left_s) / parts
        if self.purse is not None:
            part.purse = self.purse.share(self.elapsed_s, parts)
        return part

    def beat(self) -> None:
        """Keeps the time on disk, every few seconds."""
        if time.monotonic() - self._beaten >= _BEAT_S:
            self.save()

    def save(self) -> None:
        """Keeps the time on disk now."""
        self._beaten = time.monotonic()
        kept = {"elapsed_s": round(self.elapsed_s, 3), "cpu_s": round(self.cpu_s, 3), "test_s": self.test_s}
        write_json(self._path, kept)
