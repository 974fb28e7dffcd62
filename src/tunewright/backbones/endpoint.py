"""An OpenAI-compatible endpoint: where it is, what it understands, and how it is asked.

The client is OpenAI's own: it goes on after failures with exponential back-off and jitter, and waits as long as
`Retry-After` says, up to two minutes: an endpoint that wants more is given up at once. Requests run side by side, so
many at a time; what was answered before is not asked again.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import anyio
import httpx2
import openai
from anyio.from_thread import start_blocking_portal

from tunewright.adapters.adapter import BaseIdentity
from tunewright.backbones.dialect import CHAT, COMPLETIONS, OPTIONAL, Ask, Body, Dialect
from tunewright.backbones.heard import Usage
from tunewright.backbones.replies import BrokenReply, Cache, Reply, cache_path, read_reply
from tunewright.config import REMOTE
from tunewright.errors import EndpointError, ModelError

KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"
_NAME = re.compile(rf"{REMOTE}(?P<model>.+?)(?:@(?P<url>https?://.+))?")

_ANEW = 2
"""Times that an answer that cannot be read is asked for again."""
_POLL_S = 0.05


class _Lost(openai.APIConnectionError):
    """It was sent, and no answer came: the client does not repeat it, as it may be billed."""

    def __init__(self, request: Any, *, in_time: bool) -> None:
        super().__init__(request=request)
        self.in_time = in_time


class _Client(openai.DefaultAsyncHttpxClient):
    """Tells requests that may have been answered from those that nobody has got."""

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        """As its base; on the way back a failure is ours."""
        try:
            return await super().send(request, **how)
        except (httpx2.ReadTimeout, httpx2.WriteTimeout):
            raise _Lost(request, in_time=False) from None
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            raise _Lost(request, in_time=True) from None


class Declined(EndpointError):
    """It answers, but not this request."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long answers are waited for."""

    timeout_s: float = 60.0
    """For one answer."""
    retries: int = 5
    """After failures that may pass."""
    at_once: int = 16
    """Requests side by side."""


class Account(Protocol):
    """Who pays for requests."""

    def reserve(self, model: str, input_tokens: int, output_tokens: int) -> float | None:
        """Before a request is sent: what it may take at most; None where it has to wait for others to be settled.

        Raises what is to end the asking.
        """
        ...

    def settle(self, reserved: float, model: str, usage: Usage | None, *, lost: bool = False) -> None:
        """After it: what it took; None where that is not known. A lost one was sent, and may have been answered."""
        ...

    def note(self, *, known: int = 0, retried: int = 0) -> None:
        """Answers that were known already, and tries that failed."""
        ...


class Tally:
    """Counts requests, where nobody limits them."""

    def __init__(self) -> None:
        self.paid: list[tuple[str, Usage]] = []
        self.known = self.retried = 0

    def reserve(self, model: str, input_tokens: int, output_tokens: int) -> float | None:  # noqa: ARG002
        return 0.0

    def settle(self, reserved: float, model: str, usage: Usage | None, *, lost: bool = False) -> None:  # noqa: ARG002
        if usage is not None:
            self.paid.append((model, usage))

    def note(self, *, known: int = 0, retried: int = 0) -> None:
        self.known += known
        self.retried += retried


def parse_name(name: str) -> tuple[str, str]:
    """Model and base URL of `openai:MODEL@URL`; the URL of the environment where none is named.

    Raises:
        ModelError: Not of this form, or with what belongs in no file.
    """
    found = _NAME.fullmatch(name)
    form = "Write openai:MODEL@https://HOST/v1, or openai:MODEL with OPENAI_BASE_URL set."
    if found is None:
        raise ModelError(f"no model behind an endpoint: {name!r}. {form}")
    url = (found["url"] or os.environ.get(URL) or OPENAI).rstrip("/")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ModelError(f"no URL of an endpoint: {url!r}. {form}") from None
    if parts.username is not None or parts.query or parts.fragment:
        raise ModelError(f"the URL of an endpoint has no key, query or fragment in it. {form} The key goes in {KEY}.")
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ModelError(f"no URL of an endpoint: {url!r}. {form}")
    return found["model"], url


class Endpoint:
    """A model behind an endpoint.

    Args:
        name: As in `parse_name`.
        cache: Answers that are known.
        patience: How long answers are waited for.

    Raises:
        ModelError: A wrong name, or no key.
    """

    def __init__(self, name: str, *, cache: Cache | None = None, patience: Patience | None = None) -> None:
        self.model, self.url = parse_name(name)
        self._key = os.environ.get(KEY, "")
        if not self._key.strip():
            raise ModelError(f"{name} needs a key: {KEY} is not set. Set it; to any word where no key is asked for.")
        self._cache = Cache(cache_path()) if cache is None else cache
        self._patience = Patience() if patience is None else patience
        self.account: Account = Tally()
        self.is_here: Literal[False] = False
        self.fault: str | None = None
        """Why it does not answer any more."""
        self._met: dict[str, Reply] = {}
        """What it answered before anybody paid."""
        self._refused: set[str] = set()
        """Of the settings that it can do without."""
        self.writing = self.labelling = Dialect()

    @property
    def identity(self) -> BaseIdentity:
        """The hash is of URL and model: nobody here can tell whether the weights are those of yesterday."""
        digest = hashlib.sha256(json.dumps([self.url, self.model]).encode()).hexdigest()
        name = f"{REMOTE}{self.model}@{self.url}"
        return BaseIdentity(name=name, kind="remote", sha256=digest, tokenizer_sha256=digest)

    def charge(self, account: Account) -> None:
        """From here on somebody else pays, what was asked so far included, and keeps what was answered."""
        self._cache.keep(self._met)
        before, self.account = self.account, account
        if isinstance(before, Tally):
            account.note(known=before.known, retried=before.retried)
            for model, usage in before.paid:
                account.settle(0.0, model, usage)

    def connect(self) -> "Endpoint":
        """Makes sure that it answers, and finds out what it understands; a few short requests, the first time.

        Labels are chosen by chat where that tells probabilities, else by completions if those do, else by chat.

        Raises:
            EndpointError: Down, another model, a wrong key, or answers that cannot be read.
        """
        self._reach()
        try:
            self.writing = self.labelling = self._understood(Dialect())
        except Declined as declined:  # a model that completes texts and knows no chat
            try:
                self.writing = self.labelling = self._understood(Dialect(path=COMPLETIONS, num_top=5))
            except Declined:
                raise declined from None
        if self.writing.num_top == 0 and self.writing.path == CHAT:
            with contextlib.suppress(Declined):
                found = self._understood(Dialect(path=COMPLETIONS, num_top=5))
                self.labelling = found if found.num_top > 0 else self.writing
        return self

    def _understood(self, dialect: Dialect) -> Dialect:
        """As much of it as it takes."""
        while True:
            try:
                body = dialect.body(self.model, _HELLO)
                (reply,) = self.ask([body])
            except Declined as declined:
                simpler = dialect.plainer(str(declined))
                if simpler is None:
                    raise
                dialect = simpler
            else:
                self._met[self._key_of(body)] = reply
                return dialect if reply.tokens else replace(dialect, num_top=0)

    def ask(
        self, bodies: Sequence[Body], check: Callable[[], None] | None = None, *, counts: bool = True
    ) -> list[Reply]:
        """The answers, in order; those of the cache at once.

        Args:
            bodies: Of requests.
            check: Called while others answer; what it raises ends the waiting, and requests under way.
            counts: Whether answers that were known are counted.

        Raises:
            EndpointError: One of them cannot be answered. What was answered is kept.
        """
        keys = [self._key_of(body) for body in bodies]
        found = self._cache.get(keys)
        wanted = {key: body for key, body in zip(keys, bodies, strict=True) if key not in found}
        if wanted and self.fault is not None:
            raise EndpointError(self.fault)
        if counts:
            self.account.note(known=len(bodies) - len(wanted))
        if wanted:
            with start_blocking_portal() as portal:
                asking = portal.start_task_soon(self._fetch_all, wanted, found)
                try:
                    while not concurrent.futures.wait([asking], timeout=_POLL_S).done:
                        if check is not None:
                            check()
                except BaseException:
                    asking.cancel()
                    raise
                asking.result()
        return [found[key] for key in keys]

    def _key_of(self, body: Body) -> str:
        return hashlib.sha256(json.dumps([1, self.url, body], sort_keys=True).encode()).hexdigest()

    async def _fetch_all(self, wanted: Mapping[str, Body], found: dict[str, Reply]) -> None:
        """Fills in the answers; after a failure those under way are waited for, as they are paid for."""
        waiting, failures = iter(wanted.items()), list[Exception]()

        async def work(client: openai.AsyncOpenAI) -> None:
            for key, body in waiting:
                if failures:
                    return
                try:
                    found[key] = await self._fetch(client, body)
                except Exception as error:  # noqa: BLE001  # told by the one who asked, when all others are done
                    failures.append(error)
                    return
                self._cache.put(key, found[key])

        async with self._client() as client, anyio.create_task_group() as group:
            for _ in range(min(self._patience.at_once, len(wanted))):
                group.start_soon(work, client)
        if failures:
            raise failures[0]

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[openai.AsyncOpenAI]:
        """OpenAI's; a request for which there is no credit is not tried again."""

        async def hear(response: Any) -> None:
            if response.status_code == 429 and b"insufficient_quota" in await response.aread():
                response.headers["x-should-retry"] = "false"

        async with openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key,
            timeout=self._patience.timeout_s,
            max_retries=self._patience.retries,
            http_client=_Client(event_hooks={"response": [hear]}),
        ) as client:
            yield client

    async def _fetch(self, client: openai.AsyncOpenAI, body: Body) -> Reply:
        """One answer; one that is lost or cannot be read is asked for again, and each try is paid."""
        chats: Any = client.chat.completions if "messages" in body else client.completions
        size = len(json.dumps(body, ensure_ascii=False).encode())  # no token is less than a byte
        most = next(int(body[name]) for name in ("max_tokens", "max_completion_tokens") if name in body)
        tries = 0
        while True:
            while (reserved := self.account.reserve(self.model, size, most)) is None:
                await anyio.sleep(_POLL_S)
            sent = {name: value for name, value in body.items() if name not in self._refused}
            usage, is_lost, start = None, True, time.monotonic()
            try:
                raw = await chats.with_raw_response.create(**sent)
                self.account.note(retried=raw.retries_taken)
                reply = read_reply(raw.text, 1000 * (time.monotonic() - start))
                usage = reply.usage
                return reply
            except BrokenReply as broken:
                usage = broken.usage
                if tries == _ANEW:
                    raise EndpointError(f"{self._who}: {broken}. Ask whoever runs it.") from None
            except _Lost as error:
                if tries == self._patience.retries:
                    raise self._told(error) from None
            except openai.APIError as error:
                is_lost = False
                if not self._leaves_out(error, sent):
                    raise self._told(error) from None
                continue
            finally:
                self.account.settle(reserved, self.model, usage, lost=is_lost)
            tries += 1
            self.account.note(retried=1)

    def _leaves_out(self, error: openai.APIError, sent: Body) -> bool:
        """Whether a setting was refused that it can do without: it is not sent again."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        named = {name for name in OPTIONAL if name in sent and re.search(rf"\b{name}\b", error.message)}
        self._refused |= named
        return bool(named)

    def _reach(self) -> None:
        """Asks for the list of models, which nobody bills: is there anybody, and is the key right?"""

        async def models() -> None:
            async with self._client() as client:
                with contextlib.suppress(
                    openai.NotFoundError, openai.BadRequestError, openai.APIResponseValidationError
                ):
                    await client.models.with_raw_response.list()

        try:
            anyio_run(models)
        except openai.APIError as error:
            raise self._told(error) from None

    @property
    def _who(self) -> str:
        return f"{self.model} at {self.url}"

    def _told(self, error: openai.APIError) -> EndpointError:
        """One line of ours; the endpoint is given up where the next request would fare alike."""
        said = " ".join(str(getattr(error, "message", error)).split()).replace(self._key, "***")[:300]
        code = getattr(error, "status_code", None)
        if code == 404:
            return Declined(f"{self._who}: there is no such model or path ({said}). Check both.")
        if code in (400, 413, 422):
            return Declined(
                f"{self._who} refuses a request: {said}. Shorten texts by --max-tokens, or change the prompt."
            )
        retries = int(error.request.headers.get("x-stainless-retry-count", 0))
        again = f", also after {retries} retries" if retries else ""
        if isinstance(error, openai.APITimeoutError) or (isinstance(error, _Lost) and not error.in_time):
            why = f"no answer within {self._patience.timeout_s:g} s. Try again later, or another model."
        elif isinstance(error, _Lost):
            why = "it breaks off. Repeat the call later."
        elif isinstance(error, openai.APIConnectionError):
            why = "it cannot be reached. Check the URL and the network."
        elif code in (401, 403):
            why = f"the key is refused ({code}). Set {KEY} to a key of this endpoint."
        elif code == 402 or "insufficient_quota" in str(getattr(error, "code", "")):
            why = "the account is out of credit. What was paid for is kept: top it up and repeat the call."
        elif code == 429:
            why = f"too many requests ({said}){again}. Repeat the call later."
        else:
            why = f"it fails ({said}){again}. Repeat the call later."
        self.fault = f"{self._who}: {why}"
        return EndpointError(self.fault)


def anyio_run(work: Callable[[], Any]) -> None:
    """Runs something in a loop of its own, also where one runs already, as in a notebook."""
    with start_blocking_portal() as portal:
        portal.call(work)


_HELLO = Ask(prompt="Answer with one word: yes", max_tokens=4, tells=True)
