"""Starting points: a head from the labels' words, and token embeddings that come from words."""

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Row
from tunewright.backbones.encoder import Encoder
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Material
from tunewright.methods.heads import described_head, lengths, noise, start_ids
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.runtime import generator
from tunewright.tuning.attempt import prepare
from tunewright.types import Example


@pytest.fixture
def base(tiny_encoder: Callable[[str], Encoder]) -> Encoder:
    return tiny_encoder("bert")


def material(base: Encoder, limit: int = 64) -> Material:
    return prepare(tiny.task(), base, tiny.examples(40), tiny.examples(9, seed=1), METRICS["accuracy"], limit).material


def test_described_head(base: Encoder) -> None:
    """Logits are cosines with the labels' directions, scaled; the mean over the training rows is zero."""
    found = material(base)
    head = described_head(found)
    features = found.store(found.rows.encodings)
    logits = features @ head.weight_CD.T + head.bias_C
    assert torch.allclose(logits.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(head.weight_CD.sum(0), torch.zeros(base.width), atol=1e-5)
    wanted = torch.stack([_direction(base, group) for group in label_phrases(found.task, "both", TEMPLATES["many"])])
    cosines = features @ (wanted - wanted.mean(0)).T / features.norm(dim=-1).mean()
    assert torch.allclose(logits, 10 * (cosines - cosines.mean(0)), atol=1e-5)


def _direction(base: Encoder, phrases: tuple[str, ...]) -> torch.Tensor:
    """One phrase after the other through the bare base."""
    bare = Adapter(base=base.identity, labels=(), max_tokens=64)
    total = torch.zeros(base.width)
    for phrase in phrases:
        (encoding,) = base.encode([Example(id=phrase, text=phrase)], 64)
        vector = base.features([Row(encoding=encoding, adapter=bare)])[0]
        total += vector / vector.norm()
    return nn.functional.normalize(total, dim=0)


def test_labels_that_mean_nothing_start_near_zero(base: Encoder) -> None:
    """The same words for every label give a head of zeros."""
    found = material(base)
    task = dataclasses.replace(found.task, labels=("a", "a"), descriptions={"a": "same"})
    head = described_head(dataclasses.replace(found, task=task))
    assert torch.allclose(head.weight_CD, torch.zeros(2, base.width), atol=1e-6)


def test_start_from_labels(base: Encoder) -> None:
    """The descriptions' tokens in order, each once; then common tokens of the training texts."""
    found = material(base)
    ids = start_ids(found, "labels", 20, generator("x"))
    words = list(dict.fromkeys(base.token_ids("it is about food it is about travel it is about music")))
    assert ids[: len(words)] == words
    assert len(ids) == 20
    seen = Counter(i for e in found.rows.encodings for i in e.ids)
    assert set(ids[len(words) :]) <= set(seen) - base.special_ids()
    assert start_ids(found, "labels", 3, generator("x")) == words[:3]


def test_start_from_a_text(base: Encoder) -> None:
    words = base.token_ids("bread and soup")
    assert start_ids(material(base), "bread and soup", 7, generator("x")) == [*words, *words, words[0]]


def test_start_from_vocabulary(base: Encoder) -> None:
    found = material(base)
    first, again, other = (start_ids(found, "vocabulary", 30, generator(k)) for k in (1, 1, 2))
    assert first == again != other
    assert not set(first) & base.special_ids()
    assert set(first) <= {i for e in found.rows.encodings for i in e.ids}


@pytest.mark.parametrize("kind", ["bert", "electra", "modernbert"])
def test_word_embeddings(kind: str, tiny_encoder: Callable[[str], Encoder]) -> None:
    base = tiny_encoder(kind)
    table = material(base).weights.word_embeddings
    assert torch.equal(table, base.masters()[base.vocabulary_name])


@pytest.mark.parametrize(
    ("limit", "expected"), [(64, (20, 10, 5)), (40, (20, 10, 5)), (20, (10, 5)), (10, (5,)), (9, (4,)), (8, (4,))]
)
def test_lengths(base: Encoder, limit: int, expected: tuple[int, ...]) -> None:
    assert lengths((20, 10, 5, 50), material(base, limit)).options == expected


def test_noise() -> None:
    found = noise((100, 50), 0.02, generator("x"))
    assert torch.equal(found, noise((100, 50), 0.02, generator("x")))
    assert float(found.std()) == pytest.approx(0.02, rel=0.05)
    assert float(found.mean()) == pytest.approx(0, abs=0.001)
