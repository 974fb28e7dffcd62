"""Tasks that answer in text, and tasks that score or classify on a decoder, in one batch."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest

from tests import tiny
from tests.serve.live import ABOUT, Live, serving
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Head, Part, Template, Verbalizer
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder
from tunewright.serve.ask import Ask, Piece, Reply
from tunewright.serve.gate import Limits
from tunewright.serve.predictor import Predictor
from tunewright.serve.tasks import Served
from tunewright.serve.work import prepare
from tunewright.serve.writing import Writing
from tunewright.types import Example

TEXTS = ["good soup", "train road map", "a song", "old bread and salt", "one", "very new hotel"]
KIND = "llama"


def _writers(base: Decoder) -> dict[str, Adapter]:
    """One of each kind of prefix, with as many tokens as each row wants."""
    template = Template(fixed="some good old song and soup", row="{text} :")
    parts: dict[str, dict[str, Part]] = {
        "w-plain": {},
        "w-template": {"template": template},
        "w-soft": {"soft_prompt": tiny.soft_prompt(base, 3, 1)},
        "w-prefix": {"prefix": tiny.prefix(base, 4, 2)},
        "w-lora": {"lora": tiny.lora(base, 2, 3)},
        "w-all": {
            "template": template,
            "soft_prompt": tiny.soft_prompt(base, 2, 4),
            "lora": tiny.lora(base, 1, 5),
        },
    }
    decoding = Decoding(max_new_tokens=9)
    return {name: _made(base, labels=(), decoding=decoding, **own) for name, own in parts.items()}


def _made(base: Decoder, labels: tuple[str, ...], **parts: Part) -> Adapter:
    made = Adapter(base=base.identity, labels=labels, max_tokens=32, **parts)  # type: ignore[arg-type]
    return made.with_about(ABOUT)


def _classifiers(base: Decoder) -> dict[str, Adapter]:
    head = tiny.head(base, 3)
    assert isinstance(head, Head)
    labels = tuple(tiny.GROUPS)
    verbalizer = Verbalizer(phrases=(("food", "soup"), ("travel",), ("music",)), scale=2.0)
    template = Template(fixed="it was", row="{text} :")
    columns = Template(fixed="it was", row="{text} of {place} :", columns=("place",))
    return {
        "c-head": _made(base, labels, head=head, soft_prompt=tiny.soft_prompt(base, 5, 8)),
        "c-columns": _made(base, labels, template=columns, verbalizer=verbalizer),
        "c-scores": _made(base, labels, template=template, verbalizer=verbalizer),
    }


@pytest.fixture(scope="module")
def base(tiny_folder: Callable[[str], Path]) -> Decoder:
    return tiny.decoder(tiny_folder(KIND))


@pytest.fixture(scope="module")
def adapters(base: Decoder) -> dict[str, Adapter]:
    return _writers(base) | _classifiers(base)


@pytest.fixture(scope="module")
def live(adapters: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    parent = tmp_path_factory.mktemp("writers")
    for name, adapter in adapters.items():
        folder.save(adapter, parent / name)
    with serving([str(parent / name) for name in adapters], max_batch=8) as found:
        yield found


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def _row(text: str, adapter: Adapter) -> Example:
    return Example(id=text, text=text, fields=dict.fromkeys(adapter.columns, f"the {text}"))


def _asked(row: Example) -> dict[str, object]:
    return {"text": row.text, **({"fields": dict(row.fields)} if row.fields else {})}


def test_mixed_rows_are_answered_as_alone(live: Live, base: Decoder, adapters: dict[str, Adapter]) -> None:
    """As `predict` answers; all tasks at once, more rows than places, so that rows join and leave as they finish."""
    replies: dict[str, list[dict[str, object]]] = {}
    rows = {name: [_row(text, adapter) for text in TEXTS] for name, adapter in adapters.items()}

    def ask(name: str) -> None:
        with live.client() as client:
            body = client.post(f"/v1/tasks/{name}/predict", json={"rows": [_asked(row) for row in rows[name]]})
            assert body.status_code == 200, body.text
            replies[name] = body.json()["answers"]

    threads = [threading.Thread(target=ask, args=(name,)) for name in adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = set()
    for name, adapter in adapters.items():
        if adapter.writes_text:
            expected = [prediction.text for prediction in Predictor(adapter, base).predict(rows[name])]
            assert [answer["text"] for answer in replies[name]] == expected
            written.update(expected)
            continue
        for answer, prediction in zip(replies[name], Predictor(adapter, base).predict(rows[name]), strict=True):
            assert answer["label"] == prediction.label
            probabilities = answer["probabilities"]
            assert isinstance(probabilities, dict)
            assert list(probabilities.values()) == pytest.approx(prediction.probabilities, abs=1e-4)
    assert len(written) > 12, "texts must differ"


@pytest.mark.parametrize(
    ("task", "fields", "words"),
    [
        ("c-columns", None, "task c-columns shows `place` beside the text: give just these in `fields`. Got none."),
        ("c-columns", {"place": "a", "x": "b"}, "give just these in `fields`. Got place, x."),
        ("c-scores", {"place": "a"}, "task c-scores takes no `fields`. Got place."),
    ],
)
def test_columns_that_do_not_fit(task: str, fields: dict[str, str] | None, words: str, live: Live) -> None:
    with live.client() as client:
        asked = {"text": "soup", **({} if fields is None else {"fields": fields})}
        body = client.post(f"/v1/tasks/{task}/predict", json=asked)
        assert body.status_code == 400
        assert body.json()["error"]["code"] == "wrong_fields"
        assert words in body.json()["error"]["message"]


def test_a_masked_model_is_asked_under_its_template(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny.masked(tiny_folder("masked-bert"))
    template = Template(fixed="", row="{text} of {place} was [MASK].", columns=("place",))
    verbalizer = Verbalizer(phrases=(("food",), ("travel",), ("music",)), scale=1.0)
    adapter = Adapter(
        base=base.identity, labels=tuple(tiny.GROUPS), max_tokens=32, template=template, verbalizer=verbalizer
    ).with_about(ABOUT)
    folder.save(adapter, tmp_path / "masked")
    rows = [_row(text, adapter) for text in TEXTS]
    with serving([str(tmp_path / "masked")]) as live, live.client() as client:
        body = client.post("/v1/tasks/masked/predict", json={"rows": [_asked(row) for row in rows]}).json()
    for answer, prediction in zip(body["answers"], Predictor(adapter, base).predict(rows), strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(prediction.probabilities, abs=1e-4)


def test_chat_and_its_stream_say_the_same(client: openai.OpenAI, base: Decoder, adapters: dict[str, Adapter]) -> None:
    adapter = adapters["w-all"]
    (encoding,) = base.encode_for([Example(id="0", text=TEXTS[0])], adapter)
    (expected,) = base.generate([Row(encoding=encoding, adapter=adapter)])
    chat = client.chat.completions.create(
        model="w-all", messages=[{"role": "user", "content": TEXTS[0]}], logprobs=True
    ).model_dump()
    (choice,) = chat["choices"]
    assert choice["message"]["content"] == expected.text.strip()
    assert choice["finish_reason"] == expected.finish_reason
    log_probs = pytest.approx(expected.log_probs, abs=1e-4)
    assert [token["logprob"] for token in choice["logprobs"]["content"]] == log_probs
    details = chat["usage"]["prompt_tokens_details"]
    assert chat["usage"]["completion_tokens"] == len(expected.ids)
    num_prefix = 2 + len(base.fixed_ids("some good old song and soup"))
    assert details["cached_tokens"] == details["prefix_tokens"] == num_prefix
    stream = client.chat.completions.create(
        model="w-all", messages=[{"role": "user", "content": TEXTS[0]}], stream=True, logprobs=True
    )
    pieces = [chunk.model_dump()["choices"][0] for chunk in stream]
    assert "".join(piece["delta"]["content"] or "" for piece in pieces).strip() == expected.text.strip()
    assert pieces[-1]["finish_reason"] == expected.finish_reason
    assert [token["logprob"] for piece in pieces[1:] for token in piece["logprobs"]["content"]] == log_probs


def test_settings_of_a_request(client: openai.OpenAI) -> None:
    def write(**settings: object) -> str:
        done = client.completions.create(model="w-plain", prompt=TEXTS[1], **settings)  # type: ignore[call-overload]
        return str(done.choices[0].text)

    whole = write()
    short = client.completions.create(model="w-plain", prompt=TEXTS[1], max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert whole.startswith(short.choices[0].text)
    assert short.usage is not None
    assert short.usage.completion_tokens == 3
    middle = whole[len(whole) // 2]
    assert write(stop=[middle]) == whole[: whole.index(middle)].strip()
    drawn = [write(temperature=1.5, seed=seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_alternatives_of_written_tokens_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tells no alternatives"):
        client.chat.completions.create(
            model="w-plain", messages=[{"role": "user", "content": "soup"}], logprobs=True, top_logprobs=2
        )


def test_an_answer_longer_than_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="w-plain", prompt=TEXTS[1], max_tokens=4096)
    assert long.value.code == "context_length_exceeded"


def test_a_client_that_leaves_mid_stream(live: Live) -> None:
    """Its row leaves the batch; its place is free."""
    body = {"model": "w-plain", "prompt": [TEXTS[0]] * 8, "stream": True, "max_tokens": 40}
    with live.client() as client, client.stream("POST", "/v1/completions", json=body) as streamed:
        assert streamed.status_code == 200
        next(streamed.iter_lines())
    with live.client() as client:
        reply = client.post("/v1/tasks/w-soft/predict", json={"text": "soup"})
        assert reply.status_code == 200
    for _ in range(200):
        if len(live.service._engine._writing) == 0:
            break
        threading.Event().wait(0.02)
    assert len(live.service._engine._writing) == 0


def test_a_stream_that_takes_too_long_ends_with_the_fault(adapters: dict[str, Adapter], tmp_path: Path) -> None:
    """Its status was sent before: the last event says that the answer is not whole."""
    folder.save(adapters["w-plain"], tmp_path / "w-plain")
    body = {"model": "w-plain", "prompt": [TEXTS[0]] * 256, "stream": True, "max_tokens": 40}
    with serving([str(tmp_path / "w-plain")], max_batch=1, limits=Limits(time_s=2)) as live, live.client() as client:
        reply = client.post("/v1/completions", json=body)
        events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
        assert reply.status_code == 200
        assert "choices" in events[0]
        assert events[-1]["error"]["code"] == "timeout"
        assert client.get("/healthz").status_code == 200


def test_lines_of_a_stream(live: Live) -> None:
    """Server-sent events as the protocol has them."""
    body = {"model": "w-plain", "prompt": TEXTS[:2], "stream": True, "stream_options": {"include_usage": True}}
    reply = httpx.post(f"{live.url}/v1/completions", json=body, timeout=60)
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["choices"][0]["index"] for chunk in chunks[:-1]} == {0, 1}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 1


def test_rows_wait_for_room(base: Decoder, adapters: dict[str, Adapter]) -> None:
    """One at a time where there is room for one, two where there is for two; the answers are the same."""
    adapter = adapters["w-all"]
    served = Served(task="w", version=1, folder="/f")
    found: dict[int, list[tuple[str, str]]] = {}
    longest = max(len(base.encode_for([_example(text)], adapter)[0].ids) for text in TEXTS[1:4:2])
    row_bytes = 2 * 4 * math.prod(base.prefix_shape) * (longest + 9)
    for rows in (1, 2, 100):
        writing = Writing(rows * row_bytes)
        asks = [Ask(served=served, example=_example(text), reply=Reply()) for text in TEXTS[1:4:2] * 2]
        told = [*writing.add(prepare(base, [(ask, adapter) for ask in asks], []))]
        at_once = 0
        while len(writing):
            told += writing.step()
            at_once = max(at_once, len(writing._work))
        assert not any(isinstance(event, Exception) for _, event in told)
        assert at_once == min(rows, len(asks))
        found[rows] = sorted((ask.example.text, piece.text) for ask, piece in told if isinstance(piece, Piece))
    assert found[1] == found[2] == found[100]
    assert len(found[1]) >= 4


def _example(text: str) -> Example:
    return Example(id="0", text=text)


def test_what_is_drawn_depends_on_the_row_alone(base: Decoder, adapters: dict[str, Adapter]) -> None:
    """Not on where it stands."""
    adapter = replace(adapters["w-soft"], decoding=Decoding(max_new_tokens=9, temperature=3.0))
    predictor = Predictor(adapter, base)
    there, back = (
        [answer.answer for answer in predictor.predict(texts)] for texts in (TEXTS, ["first", *reversed(TEXTS)])
    )
    assert there == back[:0:-1]
    assert len(set(there)) == len(TEXTS)


def test_alternatives_are_refused_before_a_token_is_written(live: Live) -> None:
    """Also in a stream: with a status, not with a last event."""

    def written(client: httpx.Client) -> list[str]:
        return [line for line in client.get("/metrics").text.splitlines() if 'kind="written"' in line]

    with live.client() as client:
        before = written(client)
        for stream in (False, True):
            asked = {"model": "w-soft", "prompt": "one", "logprobs": 2, "stream": stream}
            reply = client.post("/v1/completions", json=asked)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_alternatives")
        assert written(client) == before
