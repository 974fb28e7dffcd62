"""What the server answers is what `predict` answers, whatever shares the batch."""

import asyncio
import random
from pathlib import Path

import httpx
import pytest

from tests import tiny
from tests.serve.live import Live
from tunewright.serve.predictor import Predictor
from tunewright.types import Example

TEXTS = [example.text for example in tiny.examples(12, seed=5)] + ["bread " * 300, "soup"]


def expected(folders: list[str], model: str) -> dict[tuple[str, str], tuple[str, tuple[float, ...]]]:
    """Task and text -> label and probabilities, each row predicted alone."""
    found = {}
    for folder in folders:
        predictor = Predictor.load(Path(folder), model=model)
        for text in TEXTS:
            (answer,) = predictor.predict([Example(id="1", text=text)])
            found[Path(folder).name, text] = (answer.answer, answer.probabilities)
    return found


async def ask_all(url: str, asked: list[tuple[str, str]]) -> list[httpx.Response]:
    """All at once, each in a request of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=64)) as client:
        asks = [client.post(f"/v1/tasks/{task}/predict", json={"text": text}) for task, text in asked]
        return await asyncio.gather(*asks)


def test_mixed_batches_answer_as_predict(live: Live, task_folders: list[str], tiny_folder: object) -> None:
    """32 tasks of all kinds that mix, every text, in random order: the same labels, the same probabilities."""
    assert callable(tiny_folder)
    wanted = expected(task_folders, str(tiny_folder("bert")))
    assert len(task_folders) == 32
    asked = list(wanted)
    random.Random(3).shuffle(asked)
    replies = asyncio.run(ask_all(live.url, asked))
    for (task, text), reply in zip(asked, replies, strict=True):
        assert reply.status_code == 200, reply.text
        body = reply.json()
        assert (body["task"], body["version"]) == (task, 1)
        assert reply.headers["x-request-id"] == body["request_id"]
        label, probabilities = wanted[task, text]
        (answer,) = body["answers"]
        assert answer["label"] == label
        assert list(answer["probabilities"].values()) == pytest.approx(probabilities, abs=1e-4)
        assert (answer["num_cut"] > 0) == (len(text) > 1000)


def test_many_rows_come_back_in_their_order(live: Live) -> None:
    rows = [{"text": text} for text in TEXTS]
    with live.client() as client:
        together = client.post("/v1/tasks/soft-1/predict", json={"rows": rows}).json()["answers"]
        alone = [client.post("/v1/tasks/soft-1/predict", json=row).json()["answers"][0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert len({tuple(each["probabilities"].values()) for each in together}) == len(rows), "rows must differ"
