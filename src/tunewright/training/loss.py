"""Losses as (sum, count), divided once by whoever has seen all of them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """A loss in nats, summed over examples, and the weight it is to be divided by."""

    total: Tensor
    count: float


def cross_entropy(logits_BC: Tensor, labels_B: Tensor, weights_C: Tensor | None = None) -> LossSum:
    """Cross entropy of a batch in nats, each example weighted by its class.

    Args:
        logits_BC: Unnormalised scores.
        labels_B: Label indices.
        weights_C: Weight of each class; 1 when absent.
    """
    total = nn.functional.cross_entropy(logits_BC.float(), labels_B, weight=weights_C, reduction="sum")
    count = float(len(labels_B)) if weights_C is None else float(weights_C[labels_B].sum())
    return LossSum(total=total, count=count)


def binary_cross_entropy(logits_BC: Tensor, sets_BC: Tensor) -> LossSum:
    """Cross entropy in nats of whether each label is in an example's set, summed over the labels.

    Args:
        logits_BC: Of each label against its absence.
        sets_BC: 1 for a label in the set, else 0.
    """
    total = nn.functional.binary_cross_entropy_with_logits(logits_BC.float(), sets_BC.float(), reduction="sum")
    return LossSum(total=total, count=float(len(sets_BC)))


def balanced_weights(labels_N: Tensor, num_labels: int) -> Tensor:
    """Class weights n / (C n_c), so that every class counts the same; 1 for a class without rows."""
    counts_C = torch.bincount(labels_N, minlength=num_labels).float()
    return torch.where(counts_C > 0, len(labels_N) / (num_labels * counts_C.clamp(min=1)), 1.0)
