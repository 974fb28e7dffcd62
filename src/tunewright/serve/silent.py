"""A version in shadow answers what the live one has answered; nobody waits for it."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from tunewright.errors import TunewrightError
from tunewright.releases.entries import ShadowPair
from tunewright.releases.state import State
from tunewright.serve.ask import Answer, Ask, Features, Reply
from tunewright.serve.tasks import Served
from tunewright.types import Example

_LOG = logging.getLogger("tunewright.serve")


class Silent:
    """Asks versions in shadow and stores both answers.

    Args:
        put: Takes rows that run while no others do; False where it has no room for them, and they are left out.
        cancel: Forgets such rows.
        state: Where pairs of answers are stored.
        note_left_out: Told how many rows were left out.
    """

    def __init__(
        self,
        put: Callable[[Sequence[Ask]], bool],
        cancel: Callable[[Sequence[Ask]], None],
        state: State,
        note_left_out: Callable[[int], None],
    ) -> None:
        self._put, self._cancel, self._state, self._note_left_out = put, cancel, state, note_left_out
        self._running: set[asyncio.Task[None]] = set()

    def begin(
        self, shadow: Served, live: Served, ids: Sequence[str], examples: Sequence[Example], answers: Sequence[Answer]
    ) -> None:
        """Begins to ask; returns at once."""
        asks = [Ask(served=shadow, example=example, is_silent=True, reply=Reply()) for example in examples]
        if self._put(asks):
            task = asyncio.ensure_future(self._pair(asks, live, ids, [answer.answer for answer in answers]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        else:
            self._note_left_out(len(asks))

    async def finish(self, most_s: float) -> None:
        """Waits for what is under way, for at most so long; the rest is given up."""
        if not self._running:
            return
        _, left = await asyncio.wait(self._running, timeout=most_s)
        for task in left:
            task.cancel()
        if left:
            _LOG.warning("the server ends: %d requests were not answered in shadow", len(left))
            await asyncio.wait(left)

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
        except asyncio.CancelledError:
            self._cancel(asks)
        except TunewrightError as error:
            _LOG.error("shadow of task %s: %s", live.task, error)
        except Exception:  # noqa: BLE001 - nobody waits for it; the log tells
            _LOG.exception("shadow of task %s failed", live.task)
