"""The one thread that owns the bases: admit what waits, run it, tell what came of it.

Shapes: B rows, D width, C labels.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tunewright.backbones.tokens import by_length
from tunewright.errors import OutOfMemory, TunewrightError
from tunewright.runtime import is_out_of_memory
from tunewright.serve.ask import Ask, Event, Features, Label, Piece, Told
from tunewright.serve.cache import Cache, Loaded, Ready
from tunewright.serve.faults import Fault
from tunewright.serve.passes import split_by_length
from tunewright.serve.waiting import SILENT_ROWS, Waiting
from tunewright.serve.work import Work, prepare, usage_of, writes
from tunewright.serve.writing import Writing
from tunewright.types import whole_text

_LOG = logging.getLogger("tunewright.serve")


class Engine:
    """Runs rows of any mixture of tasks in one batch.

    Args:
        cache: Adapters and bases.
        waiting: Where rows wait.
        tell: Called on this thread with what became of the rows of each pass.
        max_batch: Most rows of a pass.
        text_cache_bytes: Of the keys and values of rows that are answered in text.
        note_batch: Called with the rows and the tokens of each pass, padding left out.
    """

    def __init__(
        self,
        cache: Cache,
        waiting: Waiting,
        tell: Callable[[Told], None],
        *,
        max_batch: int,
        text_cache_bytes: int = 2**30,
        note_batch: Callable[[int, int], None] = lambda _rows, _tokens: None,
    ) -> None:
        self._cache, self._waiting, self._tell = cache, waiting, tell
        self._max_batch, self._note_batch = max_batch, note_batch
        self._writing, self._silent = Writing(text_cache_bytes), Writing(text_cache_bytes)
        """Rows that are answered in text: those that somebody waits for, and those that go on while there are none."""
        self._free: dict[bool, int] = {}
        """Places for more of them, silent or not."""
        self._lock = threading.Lock()
        self._gone: set[Ask] = set()
        """Rows that nobody waits for any more."""
        self._thread = threading.Thread(target=self._loop, name="tunewright-engine", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Answers what waits, for at most so long, and ends."""
        self._waiting.close()
        self._thread.join(timeout_s)
        ended = Fault(503, "shutting_down", "the server has ended.", retry_after_s=5)
        self._tell([(ask, ended) for ask in self._waiting.drop_all()])
        self._cache.close()

    @property
    def is_alive(self) -> bool:
        """Whether rows are being answered."""
        return self._thread.is_alive()

    def cancel(self, asks: Sequence[Ask]) -> None:
        """Forgets rows that nobody waits for any more."""
        self._waiting.cancel(asks)
        with self._lock:
            self._gone.update(asks)

    def _loop(self) -> None:
        """Admit, run, write one token more, tell; again."""
        while True:
            is_idle = not len(self._writing)
            self._free = {False: self._max_batch - len(self._writing), True: SILENT_ROWS - len(self._silent)}
            waits = is_idle and not len(self._silent)
            found = self._waiting.take(self._max_batch, self._ready, waits=waits, silent=is_idle)
            if found is None and is_idle:
                return
            if found:
                self._guarded(found)
            with self._lock:
                gone, self._gone = self._gone, set()
            self._tell([*self._writing.remove(gone), *self._silent.remove(gone)])
            self._tell((self._writing if len(self._writing) else self._silent).step())

    def _guarded(self, found: Sequence[tuple[Ask, Ready]]) -> None:
        """Runs rows; whatever goes wrong, the thread goes on, and nobody waits in vain."""
        try:
            self._step(found)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any row
            _LOG.exception("a batch failed")
            self._tell([(ask, error) for ask, _ in found])

    def _ready(self, ask: Ask) -> Ready | None:
        """What a row runs on; None also where it is to be answered in text and all places are taken."""
        found = self._cache.get(ask.served)
        if isinstance(found, Loaded) and writes(ask, found.adapter):
            if self._free[ask.is_silent] <= 0:
                return None
            self._free[ask.is_silent] -= 1
        return found

    def _step(self, found: Sequence[tuple[Ask, Ready]]) -> None:
        told: list[tuple[Ask, Event]] = [(ask, it) for ask, it in found if isinstance(it, TunewrightError)]
        ready = [(ask, it) for ask, it in found if not isinstance(it, TunewrightError)]
        work: list[Work] = []
        for backbone in {id(it.backbone): it.backbone for _, it in ready}.values():
            work += prepare(backbone, [(ask, it.adapter) for ask, it in ready if it.backbone is backbone], told)
        texts = [w for w in work if writes(w.ask, w.row.adapter)]
        writing = self._silent if found[0][0].is_silent else self._writing
        told += writing.add([w for w in texts if w.row.adapter.floor is None])
        told += [(w.ask, _by_floor(w)) for w in texts if w.row.adapter.floor is not None]
        work = [w for w in work if not writes(w.ask, w.row.adapter)]
        self._tell(told)
        for backbone in {id(w.backbone): w.backbone for w in work}.values():
            mine = [w for w in work if w.backbone is backbone]
            split = by_length if mine[0].is_packed else split_by_length
            for members in split([w.num_tokens for w in mine]):
                start_s = time.monotonic()
                self._tell(self._run([mine[k] for k in members]))
                if not mine[0].ask.is_silent:
                    self._waiting.note_answered(len(members), time.monotonic() - start_s)

    def _run(self, work: Sequence[Work]) -> Told:
        """One pass; where it fails, each of its adapters alone, so that a broken one harms nobody else."""
        self._note_batch(len(work), sum(w.num_tokens for w in work))
        try:
            return _answers(work)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any row
            groups: dict[int, list[Work]] = {}
            for w in work:
                groups.setdefault(id(w.row.adapter), []).append(w)
            if len(groups) > 1:
                return [each for mine in groups.values() for each in self._run(mine)]
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                if len(work) > 1:
                    half = len(work) // 2
                    return [*self._run(work[:half]), *self._run(work[half:])]
                return [(work[0].ask, OutOfMemory("a single row does not fit in memory."))]
            _LOG.exception("a pass of task %s failed", work[0].ask.served.task)
            return [(w.ask, error) for w in work]


def _by_floor(work: Work) -> Event:
    """A text that needs no base, in one piece."""
    floor = work.row.adapter.floor
    assert floor is not None
    (text,) = floor.answers([whole_text(work.ask.example)])
    return Piece(text=text, token=text, log_prob=0.0, finish_reason="stop", usage=usage_of(work))


def _answers(work: Sequence[Work]) -> list[tuple[Ask, Event]]:
    """What one pass says, read once for all that need it."""
    backbone = work[0].backbone
    needed = [k for k, w in enumerate(work) if w.ask.wants == "features" or w.row.adapter.needs_features]
    readings = {k: torch.zeros(backbone.width) for k in range(len(work))}
    events: dict[int, Event] = {}
    with torch.no_grad():
        if needed:
            readings |= zip(needed, backbone.readings([work[k].row for k in needed]), strict=True)
        groups: dict[int, list[int]] = {}
        for k, w in enumerate(work):
            if w.ask.wants == "features":
                width = backbone.feature_width(w.row.adapter.each[0])
                events[k] = _features(readings[k][:width], w)
            else:
                groups.setdefault(id(w.row.adapter), []).append(k)
        for members in groups.values():
            adapter = work[members[0]].row.adapter
            logits_BC = backbone.answer(adapter, torch.stack([readings[k] for k in members])).float().cpu()
            # The label is that of the logits themselves, as in `inference.answer`.
            probabilities_BC = (logits_BC.double() / adapter.temperature).softmax(-1)
            rows = zip(members, logits_BC.argmax(-1).tolist(), probabilities_BC.tolist(), strict=True)
            for k, label, probabilities in rows:
                events[k] = _label(work[k], label, probabilities)
    return [(w.ask, events[k]) for k, w in enumerate(work)]


def _label(work: Work, label: int, probabilities: list[float]) -> Event:
    if not all(map(math.isfinite, probabilities)):
        return _not_finite(work)
    labels = work.row.adapter.labels
    return Label(label=labels[label], labels=labels, probabilities=tuple(probabilities), usage=usage_of(work))


def _features(values_D: Tensor, work: Work) -> Event:
    if not torch.isfinite(values_D).all():
        return _not_finite(work)
    return Features(values=tuple(values_D.tolist()), usage=usage_of(work))


def _not_finite(work: Work) -> Fault:
    _LOG.error("task %s answered with values that are not finite", work.ask.served.task)
    return Fault(500, "not_finite", "the task's answer is not finite. Ask who runs the server.")
