"""Losses are sums: pieces add up to the whole."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from tests import tiny
from tunewright.training.loss import balanced_weights, cross_entropy

LABELS = torch.tensor([0, 2, 2, 1, 2, 0, 2, 2])


def test_against_logarithms() -> None:
    logits = tiny.normal(1, 8, 3)
    loss = cross_entropy(logits, LABELS)
    expected = [-(float(row[k]) - float(row.exp().sum().log())) for row, k in zip(logits, LABELS, strict=True)]
    assert float(loss.total) == pytest.approx(sum(expected), rel=1e-6)
    assert loss.count == 8


@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 0.5, 1.25])])
def test_one_batch_of_eight_is_eight_of_one(weights: torch.Tensor | None) -> None:
    """In value, in count and in gradients, also with weights for classes."""
    whole, pieces = (tiny.normal(1, 8, 3).requires_grad_() for _ in range(2))
    loss = cross_entropy(whole, LABELS, weights)
    (loss.total / loss.count).backward()
    parts = [cross_entropy(pieces[k : k + 1], LABELS[k : k + 1], weights) for k in range(8)]
    count = sum(part.count for part in parts)
    (torch.stack([part.total for part in parts]).sum() / count).backward()
    assert count == pytest.approx(loss.count)
    assert whole.grad is not None
    assert pieces.grad is not None
    torch.testing.assert_close(pieces.grad, whole.grad, atol=1e-7, rtol=0)
    oracle = torch.nn.functional.cross_entropy(whole.detach(), LABELS, weight=weights)
    torch.testing.assert_close((loss.total / loss.count).detach(), oracle, atol=1e-6, rtol=0)


def test_bf16_logits_are_summed_in_fp32() -> None:
    assert cross_entropy(tiny.normal(1, 8, 3).bfloat16(), LABELS).total.dtype == torch.float32


def test_balanced_weights_against_sklearn() -> None:
    labels = LABELS.numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(balanced_weights(LABELS, 3).double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_classes_without_rows_weigh_one() -> None:
    weights = balanced_weights(LABELS, 5)
    assert weights[3:].tolist() == [1, 1]
    assert weights.isfinite().all()
