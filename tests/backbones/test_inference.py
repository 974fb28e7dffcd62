"""Batches by length, and features that are computed once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from tests import tiny
from tunewright.adapters.parts import Head
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.inference import FeatureStore, answer, predict, readings
from tunewright.backbones.tokens import by_length
from tunewright.types import Example

TEXTS = [
    "soup",
    "the train was late today",
    "a piano",
    "we had bread and cheese",
    "soup",
    "map of the road near one bridge",
]


@given(st.lists(st.integers(1, 50), max_size=200), st.integers(1, 300))
def test_batches_are_a_partition_within_bounds(lengths: list[int], most: int) -> None:
    batches = list(by_length(lengths, most))
    assert sorted(k for b in batches for k in b) == list(range(len(lengths)))
    widths = [max(lengths[k] for k in b) for b in batches]
    assert widths == sorted(widths, reverse=True)
    for batch, width in zip(batches, widths, strict=True):
        assert len(batch) == 1 or len(batch) * width <= most


@pytest.fixture
def base(tiny_encoder: Callable[[str], Encoder]) -> Encoder:
    return tiny_encoder("bert")


def test_order_is_kept(base: Encoder) -> None:
    encodings = tiny.encodings(base, TEXTS)
    for adapter in (tiny.adapter(base), tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 3, seed=2))):
        alone = torch.stack([base.features(tiny.rows(adapter, [e]))[0] for e in encodings])
        torch.testing.assert_close(readings(adapter, encodings, FeatureStore(base)), alone, atol=1e-5, rtol=0)
        logits = torch.stack([base.logits(tiny.rows(adapter, [e]))[0] for e in encodings])
        found = predict(adapter, encodings, FeatureStore(base))
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=0)
        assert not found.requires_grad


def test_each_input_is_computed_once(base: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    forward = base._model.forward

    def counted(*arguments: Any, **inputs: Any) -> Any:
        counts.append(len(inputs["inputs_embeds"]))
        return forward(*arguments, **inputs)

    monkeypatch.setattr(base._model, "forward", counted)
    store, encodings = FeatureStore(base), tiny.encodings(base, TEXTS)
    first = store(encodings)
    assert sum(counts) == len(set(TEXTS)) == len(TEXTS) - 1
    assert torch.equal(store(encodings[::-1]), first.flip(0))
    readings(tiny.adapter(base), encodings, store)
    assert sum(counts) == len(TEXTS) - 1


def test_nothing_is_kept_where_told_so(base: Encoder) -> None:
    encodings = tiny.encodings(base, TEXTS)
    store = FeatureStore(base, keeps=False)
    assert torch.equal(store(encodings), FeatureStore(base)(encodings))
    assert not store._known


def test_no_rows(base: Encoder) -> None:
    store = FeatureStore(base)
    assert store([]).shape == (0, 32)
    prompted = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 3, seed=2))
    assert predict(prompted, [], store).shape == (0, 3)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.5, 20.0])
def test_temperature_is_in_probabilities_and_nowhere_else(base: Encoder, temperature: float) -> None:
    """Labels are those of the logits, also where two of them are all but equal."""
    examples = [Example(id=str(k), text=text) for k, text in enumerate(TEXTS)]
    plain = tiny.adapter(base)
    head = Head(weight_CD=0 * tiny.head(base, seed=1).weight_CD, bias_C=torch.tensor([7.0, 7.0 + 5e-7, 7.0]))
    labels = set[str]()
    for adapter in (plain, replace(plain, head=head)):
        tempered = adapter.with_temperature(temperature)
        store = FeatureStore(base)
        logits_NC = predict(tempered, base.encode(examples, base.max_tokens), store)
        assert torch.equal(logits_NC, predict(adapter, base.encode(examples, base.max_tokens), store))
        found = answer(tempered, examples, store)
        assert [p.label for p in found] == [p.label for p in answer(adapter, examples, store)]
        expected = special.softmax(logits_NC.double().numpy() / temperature, axis=1)
        np.testing.assert_allclose([p.probabilities for p in found], expected, atol=1e-12)
        labels = {p.answer for p in found}
    assert labels == {plain.labels[1]}
