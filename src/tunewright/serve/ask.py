"""One row on its way through the server, and what comes back for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunewright.serve.tasks import Served
from tunewright.types import Example

Wanted = Literal["answer", "features"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one row."""

    text_tokens: int
    prefix_tokens: int
    """Before the text: of a soft prompt, a prefix, a fixed text."""
    num_cut: int
    """Tokens of the text that did not fit."""
    kept_tokens: int = 0
    """Of the prefix, those run once for the task and not for each request: on a decoder all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The answer of a task that classifies."""

    label: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Over `labels`."""
    usage: Usage

    @property
    def answer(self) -> str:
        """The label."""
        return self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """The pooled output of the base under the task's adapter."""

    values: tuple[float, ...]
    usage: Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One more token of an answer in text."""

    text: str
    """What is sure of the text now and was not before."""
    token: str
    """The token as text."""
    log_prob: float
    """By the model itself."""
    finish_reason: Literal["stop", "length"] | None
    """There with the last one."""
    usage: Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The answer of a task that writes."""

    pieces: tuple[Piece, ...]

    @property
    def answer(self) -> str:
        """The text, without white space around it."""
        return "".join(piece.text for piece in self.pieces).strip()

    @property
    def usage(self) -> Usage:
        """Tokens of the row."""
        return self.pieces[0].usage

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """Why it ends."""
        reason = self.pieces[-1].finish_reason
        assert reason is not None
        return reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How an answer in text is to be made; None leaves it to the task."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] | None = None
    """Beside those of the task."""
    seed: int | None = None
    """Another answer each time where it is None."""
    num_top: int = 0
    """Alternatives to be told of each token."""


Event = Label | Features | Piece | Exception
"""What an ask hears of; an exception is its last."""

Answer = Label | Written
Whole = Answer | Features


class Reply:
    """Where the events of one row arrive; read on the event loop."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Called on the event loop."""
        self._events.put_nowait(event)

    async def next(self) -> Label | Features | Piece:
        """The next event.

        Raises:
            Exception: What went wrong with this row.
        """
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def whole(self) -> Whole:
        """All that comes back, put together.

        Raises:
            Exception: What went wrong with this row.
        """
        event = await self.next()
        if not isinstance(event, Piece):
            return event
        pieces = [event]
        while event.finish_reason is None:
            event = await self.next()
            assert isinstance(event, Piece)
            pieces.append(event)
        return Written(pieces=tuple(pieces))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ask:
    """One row: a text for a version of a task."""

    served: Served
    example: Example
    wants: Wanted = "answer"
    may_cut: bool = True
    """Whether a text that is too long is cut; else it is refused."""
    sampling: Sampling | None = None
    is_silent: bool = False
    """Nobody waits for it: it runs while no others do."""
    reply: Reply


Told = Sequence[tuple[Ask, Event]]
"""What became of some asks."""
