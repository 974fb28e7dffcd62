"""The best is kept on the metric, then on the loss; what is not a number is never the best."""

import math

import pytest
import torch

from tunewright.training.stopping import Best
from tunewright.types import DevScore


def score(epoch: int, value: float, loss: float = 1.0) -> DevScore:
    return DevScore(epoch=epoch, value=value, loss=loss)


@pytest.mark.parametrize(
    ("mine", "other", "beats"),
    [
        (score(2, 0.8), score(1, 0.7), True),
        (score(2, 0.7), score(1, 0.8), False),
        (score(2, 0.8, 9.0), score(1, 0.7, 0.1), True),
        (score(2, 0.7, 0.9), score(1, 0.7, 1.0), True),
        (score(2, 0.7, 1.0), score(1, 0.7, 0.9), False),
        (score(2, 0.7), score(1, 0.7), False),
        (score(2, 0.9, math.nan), score(1, 0.7), False),
        (score(2, 0.9, math.inf), score(1, 0.7), False),
    ],
)
def test_beats(mine: DevScore, other: DevScore, *, beats: bool) -> None:
    assert mine.beats(other) is beats
    assert mine.beats(None) is math.isfinite(mine.loss)


def test_keeps_a_copy_of_the_best() -> None:
    best, live = Best(patience=3), {"a": torch.zeros(2)}
    for epoch, value in enumerate([0.3, 0.9, 0.5], start=1):
        live["a"].fill_(epoch)
        best.offer(score(epoch, value), live)
    assert best.score == score(2, 0.9)
    assert best.tensors["a"].tolist() == [2, 2]
    assert not best.tensors["a"].requires_grad


def test_patience() -> None:
    """Epochs 1 to 6 with the best at 2 and a patience of 3: the fifth is the last."""
    best = Best(patience=3)
    stopped = []
    for epoch, value in enumerate([0.3, 0.9, 0.5, 0.6, 0.9, 0.8], start=1):
        best.offer(score(epoch, value), {})
        stopped.append(best.exhausted(epoch))
    assert stopped == [False, False, False, False, True, True]
