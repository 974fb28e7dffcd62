"""What is shown to a base that writes: which rows, in which order, and never one that is held out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bm25s
import numpy as np
import pytest
import torch

from tests import tiny
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice, Material
from tunewright.methods.prompting import demonstrated, prompts, retrieving
from tunewright.methods.table import METHODS
from tunewright.prompts.template import PROMPTS, Prompt
from tunewright.prompts.tf_idf import words
from tunewright.runtime import generator
from tunewright.tuning.attempt import prepare
from tunewright.types import Example, Params, Task

GetDecoder = Callable[[str], Decoder]
SHORT = Prompt(fixed="", row="{text} was")
WRITE = Task(name="echo", labels=(), descriptions={}, metric="rouge-l", kind="generate")
ASKING = [name for name, method in METHODS.items() if method.family == "no training"]


def train_and_held_out() -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Rows of two words, no two the same, each with a target that no other has; a held out one has a mark besides."""
    rng, labels = np.random.default_rng(0), list(tiny.GROUPS)
    texts = list(dict.fromkeys(" ".join(rng.choice(tiny.WORDS, 2, replace=False).tolist()) for _ in range(60)))
    texts = [*texts[:20], *(f"{mark(k)} {text}" for k, text in enumerate(texts[20:40]))]
    every = tuple(
        Example(id=f"train:{k}", text=text, label=labels[k % 3], target=f"{k:02d}") for k, text in enumerate(texts, 1)
    )
    return every[:20], every[20:]


def mark(number: int) -> str:
    """Of a held out row: no word has it in it."""
    return f"q{chr(ord('a') + number)}q"


def material(base: Decoder, task: Task) -> Material:
    train, dev = train_and_held_out()
    metric = METRICS[task.metric]
    rows = [tuple(replace(e, target=None) if task.labels else replace(e, label=None) for e in s) for s in (train, dev)]
    made = prepare(task, base, rows[0], rows[1], metric, base.max_tokens, prompt=SHORT).material
    return replace(made, documents=("the old soup", "one very good train"))


def read(base: Decoder, adapter: Adapter, examples: tuple[Example, ...]) -> list[str]:
    """Each row as its tokens say."""
    encodings = base.encode_for(examples, adapter)
    return [str(base.tokenizer.decode(list(e.ids), skip_special_tokens=True)) for e in encodings]


@pytest.mark.parametrize("by", ["nearest", "bm25"])
def test_the_nearest_stand_before_the_row(by: str, tiny_decoder: GetDecoder) -> None:
    """Brute force: similarities one by one, the row itself left out, the nearest last."""
    base = tiny_decoder("llama")
    made = material(base, tiny.task())
    adapter = material_adapter(made, by, count=2)
    rows = (*train_and_held_out()[1][:5], *made.examples[:3])
    texts = [e.text for e in made.examples]
    library = bm25s.BM25()
    library.index([words(text) for text in texts], show_progress=False)
    store, num_whole = FeatureStore(base), 0
    for row, seen in zip(rows, read(base, adapter, rows), strict=True):
        if by == "bm25":
            scores = [float(score) for score in library.get_scores(words(row.text))]
        else:
            (vector,) = store(base.encode([row], base.max_tokens))
            pool = store(base.encode(made.examples, base.max_tokens))
            scores = [float(torch.cosine_similarity(vector, each, dim=0)) for each in pool]
        order = sorted((k for k in range(len(texts)) if texts[k] != row.text), key=lambda k: (-round(scores[k], 6), k))
        shown = [demonstrated(SHORT, made.examples[k]) for k in order[:2]]
        both, one = f"{shown[1]}{shown[0]}{row.text} was", f"{shown[0]}{row.text} was"
        assert seen.strip() in {both, one}
        num_whole += seen.strip() == both
    assert num_whole >= 1  # of some rows two are more than half of what is left


def material_adapter(made: Material, by: str, count: int) -> Adapter:
    params: Params = {"template": "yours", "shots": count, "choice": by, "calibration": "none"}
    return METHODS["few-shot"].place(made, params, generator("x"))


@pytest.mark.parametrize("by", ["nearest", "bm25"])
def test_neighbours_in_the_batch_and_the_disk_do_not_matter(by: str, tiny_decoder: GetDecoder, tmp_path: Path) -> None:
    base = tiny_decoder("qwen3")
    made = material(base, tiny.task())
    adapter = material_adapter(made, by, count=3)
    rows = train_and_held_out()[1][:6]
    together = predict(adapter, base.encode_for(rows, adapter), made.store)
    folder.save(adapter, tmp_path / "a")
    loaded = folder.load(tmp_path / "a")
    base.check(loaded)
    assert torch.equal(predict(loaded, base.encode_for(rows, loaded), made.store), together)
    for k, row in enumerate(rows):
        (encoding,) = base.encode_for([row], adapter)
        (alone,) = base.logits([Row(encoding=encoding, adapter=adapter)])
        torch.testing.assert_close(alone, together[k], atol=1e-5, rtol=0)
    bare = replace(adapter, retriever=None)
    assert (predict(bare, base.encode_for(rows, bare), made.store) - together).abs().amax(1).min() > 1e-4


def test_a_pool_that_does_not_fit_shows_fewer(tiny_decoder: GetDecoder) -> None:
    """As many as half of what the row leaves; the row itself is whole."""
    base = tiny_decoder("llama")
    made = material(base, tiny.task())
    rows = train_and_held_out()[1][:4]
    seen = read(base, material_adapter(made, "bm25", count=16), rows)
    for row, text in zip(rows, seen, strict=True):
        assert text.endswith(f"{row.text} was")
        assert 1 <= text.count(" was ") < 16
    encodings = base.encode_for(rows, material_adapter(made, "bm25", count=16))
    assert all(len(e.ids) <= base.max_tokens - 1 and e.num_cut == 0 for e in encodings)


@pytest.mark.parametrize("kind", ["classify", "generate"])
@pytest.mark.parametrize("name", ASKING)
def test_no_row_that_is_held_out_is_ever_shown(name: str, kind: str, tiny_decoder: GetDecoder) -> None:
    """Every choice of the space: neither pools nor templates hold a word of a dev row, nor does what a row becomes."""
    base, method = tiny_decoder("llama"), METHODS[name]
    task = tiny.task() if kind == "classify" else WRITE
    if task.kind not in method.kinds:
        pytest.skip("answers other tasks")
    made, held_out = material(base, task), train_and_held_out()[1]
    space = method.space(made)
    start = {key: choice.default for key, choice in space.items()}
    points = [{**start, k: o} for k, c in space.items() if isinstance(c, Choice) for o in c.options]
    for number, params in enumerate(points or [start]):
        adapter = method.place(made, params, np.random.default_rng(number))
        said = str([part.settings() for part in adapter.parts().values()])
        assert not [k for k in range(len(held_out)) if mark(k) in said]
        if adapter.template is not None:
            for k, text in enumerate(read(base, adapter, held_out)):
                assert [j for j in range(len(held_out)) if mark(j) in text] == [k]


def test_a_row_is_not_shown_its_own_answer(tiny_decoder: GetDecoder) -> None:
    """Where training rows are asked, to set zero points or to train on."""
    base = tiny_decoder("gpt2")
    made = material(base, WRITE)
    for by in ("nearest", "bm25"):
        adapter = made.adapter(retriever=retrieving(made, SHORT, 4, by))
        assert adapter.retriever is not None
        placed = METHODS["few-shot"].place(made, {"template": "yours", "shots": 4, "choice": by}, generator("x"))
        for row, text in zip(made.examples, read(base, placed, tuple(made.examples)), strict=True):
            assert str(row.target) not in text


def test_the_users_prompt_is_first(tiny_decoder: GetDecoder) -> None:
    made = material(tiny_decoder("llama"), tiny.task())
    assert list(prompts(made)) == ["yours", *PROMPTS["classify"]]
    assert METHODS["zero-shot"].space(made)["template"].default == "yours"
