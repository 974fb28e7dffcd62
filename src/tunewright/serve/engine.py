"""The one thread that owns the bases: admit what waits, run it, tell what came of it.

Shapes: B rows, D width, C labels.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Encoding, Row
from tunewright.errors import DataError, OutOfMemory, TunewrightError
from tunewright.runtime import is_out_of_memory
from tunewright.serve.ask import Ask, Event, Features, Label, Told, Usage
from tunewright.serve.cache import Cache, Ready
from tunewright.serve.faults import Fault
from tunewright.serve.passes import split_by_length
from tunewright.serve.waiting import Waiting

_LOG = logging.getLogger("tunewright.serve")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Work:
    """A row that is ready to run."""

    ask: Ask
    row: Row
    backbone: Backbone

    @property
    def num_tokens(self) -> int:
        """Positions it takes."""
        return len(self.row.encoding.ids) + self.row.adapter.prefix_tokens


class Engine:
    """Runs rows of any mixture of tasks in one batch.

    Args:
        cache: Adapters and bases.
        waiting: Where rows wait.
        tell: Called on this thread with what became of the rows of each pass.
        max_batch: Most rows of a pass.
        note_batch: Called with the rows and the tokens of each pass, padding left out.
    """

    def __init__(
        self,
        cache: Cache,
        waiting: Waiting,
        tell: Callable[[Told], None],
        *,
        max_batch: int,
        note_batch: Callable[[int, int], None] = lambda _rows, _tokens: None,
    ) -> None:
        self._cache, self._waiting, self._tell = cache, waiting, tell
        self._max_batch, self._note_batch = max_batch, note_batch
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

    def _loop(self) -> None:
        while (found := self._waiting.take(self._max_batch, self._ready)) is not None:
            start_s = time.monotonic()
            self._step(found)
            self._waiting.note_rate(len(found), time.monotonic() - start_s)

    def _ready(self, ask: Ask) -> Ready | None:
        return self._cache.get(ask.served)

    def _step(self, found: Sequence[tuple[Ask, Ready]]) -> None:
        told: list[tuple[Ask, Event]] = [(ask, it) for ask, it in found if isinstance(it, TunewrightError)]
        ready = [(ask, it) for ask, it in found if not isinstance(it, TunewrightError)]
        work: list[_Work] = []
        for backbone in {id(it.backbone): it.backbone for _, it in ready}.values():
            try:
                work += _encoded(backbone, [(ask, it.adapter) for ask, it in ready if it.backbone is backbone], told)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any row
                _LOG.exception("a batch could not be tokenised")
                told += [(ask, error) for ask, it in ready if it.backbone is backbone]
        if told:
            self._tell(told)
        for backbone in {id(w.backbone): w.backbone for w in work}.values():
            mine = [w for w in work if w.backbone is backbone]
            for members in split_by_length([w.num_tokens for w in mine]):
                self._tell(self._run([mine[k] for k in members]))

    def _run(self, work: Sequence[_Work]) -> Told:
        """One pass; where it fails, each of its adapters alone, so that a broken one harms nobody else."""
        self._note_batch(len(work), sum(w.num_tokens for w in work))
        try:
            return _answers(work)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any row
            groups: dict[int, list[_Work]] = {}
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


def _encoded(backbone: Backbone, asked: Sequence[tuple[Ask, Adapter]], told: list[tuple[Ask, Event]]) -> list[_Work]:
    """The rows, tokenised together; those that do not fit their task are told at once."""
    work: list[_Work] = []
    for paired in (False, True):
        some = [(ask, adapter) for ask, adapter in asked if (ask.example.text_pair is not None) == paired]
        # Most texts are short: all are tokenised at once, and again those that are longer than their task takes.
        encodings = backbone.encode([ask.example for ask, _ in some], backbone.max_tokens)
        for (ask, adapter), encoding in zip(some, encodings, strict=True):
            try:
                work.append(_work(ask, adapter, encoding, backbone))
            except (Fault, DataError) as error:
                told.append((ask, error))
    return work


def _work(ask: Ask, adapter: Adapter, encoding: Encoding, backbone: Backbone) -> _Work:
    columns = adapter.about.get("columns")
    if columns is not None and ("text_pair" in columns) != (ask.example.text_pair is not None):
        wanted = "two texts" if "text_pair" in columns else "one text, not two"
        raise Fault(400, "wrong_number_of_texts", f"task {ask.served.task} takes {wanted}.", param="text_pair")
    limit = adapter.max_tokens - adapter.prefix_tokens
    if len(encoding.ids) > limit:
        encoding = backbone.encode([ask.example], limit)[0]
    if encoding.num_cut and not ask.may_cut:
        got = f"Got {len(encoding.ids) + encoding.num_cut}. Shorten it."
        message = f"a text of task {ask.served.task} has at most {limit} tokens. {got}"
        raise Fault(400, "context_length_exceeded", message)
    return _Work(ask=ask, row=Row(encoding=encoding, adapter=adapter), backbone=backbone)


def _answers(work: Sequence[_Work]) -> list[tuple[Ask, Event]]:
    """What one pass says, features made once for all that need them."""
    backbone = work[0].backbone
    needed = [k for k, w in enumerate(work) if w.ask.wants == "features" or w.row.adapter.needs_features]
    features_BD = torch.zeros(len(work), backbone.width)
    events: list[Event | None] = [None] * len(work)
    with torch.inference_mode():
        if needed:
            found = backbone.features([work[k].row for k in needed])
            features_BD = features_BD.to(found.device)
            features_BD[needed] = found
        groups: dict[int, list[int]] = {}
        for k, w in enumerate(work):
            if w.ask.wants == "features":
                events[k] = _features(features_BD[k], w)
            else:
                groups.setdefault(id(w.row.adapter), []).append(k)
        for members in groups.values():
            adapter = work[members[0]].row.adapter
            logits_BC = backbone.answer(adapter, features_BD[members]).float().cpu()
            # The label is that of the logits themselves, as in `inference.answer`.
            probabilities_BC = (logits_BC.double() / adapter.temperature).softmax(-1)
            rows = zip(members, logits_BC.argmax(-1).tolist(), probabilities_BC.tolist(), strict=True)
            for k, label, probabilities in rows:
                events[k] = _label(work[k], label, probabilities)
    return [(w.ask, event) for w, event in zip(work, events, strict=True) if event is not None]


def _label(work: _Work, label: int, probabilities: list[float]) -> Event:
    if not all(map(math.isfinite, probabilities)):
        return _not_finite(work)
    labels = work.row.adapter.labels
    return Label(label=labels[label], labels=labels, probabilities=tuple(probabilities), usage=_usage(work))


def _features(values_D: Tensor, work: _Work) -> Event:
    if not torch.isfinite(values_D).all():
        return _not_finite(work)
    return Features(values=tuple(values_D.tolist()), usage=_usage(work))


def _not_finite(work: _Work) -> Fault:
    _LOG.error("task %s answered with values that are not finite", work.ask.served.task)
    return Fault(500, "not_finite", "the task's answer is not finite. Ask who runs the server.")


def _usage(work: _Work) -> Usage:
    encoding = work.row.encoding
    return Usage(text_tokens=len(encoding.ids), prefix_tokens=work.row.adapter.prefix_tokens, num_cut=encoding.num_cut)
