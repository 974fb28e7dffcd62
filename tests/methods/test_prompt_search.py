"""Successive halving: the best of two is the better one, judged on rows that nobody shows; the same again."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.test_prompting import WRITE, material
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import predict
from tunewright.methods import prompt_search
from tunewright.methods.base import Material
from tunewright.methods.prompt_search import Contender, merit, search

GetDecoder = Callable[[str], Decoder]


class Hears:
    """Keeps what is judged, and by which rows."""

    def __init__(self) -> None:
        self.heard: list[tuple[Contender, list[str], float]] = []

    def __call__(self, contender: Contender, part: Material) -> float:
        found = merit(contender, part)
        self.heard.append((contender, [e.text for e in part.examples], found))
        return found


@pytest.fixture
def hears(monkeypatch: pytest.MonkeyPatch) -> Hears:
    heard = Hears()
    monkeypatch.setattr(prompt_search, "merit", heard)
    return heard


@pytest.mark.parametrize("kind", ["classify", "generate"])
def test_halving(kind: str, tiny_decoder: GetDecoder, hears: Hears) -> None:
    """8, 4 and 2 prompts on 2, 5 and 10 of 20 rows; those left are the best so far; judges are shown by none."""
    made = material(tiny_decoder("llama"), tiny.task() if kind == "classify" else WRITE)
    best = search(made, 8, np.random.default_rng(1))
    sizes = [len(rows) for _, rows, _ in hears.heard]
    assert sizes == [2] * 8 + [5] * 4 + [10] * 2
    rounds = [hears.heard[:8], hears.heard[8:12], hears.heard[12:]]
    for now, after in zip(rounds, [[c for c, _, _ in r] for r in rounds[1:]] + [[best]], strict=True):
        ranked = sorted(now, key=lambda each: -each[2])
        assert {repr(c) for c in after} == {repr(c) for c, _, _ in ranked[: len(after)]}
    judges = set(hears.heard[-1][1])
    shown = [contender.prompt.fixed for contender, _, _ in rounds[0]]
    assert not [text for text in judges for fixed in shown if f"{text} was" in fixed or f"{text}\n" in fixed]
    assert len({repr(contender) for contender, _, _ in rounds[0]}) == 8
    assert any(made.examples[k].text in fixed for k in range(20) for fixed in shown)


def test_merit_of_labels(tiny_decoder: GetDecoder) -> None:
    made = material(tiny_decoder("llama"), tiny.task())
    assert made.prompt is not None
    one = Contender(prompt=made.prompt, calibration="none")
    adapter = one.adapter(made)
    logits_NC = predict(adapter, made.backbone.encode_for(made.examples, adapter), made.store)
    labels = made.rows.labels_N.tolist()
    loss = -sum(float(row.log_softmax(-1)[label]) for row, label in zip(logits_NC, labels, strict=True)) / len(labels)
    assert merit(one, made) == pytest.approx(-loss, abs=1e-5)


def test_merit_of_texts(tiny_decoder: GetDecoder) -> None:
    """Minus the mean over all tokens of all targets, one row at a time."""
    base = tiny_decoder("llama")
    made = material(base, WRITE)
    assert made.prompt is not None
    one = Contender(prompt=made.prompt, calibration="none")
    adapter, tokens = one.adapter(made), list[torch.Tensor]()
    for example in made.examples:
        (encoding,) = base.encode_for([example], adapter)
        answer = base.encode_answer(str(example.target), after=made.prompt.row, ends=True)
        with torch.no_grad():
            tokens += base.answer_log_probs([Row(encoding=encoding, adapter=adapter)], [answer])
    assert merit(one, made) == pytest.approx(float(torch.cat(tokens).mean()), abs=1e-5)


def test_the_same_again(tiny_decoder: GetDecoder) -> None:
    made = material(tiny_decoder("gpt2"), tiny.task())
    found = [search(made, 6, np.random.default_rng(seed)) for seed in (0, 0)]
    assert found[0] == found[1]
