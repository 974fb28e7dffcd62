"""A version in shadow answers what the live one has answered; nobody waits for it."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from tunewright.errors import TunewrightError
from tunewright.releases.entries import ShadowPair
from tunewright.releases.state import State
from tunewright.serve.ask import Answer, Ask, Features, Reply
from tunewright.serve.faults import Fault
from tunewright.serve.tasks import Served
from tunewright.serve.waiting import Waiting
from tunewright.types import Example

_LOG = logging.getLogger("tunewright.serve")


class Silent:
    """Asks versions in shadow and stores both answers.

    Args:
        waiting: Where their rows wait like any others; where it is full they are left out.
        state: Where pairs of answers are stored.
    """

    def __init__(self, waiting: Waiting, state: State) -> None:
        self._waiting, self._state = waiting, state
        self._running: set[asyncio.Task[None]] = set()

    def begin(
        self, shadow: Served, live: Served, ids: Sequence[str], examples: Sequence[Example], answers: Sequence[Answer]
    ) -> None:
        """Begins to ask; returns at once."""
        asks = [Ask(served=shadow, example=example, reply=Reply()) for example in examples]
        with contextlib.suppress(Fault):
            self._waiting.put(asks)
            self._spawn(self._pair(asks, live, ids, [answer.answer for answer in answers]))

    async def finish(self) -> None:
        """Waits for what is under way."""
        await asyncio.gather(*self._running)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _pair(self, asks: Sequence[Ask], live: Served, ids: Sequence[str], answers: Sequence[str]) -> None:
        pairs = []
        try:
            for ask, row_id, answer in zip(asks, ids, answers, strict=True):
                found = await ask.reply.whole()
                assert not isinstance(found, Features)
                pairs.append(
                    ShadowPair(
                        request_id=row_id,
                        task=live.task,
                        version=live.version,
                        shadow=ask.served.version,
                        answer=answer,
                        shadow_answer=found.answer,
                    )
                )
            await asyncio.to_thread(self._state.add_shadow_pairs, pairs)
        except TunewrightError as error:
            _LOG.error("shadow of task %s: %s", live.task, error)
        except Exception:  # noqa: BLE001 - nobody waits for it; the log tells
            _LOG.exception("shadow of task %s failed", live.task)
