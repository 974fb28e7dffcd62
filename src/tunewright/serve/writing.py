"""Rows that are answered in text: they join a decoder's running batch, get a token with each step, and leave."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch

from tunewright.adapters.parts import Decoding
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Request, row_generator
from tunewright.backbones.stepwise import Emitted, Stepwise
from tunewright.errors import ModelError
from tunewright.serve.ask import Ask, Event, Piece, Sampling, Told
from tunewright.serve.faults import Fault
from tunewright.serve.work import Work, usage_of

_LOG = logging.getLogger("tunewright.serve")


class Writing:
    """All rows that are being answered in text, of any mixture of tasks and bases.

    Args:
        most_bytes: Of their keys and values at their full length: a row joins when there is room, and one alone always.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._running: dict[int, tuple[Backbone, Stepwise]] = {}
        """By the identity of the base, which is held here as long as rows run on it."""
        self._work: dict[Ask, Work] = {}
        self._pending: deque[Work] = deque()
        """Rows for which there is no room yet, the first come first."""

    def __len__(self) -> int:
        """Rows."""
        return len(self._work) + len(self._pending)

    def add(self, work: Sequence[Work]) -> Told:
        """Rows join, or wait for room; those that cannot are told at once."""
        self._pending.extend(work)
        return self._admit()

    def _admit(self) -> Told:
        told: list[tuple[Ask, Event]] = []
        some = self._that_fit()
        for backbone in {id(w.backbone): w.backbone for w in some}.values():
            mine = [w for w in some if w.backbone is backbone]
            told += _refused([w for w in mine if w.row.adapter.deliberates], ModelError(_NOT_AT_ONCE))
            mine = [w for w in mine if not w.row.adapter.deliberates]
            told += self._join(backbone, mine)
        return told

    def _that_fit(self) -> list[Work]:
        """Of those that wait; each row counts with the tokens of the longest, as their keys and values are kept."""
        found: list[Work] = []
        count, longest_bytes = len(self._work), max(map(_full_bytes, self._work.values()), default=0)
        while self._pending:
            longest_bytes = max(longest_bytes, _full_bytes(self._pending[0]))
            if count and (count + 1) * longest_bytes > self._most_bytes:
                break
            found.append(self._pending.popleft())
            count += 1
        return found

    def step(self) -> Told:
        """One more token for each row; where a step fails, all rows of its base are told."""

        def step(backbone: Backbone, generating: Stepwise) -> Told:
            found = [(self._work[e.id], e) for e in generating.step() if isinstance(e.id, Ask)]
            told = [(w.ask, _piece(w, backbone, emitted)) for w, emitted in found]
            self._forget([w.ask for w, emitted in found if emitted.finish_reason is not None])
            return told

        return [*self._admit(), *self._on_each(step)]

    def remove(self, asks: Collection[Ask]) -> Told:
        """Rows leave that nobody waits for any more; where that fails, all rows of their base are told."""
        gone = [ask for ask in asks if ask in self._work]
        if asks:
            self._pending = deque(w for w in self._pending if w.ask not in asks)
        self._forget(gone)

        def remove(_: Backbone, generating: Stepwise) -> Told:
            generating.remove(gone)
            return []

        return self._on_each(remove)

    def _on_each(self, work: Callable[[Backbone, Stepwise], Told]) -> Told:
        """What is told of all bases; one on which the work fails, or on which no row is left, runs no more."""
        told: list[tuple[Ask, Event]] = []
        for key, (backbone, generating) in list(self._running.items()):
            try:
                told += work(backbone, generating)
                is_over = not len(generating)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any row
                _LOG.exception("generation failed")
                lost = [ask for ask, w in self._work.items() if w.backbone is backbone]
                self._forget(lost)
                told, is_over = [*told, *((ask, error) for ask in lost)], True
            if is_over:
                del self._running[key]
        return told

    def _join(self, backbone: Backbone, work: Sequence[Work]) -> Told:
        """Where the rows cannot join together, each joins alone, so that a broken one harms nobody else."""
        try:
            if id(backbone) not in self._running:
                generating = backbone.generating()
                if generating is None:
                    return _refused(work, Fault(400, "not_token_by_token", _NO_DECODER))
                self._running[id(backbone)] = (backbone, generating)
            requests = [_request(w) for w in work]
            self._running[id(backbone)][1].add(requests)
        except ModelError as error:
            return [(w.ask, error) for w in work]
        except Exception as error:  # noqa: BLE001 - the thread must outlive any row
            if len(work) > 1:
                return [each for w in work for each in self._join(backbone, [w])]
            _LOG.exception("a row of task %s cannot be answered", work[0].ask.served.task)
            return [(work[0].ask, error)]
        self._work.update({w.ask: w for w in work})
        return []

    def _forget(self, asks: Sequence[Ask]) -> None:
        for ask in asks:
            del self._work[ask]


def decoding_of(work_decoding: Decoding | None, sampling: Sampling | None) -> Decoding:
    """As the adapter says it, but for what the request says."""
    own = Decoding() if work_decoding is None else work_decoding
    if sampling is None:
        return own
    asked = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": None if sampling.stop is None else (*own.stop, *sampling.stop),
    }
    return replace(own, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]


def _full_bytes(work: Work) -> int:
    """Of the keys and values of a row that has got all the tokens it may get, its prefix apart."""
    backbone = work.backbone
    own = decoding_of(work.row.adapter.decoding, work.ask.sampling)
    tokens = min(len(work.row.encoding.ids) + own.max_new_tokens, backbone.max_tokens)
    return tokens * backbone.kept_values * backbone.dtype.itemsize


def _request(work: Work) -> Request:
    ask = work.ask
    decoding = decoding_of(work.row.adapter.decoding, ask.sampling)
    generator = None
    if decoding.temperature > 0:
        if ask.sampling is None or ask.sampling.seed is None:
            generator = torch.Generator()
            generator.seed()
        else:
            generator = row_generator(work.row.encoding, ask.sampling.seed)
    return Request(id=ask, row=work.row, decoding=decoding, generator=generator)


def _piece(work: Work, backbone: Backbone, emitted: Emitted) -> Piece:
    return Piece(
        text=emitted.text,
        token=backbone.words([emitted.token])[0],
        log_prob=emitted.log_prob,
        finish_reason=emitted.finish_reason,
        usage=usage_of(work),
    )


_NO_DECODER = "only a decoder is served token by token. Use `tunewright predict`, or a task on a decoder."
_NOT_AT_ONCE = "a task that reasons or votes first is not answered token by token. Use `tunewright predict`."


def _refused(work: Sequence[Work], why: Exception) -> Told:
    return [(w.ask, why) for w in work]
