"""Runs whose methods start from a saved adapter."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.commands import write_topics
from tunewright.adapters import folder, peft_format
from tunewright.adapters.parts import SoftPrompt
from tunewright.adapters.transfer import resized
from tunewright.api import Run, compare
from tunewright.backbones.backbone import Backbone
from tunewright.errors import AdapterError, ConfigError
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice
from tunewright.methods.table import METHODS
from tunewright.runtime import generator
from tunewright.training import state
from tunewright.tuning.attempt import attempt, prepare
from tunewright.tuning.start import Start, read_start

GetFolder = Callable[[str], Path]


def quick(data: Path, model: Path, out: Path, **settings: object) -> Run:
    every: dict[str, Any] = {"trials": 1, "seeds": 1, "folds": 1, "methods": "majority,soft-prompt"} | settings
    every["model"] = str(model)
    return compare(str(data), out=str(out), **every)


@pytest.fixture(scope="module")
def first(tiny_folder: GetFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps where its trainings ended."""
    place = tmp_path_factory.mktemp("first")
    data = write_topics(place / "topics.csv", 60)
    return quick(data, tiny_folder("llama"), place / "run", keep_state=True).folder


def test_state_is_kept_where_asked(first: Path, finished_run: Path) -> None:
    kept = state.load(first / "adapters/soft-prompt/seed-0")
    adapter = folder.load(first / "adapters/soft-prompt/seed-0")
    assert kept is not None
    assert set(kept.leaves) == {"soft_prompt.vectors", "head.weight", "head.bias"}
    assert all(torch.equal(adapter.tensors()[name], tensor) for name, tensor in kept.leaves.items())
    assert not list(finished_run.rglob(state.FILE_NAME))


def test_goes_on_from_it(first: Path, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """The saved length is tried first, what is started from is said, and what comes out is another prompt."""
    data, place = write_topics(tmp_path / "other.csv", 60, seed=5), first / "adapters/soft-prompt/seed-0"
    run = quick(data, tiny_folder("llama"), tmp_path / "run", start_from=str(place))
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "soft-prompt start from the soft prompt of 20 vectors, repeated where a trial has more" in log
    assert "moments of its optimizer" in log
    trial = json.loads((run.folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert trial["params"]["length"] == 20
    mine, its = (folder.load(p / "adapters/soft-prompt/seed-0").soft_prompt for p in (run.folder, first))
    assert mine is not None
    assert its is not None
    moved = (mine.vectors_PD - its.vectors_PD).norm() / its.vectors_PD.norm()
    assert 0 < moved < 1.5


@pytest.mark.parametrize("name", ["soft-prompt", "p-tuning"])
def test_before_the_first_step(name: str, tiny_backbone: Callable[[str], Backbone]) -> None:
    """Stopped at once, what is judged is the saved prompt in the new length, not words of the vocabulary."""
    base = tiny_backbone("llama")
    saved = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=1))
    start = Start(path=Path("x"), adapter=saved, state=None)
    shop = prepare(tiny.task(), base, tiny.examples(15), tiny.examples(9, seed=1), METRICS["accuracy"], base.max_tokens)
    method = METHODS[name]
    space = start.space(method, method.space(shop.material), 64)
    assert isinstance(space["length"], Choice)
    assert isinstance(space["init"], Choice)
    assert (space["length"].options[0], len(space["init"].options)) == (5, 1)
    params = {n: c.default for n, c in space.items()} | {"length": 10, "lr": 1e-12, "epochs": 1}
    found = attempt(method, params, replace(shop, start=start), generator("x"), lambda *_: None).trained.adapter
    assert saved.soft_prompt is not None
    assert found.soft_prompt is not None
    torch.testing.assert_close(
        found.soft_prompt.vectors_PD, resized(saved.soft_prompt.vectors_PD, 10, 0), atol=1e-5, rtol=0
    )
    assert found.head is not None
    assert saved.head is not None
    torch.testing.assert_close(found.head.weight_CD, saved.head.weight_CD, atol=1e-8, rtol=0)


def test_from_a_folder_of_pefts(tiny_backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    base = tiny_backbone("llama")
    part = SoftPrompt(vectors_PD=tiny.normal(3, 6, 32))
    peft_format.write(part, tmp_path / "peft", base_name="x")
    (found,) = read_start(str(tmp_path / "peft"), {"b": base}, [METHODS["soft-prompt"]]).values()
    assert found.adapter.soft_prompt is not None
    assert torch.equal(found.adapter.soft_prompt.vectors_PD, part.vectors_PD)
    assert "does not tell" in found.said([METHODS["soft-prompt"]])


def test_mistakes(first: Path, tiny_backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    place = str(first / "adapters/soft-prompt/seed-0")
    llama, gpt2, soft_prompt = tiny_backbone("llama"), tiny_backbone("gpt2"), [METHODS["soft-prompt"]]
    assert read_start(None, {"b": llama}, soft_prompt) == {}
    assert set(read_start(place, {"a": gpt2, "b": llama}, soft_prompt)) == {"b"}
    with pytest.raises(AdapterError, match=f"{llama.identity.sha256[:12]}.*{gpt2.identity.sha256[:12]}"):
        read_start(place, {"b": gpt2}, soft_prompt)
    with pytest.raises(ConfigError, match=r"no effect.*soft_prompt"):
        read_start(place, {"b": llama}, [METHODS["lora"], METHODS["majority"]])
    with pytest.raises(AdapterError, match="no adapter folder"):
        read_start(str(tmp_path), {"b": llama}, soft_prompt)
    wide = SoftPrompt(vectors_PD=tiny.normal(3, 6, 33))
    peft_format.write(wide, tmp_path / "wide", base_name="x")
    with pytest.raises(AdapterError, match=r"33.*32"):
        read_start(str(tmp_path / "wide"), {"b": llama}, soft_prompt)
