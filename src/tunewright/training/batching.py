"""Which rows go into which step."""

import math
from collections.abc import Sequence

import numpy as np

_POOL_BATCHES = 25
"""Rows are sorted by length within pools of this many batches: little padding, still shuffled."""


def epoch_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """One epoch: every row once, rows of a batch of similar length, batches in random order.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a step; the last may be smaller.
        rng: Shuffles.
    """
    order = rng.permutation(len(lengths))
    pool = batch_size * _POOL_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        members = sorted(order[start : start + pool].tolist(), key=lambda k: lengths[k])
        batches += [members[k : k + batch_size] for k in range(0, len(members), batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))]


def micro_batches(batch: Sequence[int], num_parts: int) -> list[list[int]]:
    """A batch in at most `num_parts` pieces of nearly equal size, none of them empty."""
    size = math.ceil(len(batch) / num_parts)
    return [list(batch[k : k + size]) for k in range(0, len(batch), size)]
