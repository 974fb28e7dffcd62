"""Sequences of several lengths as one, without padding, and back.

Shapes: N tokens, R sequences, T tokens of the longest, X heads, d head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Sequences that stand one after the other, and where each token is when they are unpacked to [R, T]."""

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    """Position of the first token of each: what stands before it counts."""
    prefixes: tuple[int, ...]
    """Which prefix each sees."""
    place_N: Tensor
    """r T + t of each token."""
    position_RT: Tensor
    """Of each token in its input."""
    filled_RT: Tensor
    """False on padding."""
    prefix_R: Tensor
    """`prefixes` as an index."""
    tree_RTT: Tensor | None = None
    """Which tokens of its sequence each token sees, where they are no line; None: all up to itself."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return sum(self.lengths)

    def unpack(self, values_NXd: Tensor) -> Tensor:
        """Values as [R, T, X, d], zeros on padding."""
        unpacked: Tensor = _Spread.apply(values_NXd, self.place_N, self.filled_RT.numel())  # type: ignore[no-untyped-call]
        return unpacked.view(*self.filled_RT.shape, *values_NXd.shape[1:])

    def pack(self, values_RTXd: Tensor) -> Tensor:
        """The inverse: [N, X, d]."""
        packed: Tensor = _Gather.apply(values_RTXd.flatten(0, 1), self.place_N)  # type: ignore[no-untyped-call]
        return packed


def sequences(
    lengths: Sequence[int], starts: Sequence[int], prefixes: Sequence[int], device: torch.device
) -> Sequences | None:
    """The record of sequences; None where they have no tokens.

    Args:
        lengths: Tokens of each.
        starts: Position of the first token of each.
        prefixes: Which prefix each sees.
        device: Of the indices.
    """
    if sum(lengths) == 0:
        return None
    filled_RT, place_N = padding(lengths)
    return Sequences(
        lengths=tuple(lengths),
        starts=tuple(starts),
        prefixes=tuple(prefixes),
        place_N=place_N.to(device),
        position_RT=(torch.arange(max(lengths)) + torch.tensor(starts)[:, None]).to(device),
        filled_RT=filled_RT.to(device),
        prefix_R=torch.tensor(prefixes).to(device),
    )


def padding(lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What is no padding when sequences are unpacked, [R, T], and the place of each token in it, [N]."""
    filled_RT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return filled_RT, filled_RT.flatten().nonzero()[:, 0]


def spans(lengths: Sequence[int]) -> list[range]:
    """Indices of the tokens of each sequence."""
    return [range(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]


class _Spread(torch.autograd.Function):
    """Rows to places of their own among zeros. The derivative is a selection; torch's adds row by row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, place_N: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(place_N)
        return values.new_zeros(size, *values.shape[1:]).index_copy_(0, place_N, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, *ctx.saved_tensors), None, None


class _Gather(torch.autograd.Function):
    """Rows from places of their own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        ctx.size = len(values)
        return values.index_select(0, place_N)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (place_N,) = ctx.saved_tensors
        zeros = gradients[0].new_zeros(ctx.size, *gradients[0].shape[1:])
        return zeros.index_copy_(0, place_N, gradients[0]), None
