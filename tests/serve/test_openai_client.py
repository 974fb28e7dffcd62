"""The openai client, unmodified, against a server of encoder tasks."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import torch

from tests import tiny
from tests.serve.live import Live
from tunewright.adapters import folder
from tunewright.backbones.base import Row
from tunewright.serve.predictor import Predictor
from tunewright.types import Example

TEXT = "we had some good soup and bread"


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=30) as found:
        yield found


@pytest.fixture(scope="module")
def lora(task_folders: list[str], tiny_folder: Callable[[str], Path]) -> Predictor:
    (path,) = [path for path in task_folders if path.endswith("/lora-1")]
    return Predictor.load(Path(path), model=str(tiny_folder("bert")))


def wanted(predictor: Predictor, text: str = TEXT) -> tuple[str, dict[str, float]]:
    (answer,) = predictor.predict([Example(id="1", text=text)])
    return answer.answer, dict(zip(predictor.labels, answer.probabilities, strict=True))


def test_each_task_is_a_model(client: openai.OpenAI, task_folders: list[str]) -> None:
    assert sorted(model.id for model in client.models.list()) == sorted(Path(path).name for path in task_folders)
    assert client.models.retrieve("soft-2").id == "soft-2"


def test_chat(client: openai.OpenAI, lora: Predictor) -> None:
    label, _ = wanted(lora)
    raw = client.chat.completions.with_raw_response.create(
        model="lora-1", messages=[{"role": "user", "content": TEXT}], temperature=0, seed=3, stop=["."], max_tokens=5
    )
    chat = raw.parse()
    (choice,) = chat.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (label, "assistant", "stop")
    assert choice.logprobs is None
    assert chat.system_fingerprint == "lora-1@1"
    assert chat.id == f"chatcmpl-{raw.headers['x-request-id']}"
    assert raw.headers["x-tunewright-version"] == "1"


def test_logprobs_are_those_of_the_labels(client: openai.OpenAI, lora: Predictor) -> None:
    label, probabilities = wanted(lora)
    chat = client.chat.completions.create(
        model="lora-1", messages=[{"role": "user", "content": TEXT}], logprobs=True, top_logprobs=2
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    (token,) = logprobs.content
    assert (token.token, bytes(token.bytes or ())) == (label, label.encode())
    assert token.logprob == pytest.approx(math.log(probabilities[label]), abs=1e-4)
    best = sorted(probabilities, key=lambda name: -probabilities[name])[:2]
    assert [top.token for top in token.top_logprobs] == best
    assert [top.logprob for top in token.top_logprobs] == pytest.approx(
        [math.log(probabilities[name]) for name in best], abs=1e-4
    )


def test_usage_tells_prefix_tokens_apart(client: openai.OpenAI, task_folders: list[str], lora: Predictor) -> None:
    """The tiny tokenizer has a piece for each of these words, and two special tokens."""
    (path,) = [path for path in task_folders if path.endswith("/soft-1")]
    length = folder.load(Path(path)).prefix_tokens
    num_tokens = len(lora.encode([Example(id="1", text=TEXT)])[0].ids)
    assert length > 0
    chat = client.chat.completions.create(model="soft-1", messages=[{"role": "user", "content": TEXT}])
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == num_tokens + length
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    details = chat.usage.prompt_tokens_details
    assert details is not None
    assert details.model_dump()["prefix_tokens"] == length


def test_stream(client: openai.OpenAI, lora: Predictor) -> None:
    label, probabilities = wanted(lora)
    stream = client.chat.completions.create(
        model="lora-1",
        messages=[{"role": "user", "content": TEXT}],
        stream=True,
        logprobs=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert pieces[0].delta.role == "assistant"
    assert "".join(piece.delta.content or "" for piece in pieces) == label
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    found = [token for piece in pieces if piece.logprobs is not None for token in piece.logprobs.content or ()]
    assert [token.logprob for token in found] == pytest.approx([math.log(probabilities[label])], abs=1e-4)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completions(client: openai.OpenAI, lora: Predictor) -> None:
    texts = [TEXT, "train ticket", "song"]
    done = client.completions.create(model="lora-1", prompt=texts, logprobs=2)
    expected = [wanted(lora, text) for text in texts]
    assert [choice.text for choice in done.choices] == [label for label, _ in expected]
    for choice, (label, probabilities) in zip(done.choices, expected, strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == [label]
        assert choice.logprobs.token_logprobs == pytest.approx([math.log(probabilities[label])], abs=1e-4)
        assert choice.logprobs.top_logprobs is not None
        assert len(choice.logprobs.top_logprobs[0]) == 2
    streamed = list(client.completions.create(model="lora-1", prompt=texts, stream=True))
    assert {chunk.choices[0].index: chunk.choices[0].text for chunk in streamed} == dict(
        enumerate(label for label, _ in expected)
    )


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(encoding: str, client: openai.OpenAI, lora: Predictor) -> None:
    """The client decodes base64 where it asks for it of itself; here it is asked for both."""
    texts = [TEXT, "train ticket"]
    if encoding == "float":
        found = client.embeddings.create(model="lora-1", input=texts, encoding_format="float")
    else:
        found = client.embeddings.create(model="lora-1", input=texts)
    backbone = lora._store.backbone
    encodings = tiny.encodings(backbone, texts)
    with torch.no_grad():
        expected = backbone.features([Row(encoding=e, adapter=lora.adapter) for e in encodings])
    np.testing.assert_allclose([each.embedding for each in found.data], expected.numpy(), atol=1e-4)
    assert [each.index for each in found.data] == [0, 1]
    assert found.usage.prompt_tokens == sum(len(e.ids) for e in encodings)


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": TEXT}])
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id is not None
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="lora-1", messages=[{"role": "user", "content": "bread " * 300}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="one message of the user") as system:
        client.chat.completions.create(
            model="lora-1", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
        )
    assert system.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as stops:
        client.completions.create(model="lora-1", prompt=TEXT, stop=["x"] * 10_000)
    assert (stops.value.param or "").startswith("stop")
