"""Keys and values of rows that are being answered: they grow by a token with each step, rows join and leave.

Shapes: K key/value heads, S places (rows, and room for more), T tokens of the longest row and room for more, d head
width, R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from tunewright.backbones.prefix import Keys

_MORE_TOKENS = 64
"""Room is made for so many at a time: more would be memory without use, fewer would copy too often."""


@dataclass(kw_only=True)
class _Layer:
    keys_KSTd: Tensor
    values_KSTd: Tensor


class Storage:
    """Row r has place r. Within its context, one pass over all rows adds a token to each.

    Attention sees no more columns than the longest row has now, so that a long row that has left costs nothing.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        """Tokens of each row."""
        self._starts: list[int] = []
        """Position of each row's first token."""
        self._layers: list[_Layer] = []
        self._now: tuple[Tensor, Tensor, Tensor] | None = None
        """Of the pass that runs: last column of each row, positions and what is filled."""

    def join(self, layers: Sequence[Keys], lengths: Sequence[int], starts: Sequence[int]) -> None:
        """Rows take the places after the others.

        Args:
            layers: Their keys and values, [K, R, T, d], padded after each row.
            lengths: Tokens of each.
            starts: Position of the first token of each.
        """
        first, longest = len(self.lengths), layers[0].keys_KGPd.shape[2]
        if not self._layers:
            empty = [new.keys_KGPd[:, :0, :0] for new in layers]
            self._layers = [_Layer(keys_KSTd=e, values_KSTd=e) for e in empty]
        self._make_room(first + len(lengths), longest)
        for layer, new in zip(self._layers, layers, strict=True):
            layer.keys_KSTd[:, first : first + len(lengths), :longest] = new.keys_KGPd
            layer.values_KSTd[:, first : first + len(lengths), :longest] = new.values_KGPd
        self.lengths += lengths
        self._starts += starts

    def leave(self, place: int) -> None:
        """A row leaves, and the last one takes its place."""
        last = len(self.lengths) - 1
        size, start = self.lengths.pop(), self._starts.pop()
        if place < last:
            self.lengths[place], self._starts[place] = size, start
        # Nothing stays behind, as the next row here may be shorter: a NaN would survive the mask.
        for values_KSTd in (t for layer in self._layers for t in (layer.keys_KSTd, layer.values_KSTd)):
            if place < last:
                values_KSTd[:, place] = values_KSTd[:, last]
            values_KSTd[:, last] = 0

    def __enter__(self) -> None:
        self._make_room(len(self.lengths), max(self.lengths) + 1)
        device = self._layers[0].keys_KSTd.device
        columns_T = torch.arange(max(self.lengths) + 1)
        last_R = torch.tensor(self.lengths)
        position_RT = torch.tensor(self._starts)[:, None] + columns_T
        filled_RT = columns_T <= last_R[:, None]
        self._now = (last_R.to(device), position_RT.to(device), filled_RT.to(device))
        self.lengths = [size + 1 for size in self.lengths]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._now = None

    def extended(self, layer: int, new: Keys) -> Keys:
        """Writes the keys and values of one token of each row; returns those of all."""
        assert self._now is not None, "outside its context"
        last_R, position_RT, filled_RT = self._now
        num, longest = position_RT.shape
        rows_R, mine = torch.arange(num, device=last_R.device), self._layers[layer]
        mine.keys_KSTd[:, rows_R, last_R] = new.keys_KGPd[:, :, 0]
        mine.values_KSTd[:, rows_R, last_R] = new.values_KGPd[:, :, 0]
        return Keys(
            keys_KGPd=mine.keys_KSTd[:, :num, :longest],
            values_KGPd=mine.values_KSTd[:, :num, :longest],
            position_GP=position_RT,
            filled_GP=filled_RT,
        )

    def _make_room(self, num_rows: int, num_tokens: int) -> None:
        _, places, columns, _ = self._layers[0].keys_KSTd.shape
        more = max(0, num_rows - places)
        wider = 0 if num_tokens <= columns else -(-num_tokens // _MORE_TOKENS) * _MORE_TOKENS - columns
        if more == 0 and wider == 0:
            return
        # Zeros, not whatever was in memory: a NaN there would survive the mask.
        for layer in self._layers:
            layer.keys_KSTd = nn.functional.pad(layer.keys_KSTd, (0, 0, 0, wider, 0, more))
            layer.values_KSTd = nn.functional.pad(layer.values_KSTd, (0, 0, 0, wider, 0, more))
