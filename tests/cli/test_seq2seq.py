"""Encoder-decoders from the command line: compared, asked, used, looked at and served, by labels and in texts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Call, write_meanings, write_topics
from tests.serve.live import serving
from tunewright.serve.predictor import Predictor


def compared(call: Call, data: Path, out: Path, *flags: str) -> dict[str, Any]:
    done = call("compare", data, "--trials", "1", "--seeds", "1", "--folds", "1", "--out", out, *flags)
    assert done.code == 0, done
    found: dict[str, Any] = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def t5(tiny_folder: Callable[[str], Path]) -> str:
    return str(tiny_folder("t5"))


def test_labels(call: Call, t5: str, tmp_path: Path) -> None:
    """A run, its adapters used and looked at, and both kinds of answers from a server: those of `predict`."""
    data, run = write_topics(tmp_path / "topics.csv", 48), tmp_path / "run"
    methods = "zero-shot,prompt-search,prefix,chain-of-thought"
    found = compared(call, data, run, "--model", t5, "--methods", methods)
    status = {each["id"]: (each["status"], each["reason"]) for each in found["candidates"]}
    assert [found["backbones"][0]["kind"], status.pop("chain-of-thought")[0]] == ["seq2seq", "skipped"]
    assert {name for name, (how, _) in status.items() if how == "ok"} >= {"zero-shot", "prefix"}
    asked = call("try", "it: {text} was", data, "--model", t5, "--rows", "2")
    assert asked.out.count("mean log-probability per token") == 2, asked
    adapters = {name: run / "adapters" / name / "seed-0" for name in ("zero-shot", "prefix")}
    with serving([f"{name}={path}" for name, path in adapters.items()]) as live, live.client() as client:
        for name, path in adapters.items():
            assert call("predict", path, data, "--out", tmp_path / f"{name}.csv").code == 0
            assert "accuracy" in call("evaluate", path, data).out
            assert "(seq2seq)" in call("inspect", path).out
            texts = ["soup and bread", "a train"]
            reply = client.post(f"/v1/tasks/{name}/predict", json={"rows": [{"text": text} for text in texts]})
            expected = Predictor.load(path).predict(texts)
            assert reply.status_code == 200, reply.text
            assert [row["label"] for row in reply.json()["answers"]] == [each.label for each in expected]


def test_texts(call: Call, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """What is shown answers writes; a server says in a line that it does not."""
    data, run = write_meanings(tmp_path / "pubs.csv"), tmp_path / "run"
    flags = ("--task", "generate", "--input", "mr", "--target", "ref", "--model", str(tiny_folder("bart")))
    found = compared(call, data, run, *flags, "--methods", "few-shot,copy-input")
    assert {each["id"]: each["status"] for each in found["candidates"]} == dict.fromkeys(
        ("copy-input", "few-shot"), "ok"
    )
    path = run / "adapters" / "few-shot" / "seed-0"
    assert call("predict", path, data, "--out", tmp_path / "written.csv").code == 0
    with serving([f"shown={path}"]) as live, live.client() as client:
        reply = client.post("/v1/tasks/shown/predict", json={"text": "name[Zizzi]"})
    assert reply.status_code >= 400
    assert "only a decoder is served token by token" in reply.text
