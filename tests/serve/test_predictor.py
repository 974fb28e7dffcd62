"""Answers of a shipped adapter: order, neighbours, mistakes, and the metric on labelled rows."""

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

import tunewright as tw
from tests import tiny
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Verbalizer
from tunewright.errors import AdapterError, ConfigError, DataError
from tunewright.runtime import fast_dtype
from tunewright.serve.predictor import Predictor
from tunewright.types import Example

NAMES = ("majority", "prefix", "soft-prompt", "linear-probe", "lora", "full", "few-shot", "zero-shot")


@pytest.fixture(scope="module")
def run(finished_run: Path) -> tw.Run:
    return tw.Run(finished_run)


@pytest.fixture(scope="module")
def lora(run: tw.Run) -> Predictor:
    return run["lora"]


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return [dataclasses.replace(e, id=f"new:{k}") for k, e in enumerate(tiny.examples(30, seed=7))]


@pytest.mark.parametrize("name", NAMES)
def test_each_row_gets_what_it_gets_alone_and_in_any_order(name: str, run: tw.Run, rows: list[Example]) -> None:
    predictor = run[name]
    whole = {p.id: p for p in predictor.predict(rows)}
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = predictor.predict([rows[k] for k in order])
    assert [p.id for p in shuffled] == [rows[k].id for k in order]
    alone = [predictor.predict([row])[0] for row in rows[:6]]
    for found in (*shuffled, *alone):
        assert found.probabilities == pytest.approx(whole[found.id].probabilities, abs=tolerance())
        assert sum(found.probabilities) == pytest.approx(1, abs=1e-9)
        assert found.label == predictor.labels[int(np.argmax(found.probabilities))]


def tolerance() -> float:
    """Of probabilities, when the batch is another: a number in bf16 has 8 bits."""
    return 2e-2 if fast_dtype() == torch.bfloat16 else 1e-5


def test_texts_are_numbered_from_one(lora: Predictor, rows: list[Example]) -> None:
    texts = [row.text for row in rows]
    by_text = lora.predict(texts)
    assert [p.id for p in by_text] == [str(k) for k in range(1, 31)]
    assert [p.probabilities for p in by_text] == [p.probabilities for p in lora.predict(rows)]
    assert lora.predict([]) == []


def test_one_text_is_no_list(lora: Predictor) -> None:
    with pytest.raises(DataError, match=r"Got one text, 'all of it'\. Write predict\(\[text\]\)"):
        lora.predict("all of it")


@pytest.mark.parametrize("row", [None, 1.5, ("a",), ("a", None), {"text": "a"}])
def test_what_is_no_text(row: Any, lora: Predictor) -> None:
    with pytest.raises(DataError, match=r"row 2 is no text: .* Allowed: texts, pairs"):
        lora.predict(["good soup", row])


def test_a_pair_where_there_was_none(lora: Predictor) -> None:
    with pytest.raises(DataError, match=r"row 1 does not fit .* trained on single texts"):
        lora.predict([("good", "soup")])


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_text(text: str, lora: Predictor) -> None:
    with pytest.raises(DataError, match=r"row 2 has an empty text \(1 in all\)"):
        lora.predict(["good soup", text])


def test_long_texts_are_cut_and_counted(run: tw.Run, rows: list[Example]) -> None:
    """The room that prompt and prefix take is not there for the text."""
    room = {}
    for name in ("linear-probe", "soft-prompt"):
        predictor = run[name]
        room[name] = max(len(e.ids) for e in predictor.encode([Example(id="long", text="bread " * 200)]))
        assert predictor.cut_ids([*rows, Example(id="long", text="bread " * 200)]) == ["long"]
        longer, longest = predictor.predict(["bread " * 200, "bread " * 300])
        assert longer.probabilities == pytest.approx(longest.probabilities, abs=1e-7)  # rows of one product
    assert room["linear-probe"] == tiny.MAX_TOKENS
    assert room["soft-prompt"] == tiny.MAX_TOKENS - run["soft-prompt"].adapter.prefix_tokens < tiny.MAX_TOKENS


@pytest.mark.parametrize("name", ["lora", "linear-probe"])
def test_metrics_agree_with_scikit_learn(name: str, run: tw.Run, rows: list[Example]) -> None:
    predictor = run[name]
    true, predicted = [row.label for row in rows], [p.label for p in predictor.predict(rows)]
    accuracy, f1 = predictor.evaluate(rows), predictor.evaluate(rows, metric="macro-f1")
    assert accuracy.value == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
    assert f1.value == pytest.approx(f1_score(true, predicted, average="macro"), abs=1e-12)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    wilson = binomtest(right, len(rows)).proportion_ci(0.95, method="wilson")
    assert (accuracy.low, accuracy.high) == pytest.approx((wilson.low, wilson.high), abs=1e-12)
    assert accuracy.n == f1.n == len(rows)
    assert predictor.evaluate(rows, metric="macro-f1") == f1  # its bootstrap has a seed of its own


def test_labels_that_the_adapter_does_not_know_are_wrong(lora: Predictor, rows: list[Example]) -> None:
    before = lora.evaluate(rows)
    strange = [dataclasses.replace(row, id=f"x{k}", label="art") for k, row in enumerate(rows[:10])]
    after = lora.evaluate([*rows, *strange])
    assert after.n == 40
    assert after.value == pytest.approx(before.value * 30 / 40, abs=1e-12)


def test_unknown_metric(lora: Predictor, rows: list[Example]) -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'all'\. Allowed: accuracy, macro-f1"):
        lora.evaluate(rows, metric="all")


def test_no_adapter_there(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is no adapter folder"):
        Predictor.load(tmp_path)


@pytest.mark.parametrize("dtype", ["load", "int64", "float16", None, [], 5])
def test_precision_that_is_none(dtype: object, tmp_path: Path) -> None:
    """Told before the base is loaded: it is one that is not there."""
    identity = BaseIdentity(name=str(tmp_path / "none"), kind="encoder", sha256="0", tokenizer_sha256="0")
    adapter = Adapter(base=identity, labels=("a", "b"), max_tokens=8, about={"dtype": dtype})
    folder.save(adapter, tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"`dtype` of .* Allowed: float32, bfloat16\. Restore"):
        Predictor.load(tmp_path / "adapter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_of_the_run(dtype: torch.dtype, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = tiny.adapter(tiny.encoder(tiny_folder("bert")))
    folder.save(adapter.with_about({"dtype": str(dtype).removeprefix("torch.")}), tmp_path / "adapter")
    assert Predictor.load(tmp_path / "adapter")._store.backbone.precision == str(dtype).removeprefix("torch.")


def test_a_service_does_not_grow(tiny_folder: Callable[[str], Path]) -> None:
    """Nothing of a text outlives its answer: no tensor more after many texts than after the first."""
    base = tiny.encoder(tiny_folder("bert"))
    verbalizer = Verbalizer(phrases=(("food",), ("travel",), ("music",)), scale=20.0)
    predictor = Predictor(tiny.adapter(base, verbalizer=verbalizer), base)
    predictor.predict(["the first"])

    def tensors() -> int:
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    before = tensors()
    for k in range(20):
        predictor.predict([f"text {k} of a service", f"again {k}"])
    assert tensors() == before


def test_pairs_where_there_were_none(run: tw.Run) -> None:
    """An adapter of single texts refuses pairs, naming the row and what it wants."""
    predictor = run["linear-probe"]
    with pytest.raises(DataError, match=r"row 2 does not fit \(1 in all\).*single texts"):
        predictor.predict([Example(id="1", text="a"), Example(id="2", text="a", text_pair="b")])
