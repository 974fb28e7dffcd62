"""From a request to its rows and back: what the routes of all protocols share."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from tunewright.errors import TunewrightError
from tunewright.releases.state import State
from tunewright.serve.ask import Answer, Ask, Features, Label, Piece, Reply, Sampling, Told, Wanted, Whole, Written
from tunewright.serve.cache import Cache, Loaded
from tunewright.serve.engine import Engine
from tunewright.serve.faults import Fault, as_fault, is_ours
from tunewright.serve.gate import Context, Limits, context_of
from tunewright.serve.memory import Memory
from tunewright.serve.metrics import Metrics
from tunewright.serve.request_ids import RequestIds, row_ids
from tunewright.serve.silent import Silent
from tunewright.serve.tasks import Served, Tasks
from tunewright.serve.waiting import Waiting
from tunewright.types import Example

_LOG = logging.getLogger("tunewright.serve")
_REFRESH_S = 0.5
_RETRY_S = 5.0
"""After which a server of which no task can be loaded tries again."""

_SHADOW_S = 5.0
"""For so long the end of the server waits for answers in shadow."""
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
        self._cache = Cache(
            limit_bytes=prefix_cache_bytes, max_bases=max_bases, on_loaded=self._waiting.wake, model=model
        )
        self.metrics = Metrics(lambda: len(self._waiting), lambda: self._cache.num_bytes, lambda: self._cache.counts)
        self._engine = Engine(
            self._cache,
            self._waiting,
            self._tell,
            max_batch=max_batch,
            text_cache_bytes=limits.text_cache_bytes,
            note_batch=self.metrics.note_batch,
        )
        self._silent = None
        if state is not None:
            put, note = self._waiting.put_silent, self.metrics.note_left_out
            self._silent = Silent(put, self._engine.cancel, state, note)
        self.ids = RequestIds(secrets.token_bytes() if state is None else state.secret())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_warm = False

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
                await self._silent.finish(_SHADOW_S)
            await asyncio.to_thread(self._engine.close, self.limits.time_s)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered at once."""
        return self._is_warm and self._engine.is_alive

    async def find(self, request: Request, task: str, num_rows: int, version: int | None = None) -> Served:
        """A version of a task, the live one by default, for the sender of a request of so many rows.

        Raises:
            Fault: 403 where the key is not for it, 404 where it is not there.
        """
        context = context_of(request.scope)
        if context.key is not None:
            context.key.check_task(task)
        served = self.tasks.live(task)
        if served is None:
            raise Fault(404, "model_not_found", "there is no such task. GET /v1/models lists them.", param="model")
        if version is not None:
            served = await asyncio.to_thread(self.tasks.version, task, version)
        if served is None:
            raise Fault(404, "version_not_found", "the task has no such version.", param="version")
        context.served, context.request_id = served, self.ids.issue(served, num_rows)
        return served

    def names(self, request: Request) -> list[str]:
        """The tasks that the sender of a request may ask."""
        key = context_of(request.scope).key
        return [name for name in self.tasks.names() if key is None or key.allows(name)]

    async def answers(
        self,
        request: Request,
        served: Served,
        examples: Sequence[Example],
        *,
        may_cut: bool,
        sampling: Sampling | None = None,
    ) -> list[Answer]:
        """Labels or texts of some rows.

        Args:
            request: Where they come from.
            served: What answers.
            examples: The rows.
            may_cut: Whether a text that is too long is cut; else it is refused.
            sampling: How texts are to be made.

        Raises:
            Fault: What went wrong with the first row that failed.
        """
        asks = _asks(served, examples, may_cut=may_cut, sampling=sampling)
        found = await self._all(request, asks)
        answers = [row for row in found if not isinstance(row, Features)]
        self._note(context_of(request.scope).request_id, served, examples, answers)
        return answers

    async def features(self, request: Request, served: Served, examples: Sequence[Example]) -> list[Features]:
        """Features of some rows.

        Raises:
            Fault: What went wrong with the first row that failed.
        """
        found = await self._all(request, _asks(served, examples, wants="features", may_cut=False))
        return [row for row in found if isinstance(row, Features)]

    async def stream(
        self, request: Request, served: Served, examples: Sequence[Example], sampling: Sampling
    ) -> AsyncIterator[tuple[int, Label | Piece | Fault]]:
        """Number of a row and what it hears, row by row, as it comes; a fault is the last of all.

        Raises:
            Fault: What went wrong before anything came.
        """
        asks = _asks(served, examples, may_cut=False, sampling=sampling)
        with self._asking(context_of(request.scope), asks):
            first = await while_there(request, self._next(asks[0]))
        return self._events(request, asks, first)

    async def _events(
        self, request: Request, asks: Sequence[Ask], event: Label | Piece
    ) -> AsyncIterator[tuple[int, Label | Piece | Fault]]:
        answers: list[Answer] = []
        try:
            for k, ask in enumerate(asks):
                event = event if k == 0 else await self._next(ask)
                yield k, event
                pieces = [event] if isinstance(event, Piece) else []
                while isinstance(event, Piece) and event.finish_reason is None:
                    event = await self._next(ask)
                    assert isinstance(event, Piece)
                    pieces.append(event)
                    yield k, event
                answers.append(event if isinstance(event, Label) else Written(pieces=tuple(pieces)))
                self.metrics.note_row(ask.served.task, answers[-1])
            examples = [ask.example for ask in asks]
            self._note(context_of(request.scope).request_id, asks[0].served, examples, answers)
        except Fault as fault:
            yield len(answers), fault
        finally:
            self._engine.cancel(asks[len(answers) :])

    async def _next(self, ask: Ask) -> Label | Piece:
        """Raises Fault: what went wrong with the row."""
        try:
            event = await ask.reply.next()
        except Exception as error:
            raise self._fault(ask, error) from error
        assert not isinstance(event, Features)
        return event

    async def _all(self, request: Request, asks: Sequence[Ask]) -> list[Whole]:
        with self._asking(context_of(request.scope), asks):
            return await while_there(request, self._gather(asks))

    async def _gather(self, asks: Sequence[Ask]) -> list[Whole]:
        found = []
        for ask in asks:
            try:
                found.append(await ask.reply.whole())
            except Exception as error:
                raise self._fault(ask, error) from error
            self.metrics.note_row(ask.served.task, found[-1])
        return found

    @contextlib.contextmanager
    def _asking(self, context: Context, asks: Sequence[Ask]) -> Iterator[None]:
        """Rows on their way, forgotten if the block does not end as it should.

        Raises:
            Fault: 400 for too many rows, 429 where rate or queue are full, 503 while the server ends.
        """
        if len(asks) > self.limits.rows:
            raise Fault(400, "too_many_rows", f"a request has at most {self.limits.rows} rows. Got {len(asks)}.")
        if context.key is not None:
            context.key.spend(len(asks))
        self._waiting.put(asks)
        try:
            yield
        except BaseException:
            self._engine.cancel(asks)
            raise

    def _fault(self, ask: Ask, error: Exception) -> Fault:
        """What the sender hears of it; what is ours goes to the log too."""
        if is_ours(error):
            _LOG.error("task %s: %s", ask.served.task, error)
        return as_fault(error)

    def _note(self, request_id: str, served: Served, examples: Sequence[Example], answers: Sequence[Answer]) -> None:
        """Remembers answers for who may speak of them, and lets a version in shadow answer too."""
        if self._silent is None:
            return
        ids = row_ids(request_id, len(examples))
        self.memory.note(ids, examples, answers)
        shadow = self.tasks.shadow(served.task, request_id)
        if shadow is not None and served == self.tasks.live(served.task):
            self._silent.begin(shadow, served, ids, examples, answers)

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
                _LOG.error("%s", error)

    async def _warm_up(self) -> None:
        """Loads the first task that can be loaded, and its base; where none can, tries again."""
        while not self._is_warm:
            names = self.tasks.names()
            self._is_warm = not names
            for name in names:
                if self._is_warm:
                    break
                self._is_warm = await self._loads(name)
            await asyncio.sleep(_RETRY_S)

    async def _loads(self, task: str) -> bool:
        """Whether a task can be loaded; the log has why not."""
        found = None
        while (served := self.tasks.live(task)) is not None and (found := self._cache.get(served)) is None:
            await asyncio.sleep(0.02)
        if isinstance(found, TunewrightError):
            _LOG.error("%s", found)
        return isinstance(found, Loaded)


def _asks(
    served: Served,
    examples: Sequence[Example],
    *,
    wants: Wanted = "answer",
    may_cut: bool,
    sampling: Sampling | None = None,
) -> list[Ask]:
    return [
        Ask(served=served, example=e, wants=wants, may_cut=may_cut, sampling=sampling, reply=Reply()) for e in examples
    ]


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
