"""An endpoint that fails, limits and stalls: what is asked, counted, kept and said."""

import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vendor import KEY, Fault, Vendor, guess, refusal, selling
from tunewright.backbones.dialect import Ask, Dialect
from tunewright.backbones.endpoint import Endpoint, Patience, Tally, parse_name
from tunewright.backbones.heard import Usage
from tunewright.backbones.replies import Cache, Reply
from tunewright.errors import EndpointError, ModelError, RunError

LABELS = ("food", "travel", "music")
QUICK = Patience(timeout_s=10, retries=3, at_once=4)

Connect = Callable[..., Endpoint]


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with selling(Vendor(table=lambda prompt: guess(prompt, LABELS))) as found:
        yield found


@pytest.fixture
def connect(vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def opened(model: str = "big", patience: Patience = QUICK) -> Endpoint:
        cache = Cache(tmp_path / "cache" / "answers.sqlite")
        return Endpoint(f"openai:{model}@{vendor.url}", cache=cache, patience=patience).connect()

    return opened


def tally(endpoint: Endpoint) -> Tally:
    assert isinstance(endpoint.account, Tally)
    return endpoint.account


def bodies(endpoint: Endpoint, count: int, *, first: int = 0) -> list[dict[str, object]]:
    asks = [Ask(prompt=f"Text {k}", max_tokens=3, tells=True) for k in range(first, first + count)]
    return [endpoint.labelling.body(endpoint.model, ask) for ask in asks]


def test_answers_are_those_of_the_table_and_side_by_side(vendor: Vendor, connect: Connect) -> None:
    """Of the first two requests each is answered when the other has come."""
    endpoint, both, early = connect(), threading.Barrier(2), {"Text 0", "Text 1"}

    def table(prompt: str) -> dict[str, float]:
        if prompt in early:
            early.remove(prompt)
            both.wait(30)
        return guess(prompt, LABELS)

    vendor.table = table
    replies = endpoint.ask(bodies(endpoint, 12))
    for k, reply in enumerate(replies):
        likely = guess(f"Text {k}", LABELS)
        assert reply.text == max(likely, key=lambda label: likely[label])
        assert {t: math.exp(p) for t, p in reply.tokens[0].top} == pytest.approx(likely)
        assert reply.usage == Usage(input_tokens=2, cached_tokens=0, output_tokens=1)
    assert 1 < vendor.most_at_once <= QUICK.at_once


def test_nothing_is_paid_twice(vendor: Vendor, connect: Connect) -> None:
    endpoint = connect()
    first = endpoint.ask([*bodies(endpoint, 5), *bodies(endpoint, 2)])
    assert len(tally(endpoint).paid) == len(vendor.asked) == 1 + 5  # one to find out what it understands
    assert tally(endpoint).known == 2
    assert sum(usage.input_tokens for _, usage in tally(endpoint).paid) == vendor.input_tokens
    again = connect()
    assert again.ask(bodies(again, 5)) == first[:5]
    assert (len(vendor.asked), tally(again).known, tally(again).paid) == (6, 6, [])
    changed = [{**body, "temperature": 0.5} for body in bodies(again, 1)]
    again.ask(changed)
    assert len(vendor.asked) == 7


def test_retries(vendor: Vendor, connect: Connect) -> None:
    endpoint = connect()
    vendor.faults.extend([refusal(429, "slow down", retry_after_ms="300"), refusal(503, "busy", retry_after_ms="1")])
    start = time.monotonic()
    endpoint.ask(bodies(endpoint, 1))
    assert time.monotonic() - start >= 0.3  # as long as it said
    assert (tally(endpoint).retried, len(tally(endpoint).paid), vendor.tries) == (2, 2, 4)


def test_broken_answers_are_asked_for_again(vendor: Vendor, connect: Connect) -> None:
    endpoint = connect()
    vendor.faults.extend([Fault(body="{not json"), Fault(body='{"choices": [], "usage": {}}')])
    (reply,) = endpoint.ask(bodies(endpoint, 1))
    assert reply.text in LABELS
    assert (tally(endpoint).retried, len(vendor.asked)) == (2, 2)
    vendor.faults.extend([Fault(body='{"choices": []}')] * 3)
    with pytest.raises(EndpointError, match=r"big at http\S+: its answer has no choices\. Ask whoever runs it"):
        endpoint.ask(bodies(endpoint, 1, first=1))
    assert endpoint.fault is None


@pytest.mark.parametrize(
    ("faults", "said", "tries"),
    [
        ([refusal(401, f"Incorrect API key provided: {KEY}")], r"the key is refused \(401\)\. Set OPENAI_API_KEY", 1),
        ([refusal(402, "Insufficient balance")], "out of credit. What was paid for is kept", 1),
        ([refusal(429, "You exceeded your quota", code="insufficient_quota")], "out of credit", 1),
        ([refusal(429, "slow", retry_after_ms="1")] * 4, "too many requests .* after 3 retries", 4),
        ([refusal(500, f"oops {KEY}", retry_after_ms="1")] * 4, r"it fails .*oops \*\*\*.* after 3 retries", 4),
    ],
)
def test_failures_are_one_line_without_the_key(
    faults: list[Fault], said: str, tries: int, vendor: Vendor, connect: Connect
) -> None:
    """What was paid for is kept, and the endpoint is not asked again."""
    endpoint = connect(patience=replace(QUICK, at_once=1))
    endpoint.ask(bodies(endpoint, 2))
    before = vendor.tries
    vendor.faults.extend(faults)
    with pytest.raises(EndpointError, match=said) as failed:
        endpoint.ask(bodies(endpoint, 4))
    assert KEY not in str(failed.value)
    assert "\n" not in str(failed.value)
    assert vendor.tries == before + tries
    with pytest.raises(EndpointError, match=said):
        endpoint.ask(bodies(endpoint, 1, first=9))
    assert vendor.tries == before + tries
    assert [reply.text for reply in endpoint.ask(bodies(endpoint, 2))]


def test_a_slow_endpoint(vendor: Vendor, connect: Connect) -> None:
    endpoint = connect(patience=Patience(timeout_s=0.2, retries=1, at_once=1))
    vendor.faults.extend([Fault(stall_s=30)] * 2)
    with pytest.raises(EndpointError, match=r"no answer within 0\.2 s\. Try again later"):
        endpoint.ask(bodies(endpoint, 1))
    assert len(vendor.asked) == 1


def test_waiting_can_be_ended(vendor: Vendor, connect: Connect) -> None:
    """As a budget or Ctrl-C do: what is under way is dropped at once."""
    endpoint = connect()
    vendor.faults.extend([Fault(stall_s=30)] * 8)
    stop_at = time.monotonic() + 0.3

    def check() -> None:
        if time.monotonic() > stop_at:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        endpoint.ask(bodies(endpoint, 8), check)
    assert time.monotonic() - start < 10
    assert threading.active_count() < 20


def test_one_prompt_may_be_refused(vendor: Vendor, connect: Connect) -> None:
    endpoint = connect()
    vendor.faults.append(refusal(400, "maximum context length is 4096 tokens", code="context_length_exceeded"))
    with pytest.raises(EndpointError, match=r"refuses a request: .*4096 tokens.* Shorten texts by --max-tokens"):
        endpoint.ask(bodies(endpoint, 1))
    assert endpoint.ask(bodies(endpoint, 1))[0].text in LABELS


def test_nobody_there_or_another_model(vendor: Vendor, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match=r"small at \S+: there is no such model or path .*`small` does not exist"):
        connect("small")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with pytest.raises(EndpointError, match="the key is refused"):
        connect()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelError, match=r"needs a key: OPENAI_API_KEY is not set\. Set it"):
        connect()
    assert vendor.tries == 2
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(EndpointError, match=r"it cannot be reached\. Check the URL"):
        Endpoint("openai:big@http://127.0.0.1:9/v1", patience=replace(QUICK, retries=0)).connect()


@pytest.mark.parametrize(
    ("setting", "dialect"),
    [
        ({}, Dialect()),
        ({"most_top": 0}, Dialect(num_top=0)),
        ({"drops": "top_logprobs"}, Dialect(num_top=0)),
        ({"drops": "max_tokens"}, Dialect(length="max_completion_tokens")),
        ({"drops": "temperature"}, Dialect(tempered=False)),
        ({"chats": False, "completes": True}, Dialect(path="completions", num_top=5)),
    ],
)
def test_what_it_understands_is_found_out(
    setting: dict[str, object], dialect: Dialect, vendor: Vendor, connect: Connect
) -> None:
    for name, value in setting.items():
        setattr(vendor, name, value)
    endpoint = connect()
    assert endpoint.labelling == endpoint.writing == dialect
    asked = len(vendor.asked)
    assert connect().labelling == dialect
    assert len(vendor.asked) == asked, "what was paid for to find it out is known"


def test_labels_by_completions_where_chat_tells_no_probabilities(vendor: Vendor, connect: Connect) -> None:
    vendor.completes, vendor.drops = True, "top_logprobs"
    endpoint = connect()
    assert (endpoint.writing, endpoint.labelling) == (Dialect(num_top=0), Dialect(path="completions", num_top=5))
    (reply,) = endpoint.ask(bodies(endpoint, 1))
    assert {t: math.exp(p) for t, p in reply.tokens[0].top} == pytest.approx(guess("Text 0", LABELS))


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert parse_name("openai:org/m:1@https://host:8/v1/") == ("org/m:1", "https://host:8/v1")
    assert parse_name("openai:gpt-x") == ("gpt-x", "https://api.openai.com/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    assert parse_name("openai:gpt-x") == ("gpt-x", "http://here/v1")
    for wrong in ("openai:", "openai:m@https://key@host/v1", "openai:m@https://host/v1?key=1"):
        with pytest.raises(ModelError, match=r"openai:MODEL@https://HOST/v1"):
            parse_name(wrong)


def test_the_cache_is_bounded_private_and_told_of_when_broken(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "answers.sqlite"
    cache = Cache(path, most_bytes=200_000)
    answer = Reply(text="x" * 5000, finish_reason="stop", usage=Usage(input_tokens=1), waited_ms=2.5)
    for k in range(100):
        cache.put(str(k), answer)
    kept = cache.get([str(k) for k in range(100)])
    assert 10 < len(kept) < 50
    assert "99" in kept
    assert "0" not in kept
    assert kept["99"] == answer
    assert path.stat().st_mode & 0o077 == 0
    with sqlite3.connect(path) as db:
        assert b"Text" not in bytes(str(db.execute("SELECT * FROM answers").fetchall()), "utf-8")
    db.close()
    for each in path.parent.iterdir():
        each.unlink()
    path.write_bytes(os.urandom(9000))
    with pytest.raises(RunError, match=r"cannot use the cache of answers .*Mend or remove it"):
        cache.get(["1"])


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", "null", '{"text": "x"}', '{"text": "x", "tokens": [{}], "usage": {}}']
)
def test_what_is_damaged_in_the_cache_is_not_known(damaged: str, tmp_path: Path) -> None:
    """As is what an older version kept in another form."""
    cache = Cache(tmp_path / "answers.sqlite")
    answer = Reply(text="x", finish_reason="stop", usage=Usage(input_tokens=1), waited_ms=2.5)
    cache.put("whole", answer)
    cache.put("torn", answer)
    with contextlib.closing(sqlite3.connect(tmp_path / "answers.sqlite")) as db, db:
        db.execute("UPDATE answers SET reply = ? WHERE key = 'torn'", (damaged,))
    assert cache.get(["whole", "torn"]) == {"whole": answer}
