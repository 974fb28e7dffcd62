"""Sequences of several lengths as one, without padding, and back.

Shapes: N tokens, R sequences, T tokens of the longest, X heads, d head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

_TILE = 16
"""Rows that a bf16 product takes at a time."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Sequences that stand one after the other, and where each token is when they are unpacked to [R, T]."""

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    """Position of the first token of each: what stands before it counts."""
    prefixes: tuple[int, ...]
    """Which prefix each sees."""
    place_N: Tensor
    """r T + t of each token; of spare ones, which stand at the end and belong to no sequence, nought."""
    source_RT: Tensor
    """Which token stands there; on padding the last one before it."""
    position_RT: Tensor
    """Of each token in its input."""
    filled_RT: Tensor
    """False on padding."""
    prefix_R: Tensor
    """`prefixes` as an index."""
    tree_RTT: Tensor | None = None
    """Which tokens of its sequence each token sees, where they are no line; None: all up to itself."""
    indices: dict[tuple[int, ...], Tensor] = field(default_factory=dict, compare=False)
    """Found once for all layers: which rows of d values to copy, by the order of tokens and heads in memory."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return sum(self.lengths)

    def unpack(self, values_NXd: Tensor, num_groups: int) -> Tensor:
        """Values as [K, R, J T, d], of K groups of J = X / K heads; padding is not to be read."""
        unpacked: Tensor = _Unpack.apply(values_NXd, self, num_groups)  # type: ignore[no-untyped-call]
        return unpacked

    def pack(self, values_KRYd: Tensor) -> Tensor:
        """The inverse: [N, X, d]."""
        packed: Tensor = _Pack.apply(values_KRYd, self)  # type: ignore[no-untyped-call]
        return packed


def sequences(
    lengths: Sequence[int],
    starts: Sequence[int],
    prefixes: Sequence[int],
    device: torch.device,
    *,
    multiple: int = 1,
    spare: int = 0,
) -> Sequences | None:
    """The record of sequences; None where they have no tokens.

    Args:
        lengths: Tokens of each.
        starts: Position of the first token of each.
        prefixes: Which prefix each sees.
        device: Of the indices.
        multiple: T is made one of this; products of odd sizes take twice the time.
        spare: Tokens behind the last sequence that nobody sees.
    """
    if sum(lengths) == 0:
        return None
    filled_RT, place_N = padding(lengths, multiple)
    columns_T = torch.arange(filled_RT.shape[1])
    return Sequences(
        lengths=tuple(lengths),
        starts=tuple(starts),
        prefixes=tuple(prefixes),
        place_N=nn.functional.pad(place_N, (0, spare)).to(device),
        source_RT=(filled_RT.flatten().cumsum(0) - 1).clamp(min=0).view_as(filled_RT).to(device),
        position_RT=(columns_T + torch.tensor(starts)[:, None]).to(device),
        filled_RT=filled_RT.to(device),
        prefix_R=torch.tensor(prefixes).to(device),
    )


def spare_tokens(num_tokens: int, like: Tensor) -> int:
    """So many more make few sizes of all that occur, at most 3% or 15 of them.

    The bf16 products of a CPU are compiled for each size: some milliseconds each, and megabytes for hundreds.
    """
    if like.device.type != "cpu" or like.dtype != torch.bfloat16:
        return 0
    return -num_tokens % max(_TILE, 1 << max(0, num_tokens.bit_length() - 6))


def padding(lengths: Sequence[int], multiple: int) -> tuple[Tensor, Tensor]:
    """What is no padding when sequences are unpacked, [R, T], and the place of each token in it, [N]."""
    columns_T = torch.arange(-(-max(lengths) // multiple) * multiple)
    filled_RT = columns_T < torch.tensor(lengths)[:, None]
    return filled_RT, filled_RT.flatten().nonzero()[:, 0]


def spans(lengths: Sequence[int]) -> list[range]:
    """Indices of the tokens of each sequence."""
    return [range(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]


def _unpacked(values_NXd: Tensor, block: Sequences, num_groups: int) -> Tensor:
    """Rows of d values are copied straight to their places, whatever the order of tokens and heads is in memory."""
    _, num_heads, width = values_NXd.shape
    step_N, step_X, step_d = values_NXd.stride()
    if step_d != 1 or step_N % width or step_X % width:
        values_NXd = values_NXd.contiguous()
        step_N, step_X, _ = values_NXd.stride()
    num_rows = ((len(values_NXd) - 1) * step_N + (num_heads - 1) * step_X) // width + 1
    rows = values_NXd.as_strided((num_rows, width), (width, 1))
    key = (num_groups, num_heads, step_N // width, step_X // width)
    if key not in block.indices:
        heads_K1J1 = torch.arange(num_heads, device=rows.device).view(num_groups, 1, -1, 1)
        block.indices[key] = (block.source_RT[:, None] * key[2] + heads_K1J1 * key[3]).flatten()
    return rows.index_select(0, block.indices[key]).view(num_groups, len(block.lengths), -1, width)


def _packed(values_KRYd: Tensor, block: Sequences) -> Tensor:
    num_groups, num, size, width = values_KRYd.shape
    longest = block.source_RT.shape[1]
    key = (num_groups, size)
    if key not in block.indices:
        device = values_KRYd.device
        heads_J = torch.arange(0, size, longest, device=device)
        heads_KJ = torch.arange(num_groups, device=device)[:, None] * (num * size) + heads_J
        place_N1 = (block.place_N // longest * size + block.place_N % longest)[:, None]
        block.indices[key] = (place_N1 + heads_KJ.flatten()).flatten()
    found = values_KRYd.reshape(-1, width).index_select(0, block.indices[key]).view(len(block.place_N), -1, width)
    found[block.num_tokens :] = 0
    return found


class _Unpack(torch.autograd.Function):
    """The derivative of padding is nought, since nobody reads it."""

    @staticmethod
    def forward(ctx: Any, values_NXd: Tensor, block: Sequences, num_groups: int) -> Tensor:
        ctx.block = block
        return _unpacked(values_NXd, block, num_groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _packed(gradients[0], ctx.block), None, None


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_KRYd: Tensor, block: Sequences) -> Tensor:
        ctx.block, ctx.num_groups = block, values_KRYd.shape[0]
        return _packed(values_KRYd, block)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        block: Sequences = ctx.block
        unpacked_KRYd = _unpacked(gradients[0], block, ctx.num_groups)
        unpacked_KRJTd = unpacked_KRYd.unflatten(2, (-1, block.filled_RT.shape[1]))
        unpacked_KRJTd.mul_(block.filled_RT[:, None, :, None])
        return unpacked_KRYd, None
