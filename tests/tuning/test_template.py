"""The user's present prompt in a run: asked as it is, a candidate of its own; and what is refused."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tunewright as tw
from tests import tiny
from tests.commands import write_topics
from tunewright.errors import ConfigError, RunError
from tunewright.tuning.progress import Silent

SOURCE = "One of {labels}.\n\nit: {message} was"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    path = write_topics(folder / "topics.csv", 48)
    text = path.read_text(encoding="utf-8").split("\n", 1)
    path.write_text(f"message,label\n{text[1]}", encoding="utf-8")
    (folder / "prompt.txt").write_text(SOURCE + "\n", encoding="utf-8")
    return path


def compare(data: Path, model: Path, listener: Silent | None = None, **settings: Any) -> tw.Run:
    return tw.compare(
        str(data), model=str(model), trials=2, seeds=1, folds=1, template=str(data.parent / "prompt.txt"),
        listener=Silent() if listener is None else listener, **settings,
    )  # fmt: skip


class Editing(Silent):
    """Another prompt stands in the file as soon as the run has begun."""

    def __init__(self, prompt: Path) -> None:
        self._prompt = prompt

    def note(self, message: str) -> None:
        assert message
        self._prompt.write_text("{message}?", encoding="utf-8")


def test_it_is_a_candidate_as_it_is(data: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    prompt = data.parent / "prompt.txt"
    run = compare(data, tiny_folder("llama"), Editing(prompt), methods="majority,template,zero-shot", out=str(out))
    found = {c.id: c for c in run.comparison.candidates}
    assert {name: c.status for name, c in found.items()} == dict.fromkeys(("majority", "template", "zero-shot"), "ok")
    adapter = run["template"].adapter
    assert adapter.template is not None
    assert adapter.verbalizer is not None
    labels = ", ".join(adapter.labels)
    assert (adapter.template.fixed, adapter.template.row) == (f"One of {labels}.\n\n", "it: {text} was")
    assert adapter.verbalizer.phrases == tuple((label,) for label in adapter.labels)
    assert adapter.calibration is None or adapter.calibration.bias_C is None
    assert found["zero-shot"].params["template"] in {"yours", "label", "opinion", "topic"}
    assert prompt.read_text(encoding="utf-8") == "{message}?"
    with pytest.raises(RunError, match=r"the template .*prompt.txt changed since the run began"):
        compare(data, tiny_folder("llama"), methods="majority,template,zero-shot", out=str(out), resume=True)
    prompt.write_text(SOURCE, encoding="utf-8")


def test_texts_that_it_cuts_are_told(data: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """As many as do not fit in what a long template leaves of the context; without it none is cut."""
    base = tiny.decoder(tiny_folder("llama"))
    words = "\n".join(["the old and the new"] * 5)
    (tmp_path / "prompt.txt").write_text(f"{words}\n{{text}} was", encoding="utf-8")
    shutil.copy(data, tmp_path / "topics.csv")
    run = compare(tmp_path / "topics.csv", tiny_folder("llama"), methods="majority,template", out=str(tmp_path / "run"))
    adapter = run["template"].adapter
    with (tmp_path / "topics.csv").open(encoding="utf-8") as file:
        texts = [row["message"] for row in csv.DictReader(file)]
    kept = [e.num_cut == 0 for e in base.encode_for(tiny.as_examples(texts), adapter)]
    assert 0 < sum(kept) < len(texts)
    found = re.search(
        r"template: (\d+) of (\d+) texts to learn from (?:is|are) cut", (run.folder / "log.txt").read_text()
    )
    assert found is not None
    ids = json.loads((run.folder / "data.json").read_text())["splits"]
    learned = [kept[int(each.split(":")[1]) - 1] for name in ("train", "dev") for each in ids[name]]
    assert (int(found[1]), int(found[2])) == (learned.count(False), len(learned))


def test_an_encoder_is_not_asked(data: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run = compare(data, tiny_folder("bert"), methods="majority,template", out=str(tmp_path / "run"))
    found = {c.id: c for c in run.comparison.candidates}["template"]
    assert found.status == "skipped"
    assert "answers no prompts; give a decoder or a masked model with --model" in str(found.reason)


def test_what_is_refused(data: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_folder("llama")
    with pytest.raises(ConfigError, match="method 'template' needs --template"):
        tw.compare(str(data), model=str(model), methods="template", out=str(tmp_path / "a"), listener=Silent())
    with pytest.raises(ConfigError, match=r"`template` is for method 'template', which takes no part\. Got methods"):
        compare(data, model, methods="majority", out=str(tmp_path / "b"))
