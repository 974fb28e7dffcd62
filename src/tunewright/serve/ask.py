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
    """Virtual tokens of a soft prompt or prefix."""
    num_cut: int
    """Tokens of the text that did not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The answer of a task that classifies."""

    label: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Over `labels`."""
    usage: Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """The pooled output of the base under the task's adapter."""

    values: tuple[float, ...]
    usage: Usage


Event = Label | Features | Exception
"""What an ask hears of; an exception is its last."""


class Reply:
    """Where the events of one row arrive; read on the event loop."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Called on the event loop."""
        self._events.put_nowait(event)

    async def next(self) -> Label | Features:
        """The next event.

        Raises:
            Exception: What went wrong with this row.
        """
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ask:
    """One row: a text for a version of a task."""

    served: Served
    example: Example
    wants: Wanted = "answer"
    may_cut: bool = True
    """Whether a text that is too long is cut; else it is refused."""
    reply: Reply


Told = Sequence[tuple[Ask, Event]]
"""What became of some asks."""
