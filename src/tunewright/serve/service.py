"""From a request to its rows and back: what the routes of all protocols share."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from tunewright.errors import TunewrightError
from tunewright.serve.ask import Ask, Features, Label, Reply, Told, Wanted
from tunewright.serve.cache import Cache
from tunewright.serve.engine import Engine
from tunewright.serve.faults import Fault, as_fault, is_ours
from tunewright.serve.gate import Context, Limits, context_of
from tunewright.serve.memory import Memory, row_ids
from tunewright.serve.metrics import Metrics
from tunewright.serve.silent import Silent
from tunewright.serve.state import State
from tunewright.serve.tasks import Served, Tasks
from tunewright.serve.waiting import Waiting
from tunewright.types import Example

_LOG = logging.getLogger("tunewright.serve")
_REFRESH_S = 0.5
T = TypeVar("T")


class Service:
    """Tasks, engine and figures of one server.

    Args:
        tasks: What can be asked.
        limits: Of one request.
        max_batch: Most rows of a pass.
        prefix_cache_bytes: Of the adapters in memory.
        max_bases: Bases in memory.
        model: Where the base is, when not under the name it had in training.
        state: Where feedback and answers in shadow are stored; None where tasks come from folders.
        keeps_texts: Whether feedback is stored with the text of its request, as long as that is remembered.
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        limits: Limits,
        state: State | None = None,
        keeps_texts: bool = False,
        max_batch: int = 64,
        prefix_cache_bytes: int = 512 * 2**20,
        max_bases: int = 2,
        model: str | None = None,
    ) -> None:
        self.tasks, self.limits, self.state = tasks, limits, state
        self.memory = Memory(keeps_texts=keeps_texts)
        self._waiting = Waiting(limits.waiting_rows)
        self._silent = None if state is None else Silent(self._waiting, state)
        self._cache = Cache(
            limit_bytes=prefix_cache_bytes, max_bases=max_bases, on_loaded=self._waiting.wake, model=model
        )
        self.metrics = Metrics(lambda: len(self._waiting), lambda: self._cache.num_bytes, lambda: self._cache.counts)
        self._engine = Engine(
            self._cache, self._waiting, self._tell, max_batch=max_batch, note_batch=self.metrics.note_batch
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warm = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers while the block lasts; what waits at its end is answered first."""
        self._loop = asyncio.get_running_loop()
        self._engine.start()
        background = [asyncio.create_task(self._refresh()), asyncio.create_task(self._warm_up())]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            if self._silent is not None:
                await self._silent.finish()
            await asyncio.to_thread(self._engine.close, self.limits.time_s)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered at once."""
        return self._warm and self._engine.is_alive

    def find(self, request: Request, task: str) -> Served:
        """The live version of a task, for the sender of a request.

        Raises:
            Fault: 403 where the key is not for it, 404 where it is not there.
        """
        context = context_of(request.scope)
        if context.key is not None:
            context.key.check_task(task)
        served = self.tasks.live(task)
        if served is None:
            raise Fault(404, "model_not_found", "there is no such task. GET /v1/models lists them.", param="model")
        context.name_version(served)
        return served

    async def find_version(self, request: Request, task: str, number: int) -> Served:
        """A certain version of a task that is served, live or not; otherwise as `find`.

        Raises:
            Fault: As `find`.
        """
        context = context_of(request.scope)
        if context.key is not None:
            context.key.check_task(task)
        served = await asyncio.to_thread(self.tasks.version, task, number)
        if served is None or self.tasks.live(task) is None:
            raise Fault(404, "version_not_found", "there is no such version of such a task.", param="version")
        context.name_version(served)
        return served

    def names(self, request: Request) -> list[str]:
        """The tasks that the sender of a request may ask."""
        key = context_of(request.scope).key
        return [name for name in self.tasks.names() if key is None or key.allows(name)]

    async def answers(
        self, request: Request, served: Served, examples: Sequence[Example], *, may_cut: bool
    ) -> list[Label]:
        """Labels of some rows.

        Args:
            request: Where they come from.
            served: What answers.
            examples: The rows.
            may_cut: Whether a text that is too long is cut; else it is refused.

        Raises:
            Fault: What went wrong with the first row that failed.
        """
        found = await self._all(request, served, examples, "answer", may_cut=may_cut)
        labels = [event for event in found if isinstance(event, Label)]
        self._note(context_of(request.scope).request_id, served, examples, labels)
        return labels

    async def features(self, request: Request, served: Served, examples: Sequence[Example]) -> list[Features]:
        """Features of some rows.

        Raises:
            Fault: What went wrong with the first row that failed.
        """
        found = await self._all(request, served, examples, "features", may_cut=False)
        return [event for event in found if isinstance(event, Features)]

    async def _all(
        self, request: Request, served: Served, examples: Sequence[Example], wants: Wanted, *, may_cut: bool
    ) -> list[Label | Features]:
        with self.asking(context_of(request.scope), served, examples, wants, may_cut=may_cut) as asks:
            return await while_there(request, self._gather(asks))

    @contextlib.contextmanager
    def asking(
        self, context: Context, served: Served, examples: Sequence[Example], wants: Wanted, *, may_cut: bool
    ) -> Iterator[list[Ask]]:
        """Rows on their way, forgotten if the block does not end as it should.

        Raises:
            Fault: 400 for too many rows, 429 where rate or queue are full, 503 while the server ends.
        """
        if len(examples) > self.limits.rows:
            message = f"a request has at most {self.limits.rows} rows. Got {len(examples)}."
            raise Fault(400, "too_many_rows", message)
        if context.key is not None:
            context.key.spend(len(examples))
        asks = [Ask(served=served, example=e, wants=wants, may_cut=may_cut, reply=Reply()) for e in examples]
        self._waiting.put(asks)
        try:
            yield asks
        except BaseException:
            self._waiting.cancel(asks)
            raise

    async def _gather(self, asks: Sequence[Ask]) -> list[Label | Features]:
        return [await self.next(ask) for ask in asks]

    async def next(self, ask: Ask) -> Label | Features:
        """The next event of a row, noted.

        Raises:
            Fault: What went wrong with it.
        """
        try:
            event = await ask.reply.next()
        except Exception as error:
            if is_ours(error):
                _LOG.error("task %s: %s", ask.served.task, error)
            raise as_fault(error) from error
        self.metrics.note_usage(ask.served.task, event.usage)
        if isinstance(event, Label):
            self.metrics.note_label(ask.served.task, event)
        return event

    def _note(self, request_id: str, served: Served, examples: Sequence[Example], labels: Sequence[Label]) -> None:
        """Remembers answers for who may speak of them, and lets a version in shadow answer too."""
        if self._silent is None:
            return
        ids = row_ids(request_id, len(examples))
        self.memory.note(ids, examples, labels)
        shadow = self.tasks.shadow(served.task, request_id)
        if shadow is not None and served == self.tasks.live(served.task):
            self._silent.begin(shadow, served, ids, examples, labels)

    def log_error(self, error: Exception) -> None:
        """For who runs the server."""
        _LOG.error("%s", error)

    def _tell(self, told: Told) -> None:
        """Brings events from the engine's thread to the loop."""
        if self._loop is not None and told:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                self._loop.call_soon_threadsafe(_put, told)

    async def _refresh(self) -> None:
        """Looks for changes of the tasks, beside the loop."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await asyncio.to_thread(self.tasks.refresh)
            except TunewrightError as error:
                self.log_error(error)

    async def _warm_up(self) -> None:
        """Loads the first task and its base."""
        names = self.tasks.names()
        served = self.tasks.live(names[0]) if names else None
        while served is not None and self._cache.get(served) is None:
            await asyncio.sleep(0.02)
        self._warm = True


def _put(told: Told) -> None:
    for ask, event in told:
        ask.reply.put(event)


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What some work comes to, ended as soon as the client has left."""
    job, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((job, left), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise Fault(499, "client_left", "the client has left.")
        return job.result()
    finally:
        job.cancel()
        left.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
