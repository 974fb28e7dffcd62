"""What the server answers is what `predict` answers, whatever shares the batch."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests import tiny
from tests.backbones import test_choices as choices
from tests.parity.test_masked import SPLIT, WORDS, asking
from tests.serve.live import ABOUT, Live, serving
from tunewright.adapters import folder
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.masked import Masked
from tunewright.serve.predictor import Predictor
from tunewright.types import Example

TEXTS = [example.text for example in tiny.examples(12, seed=5)] + ["bread " * 300, "soup"]


def expected(folders: list[str], model: str) -> dict[tuple[str, str], tuple[str, tuple[float, ...]]]:
    """Task and text -> label and probabilities, each row predicted alone."""
    found = {}
    for path in folders:
        predictor = Predictor.load(Path(path), model=model)
        for text in TEXTS:
            (answer,) = predictor.predict([Example(id="1", text=text)])
            found[Path(path).name, text] = (answer.answer, answer.probabilities)
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


def test_prompted_tasks_of_a_masked_model_answer_as_predict(
    tiny_masked: Callable[[str], Masked], tmp_path: Path
) -> None:
    """Words around each row, one of several masks, beside a bare head; and a template that leaves no room."""
    base = tiny_masked("masked-electra")
    adapters = {
        "words": asking(base, WORDS),
        "split": asking(base, SPLIT, fixed="soup food\n"),
        "head": replace(tiny.adapter(base), max_tokens=12),
    }
    for name, adapter in (adapters | {"full": asking(base, WORDS, fixed="soup " * 100)}).items():
        folder.save(adapter.with_about(ABOUT), tmp_path / name)
    texts = [text.replace("\u2014", "-") for text in TEXTS[:5]]
    with serving([str(tmp_path / name) for name in (*adapters, "full")]) as live, live.client() as client:
        for name, adapter in adapters.items():
            reply = client.post(f"/v1/tasks/{name}/predict", json={"rows": [{"text": text} for text in texts]})
            assert reply.status_code == 200, reply.text
            for answer, wanted in zip(reply.json()["answers"], Predictor(adapter, base).predict(texts), strict=True):
                assert answer["label"] == wanted.label
                assert list(answer["probabilities"].values()) == pytest.approx(wanted.probabilities, abs=1e-5)
        (row,) = tiny.rows(adapters["words"], base.encode_for(tiny.as_examples(texts[:1]), adapters["words"]))
        seen = client.post("/v1/embeddings", json={"model": "words", "input": texts[0]}).json()["data"][0]["embedding"]
        assert seen == pytest.approx(at_mask(base, row), abs=1e-5)
        refused = client.post("/v1/tasks/full/predict", json={"text": "soup"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "task full has no room: the template leaves no room for a text" in refused.text


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_rows_with_candidates_answer_as_predict(
    kind: str, tiny_backbone: Callable[[str], Backbone], tmp_path: Path
) -> None:
    """Beside rows without, in one batch; by a head over pairs, and where the base writes as answers to a prompt."""
    base = tiny_backbone(kind)
    adapters = {"pairs": choices.paired(base), "plain": tiny.adapter(base)}
    adapters |= {"asked": choices.asked(base)} if base.answers_prompts else {}
    for name, adapter in adapters.items():
        folder.save(adapter.with_about(ABOUT), tmp_path / name)
    rows = [replace(row, text_pair=None) for row in choices.ROWS]
    asked = [(name, row if name != "plain" else replace(row, choices=())) for row in rows for name in adapters]

    async def ask(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            bodies = [{"text": row.text, "choices": list(row.choices)} for _, row in asked]
            paths = [f"/v1/tasks/{name}/predict" for name, _ in asked]
            return await asyncio.gather(*(client.post(p, json=b) for p, b in zip(paths, bodies, strict=True)))

    with serving([str(tmp_path / name) for name in adapters]) as live:
        replies = asyncio.run(ask(live.url))
        with live.client() as client:
            for task, given in (("pairs", ["one"]), ("pairs", ["one", "one"]), ("plain", ["one", "two"])):
                refused = client.post(f"/v1/tasks/{task}/predict", json={"text": "soup", "choices": given})
                assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_choices")
            said = client.post("/v1/completions", json={"model": "pairs", "prompt": "soup"}).json()["error"]["message"]
            assert said == "task pairs chooses among 2: give as many different texts in `choices`. Got 0."
    for (name, row), reply in zip(asked, replies, strict=True):
        (answer,), (wanted,) = reply.json()["answers"], Predictor(adapters[name], base).predict([row])
        assert answer["label"] == wanted.label
        assert list(answer["probabilities"].values()) == pytest.approx(wanted.probabilities, abs=1e-4)


def at_mask(base: Masked, row: Row) -> list[float]:
    """Features of a row under a template, as words are compared with them."""
    bare = replace(row.adapter, verbalizer=None, head=tiny.head(base, 0))
    values: list[float] = base.readings([replace(row, adapter=bare)])[0].tolist()
    return values
