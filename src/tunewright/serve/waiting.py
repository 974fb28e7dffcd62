"""Rows that wait for the base: bounded, and fair between tasks."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence

from tunewright.serve.ask import Ask
from tunewright.serve.cache import Ready
from tunewright.serve.faults import Fault

SILENT_ROWS = 8
"""Silent rows that are taken at a time: a row that somebody waits for waits for no more of them."""

_SILENT_LIMIT = 256
"""Silent rows that wait."""

_PATIENCE = 0.25
"""Of the time that the last rows took: the first client that asks again runs not alone, which costs as much as five."""

_CHARACTERS = 32 * 2**20
"""Of all rows that wait: two thousand of the longest texts would fill hundreds of megabytes."""


class Waiting:
    """A lane for each task; rows are taken in turns, one from each lane, so that no task can starve another.

    Silent rows are taken only where no others wait.

    Args:
        limit: Most rows that wait, silent ones apart.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._silent: deque[Ask] = deque()
        self._characters = 0
        self._lanes: OrderedDict[str, deque[Ask]] = OrderedDict()
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()
        self._rate = 100.0
        """Rows a second, of late."""
        self._expected, self._until_s = 0, 0.0
        """Rows that wait once the clients of the last pass have asked again; until when that is waited for."""
        self._num_passes, self._pays = 0, True
        """Whether the last such wait did, or should be tried."""

    def __len__(self) -> int:
        return self._count

    def put(self, asks: Sequence[Ask]) -> None:
        """Adds rows, all or none.

        Raises:
            Fault: 429 where there is no room, with the seconds after which there may be; 503 while the server ends.
        """
        with self._changed:
            if self._closed:
                raise Fault(503, "shutting_down", "the server is ending. Ask again in a moment.", retry_after_s=5)
            more = sum(map(_characters, asks))
            if self._count + len(asks) > self.limit or (self._count and self._characters + more > _CHARACTERS):
                busy = f"{self._count} rows wait, at most {self.limit} may, or fewer long ones. Ask again later."
                raise Fault(429, "queue_full", busy, retry_after_s=max(1, math.ceil(self._count / self._rate)))
            for ask in asks:
                self._lanes.setdefault(ask.served.task, deque()).append(ask)
            self._count += len(asks)
            self._characters += more
            self._changed.notify()

    def put_silent(self, asks: Sequence[Ask]) -> bool:
        """Adds silent rows, all or none; whether there was room."""
        with self._changed:
            has_room = not self._closed and len(self._silent) + len(asks) <= _SILENT_LIMIT
            if has_room:
                self._silent.extend(asks)
                self._changed.notify()
            return has_room

    def take(
        self, room: int, ready: Callable[[Ask], Ready | None], *, waits: bool = True, silent: bool = True
    ) -> list[tuple[Ask, Ready]] | None:
        """Up to `room` rows whose adapters are ready. None when closed and empty.

        Args:
            room: Most rows.
            ready: What a row needs to be run, None where that is still being loaded. Asked for each row taken.
            waits: Whether to wait until there is one.
            silent: Whether silent ones are taken where there are no others; never both.
        """
        with self._changed:
            if waits:
                self._gather(room)
            while True:
                found = self._pick(room, ready)
                if not found and silent:
                    found = self._pick_silent(ready)
                if found:
                    return found
                if self._closed and not self._count:
                    return None
                if not waits:
                    return []
                self._changed.wait()

    def cancel(self, asks: Iterable[Ask]) -> None:
        """Forgets rows that nobody waits for any more; those already taken run on."""
        gone = set(asks)
        with self._changed:
            for task in {ask.served.task for ask in gone} & set(self._lanes):
                left = deque(ask for ask in self._lanes[task] if ask not in gone)
                self._count -= len(self._lanes[task]) - len(left)
                self._characters -= sum(_characters(ask) for ask in self._lanes[task] if ask in gone)
                self._lanes[task] = left
            self._silent = deque(ask for ask in self._silent if ask not in gone)
            self._changed.notify()

    def note_answered(self, rows: int, seconds: float) -> None:
        """So many rows that somebody waited for have shared a pass, and are told."""
        with self._changed:
            self._rate = 0.9 * self._rate + 0.1 * rows / max(seconds, 1e-6)
            self._num_passes += 1
            patience = _PATIENCE if self._pays or self._num_passes % 8 == 0 else 0.0
            self._expected, self._until_s = self._count + rows, time.monotonic() + patience * seconds

    def wake(self) -> None:
        """An adapter has been loaded: rows may have become ready."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Takes no more rows; those that wait are still answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drop_all(self) -> list[Ask]:
        """Takes every row out at once: the time to end is over."""
        with self._changed:
            asks = [ask for lane in (*self._lanes.values(), self._silent) for ask in lane]
            self._lanes.clear()
            self._silent.clear()
            self._count = self._characters = 0
            self._changed.notify_all()
            return asks

    def _gather(self, room: int) -> None:
        """Waits a little for those who have just been answered; where they do not come, not again for a while."""
        left_s, wanted = self._until_s - time.monotonic(), min(room, self._expected)
        if left_s > 0 and self._count < wanted:
            self._pays = self._changed.wait_for(lambda: self._closed or self._count >= wanted, left_s)

    def _pick(self, room: int, ready: Callable[[Ask], Ready | None]) -> list[tuple[Ask, Ready]]:
        found: list[tuple[Ask, Ready]] = []
        blocked: set[str] = set()
        while len(found) < room and len(blocked) < len(self._lanes):
            task, lane = next(iter(self._lanes.items()))
            if not lane:
                del self._lanes[task]
                continue
            self._lanes.move_to_end(task)
            if task in blocked:
                continue
            value = ready(lane[0])
            if value is None:
                blocked.add(task)
                continue
            found.append((lane.popleft(), value))
        self._count -= len(found)
        self._characters -= sum(_characters(ask) for ask, _ in found)
        return found

    def _pick_silent(self, ready: Callable[[Ask], Ready | None]) -> list[tuple[Ask, Ready]]:
        found: list[tuple[Ask, Ready]] = []
        while self._silent and len(found) < SILENT_ROWS and (value := ready(self._silent[0])) is not None:
            found.append((self._silent.popleft(), value))
        return found


def _characters(ask: Ask) -> int:
    texts = (ask.example.text, ask.example.text_pair, *ask.example.fields.values(), *ask.example.choices)
    return sum(len(text) for text in texts if text is not None)
