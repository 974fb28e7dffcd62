"""From features to logits, against numpy."""

import numpy as np
import pytest
import torch

from tests import tiny
from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Calibration, DemonstrationPool, Head, Verbalizer
from tunewright.backbones.answers import answer, unit

BASE = BaseIdentity(name="none", kind="encoder", sha256="0", tokenizer_sha256="0")
FEATURES = tiny.normal(1, 4, 6)
PHRASES = {phrase: tiny.normal(k, 6) for k, phrase in enumerate(["food", "a meal", "travel", "song"], start=10)}
HEAD = Head(weight_CD=tiny.normal(2, 3, 6), bias_C=tiny.normal(3, 3))
VERBALIZER = Verbalizer(phrases=(("food", "a meal"), ("travel",), ("song",)), scale=7.0)
BIAS_C = tiny.normal(4, 3)
CALIBRATION = Calibration(bias_C=BIAS_C, temperature=3.0)


def run(**parts: object) -> np.ndarray:
    adapter = Adapter(base=BASE, labels=("a", "b", "c"), max_tokens=8, **parts)  # type: ignore[arg-type]
    logits = answer(adapter, FEATURES, lambda phrases: torch.stack([PHRASES[p] for p in phrases]))
    assert logits.dtype == torch.float32
    return logits.double().numpy()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_head() -> None:
    expected = FEATURES.numpy() @ HEAD.weight_CD.numpy().T + HEAD.bias_C.numpy()
    np.testing.assert_allclose(run(head=HEAD), expected, atol=1e-5)


def test_verbalizer() -> None:
    """Each label's direction is the mean of its phrases' directions."""
    vectors = {p: v.numpy() / np.linalg.norm(v.numpy()) for p, v in PHRASES.items()}
    directions = [(vectors["food"] + vectors["a meal"]) / 2, vectors["travel"], vectors["song"]]
    expected = [[7.0 * cosine(f, d) for d in directions] for f in FEATURES.numpy()]
    np.testing.assert_allclose(run(verbalizer=VERBALIZER), expected, atol=1e-5)


@pytest.mark.parametrize("num_neighbours", [1, 3, 5, 50])
def test_neighbours(num_neighbours: int) -> None:
    """Shares of the vote are softmax over the nearest, in logarithms; 1e-6 stands for no vote."""
    vectors, labels = unit(tiny.normal(5, 5, 6)), [0, 2, 0, 1, 2]
    pool = DemonstrationPool(
        texts=tuple("abcde"),
        labels_N=torch.tensor(labels),
        vectors_ND=vectors,
        num_neighbours=num_neighbours,
        temperature=0.3,
    )
    found = run(demonstrations=pool)
    for row, feature in zip(found, FEATURES.numpy(), strict=True):
        similar = [cosine(feature, v) for v in vectors.numpy()]
        nearest = np.argsort(similar)[::-1][:num_neighbours]
        votes = np.exp([similar[k] / 0.3 for k in nearest])
        shares = [sum(v for v, k in zip(votes, nearest, strict=True) if labels[k] == c) / votes.sum() for c in range(3)]
        np.testing.assert_allclose(row, np.log(np.array(shares) + 1e-6), atol=1e-4)


def test_parts_add_up() -> None:
    """Logits are not divided by the temperature: only probabilities are made with it."""
    parts = {"head": HEAD, "verbalizer": VERBALIZER, "calibration": CALIBRATION}
    expected = sum(run(**{name: part}) for name, part in parts.items())
    np.testing.assert_allclose(run(**parts), expected, atol=1e-5)
    np.testing.assert_allclose(run(calibration=CALIBRATION), np.tile(BIAS_C.numpy(), (4, 1)), atol=1e-7)
