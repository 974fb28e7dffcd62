"""What stands before the texts of a decoder, as keys and values, whatever it was made of.

Shapes: G distinct prefixes, P positions of the longest, K key/value heads, d head width, L layers.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Kept = tuple[Tensor, Tensor]
"""Keys and values of one prefix, each [L, K, P, d]."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys and values of one layer, of several sequences or prefixes."""

    keys_KGPd: Tensor
    values_KGPd: Tensor
    position_GP: Tensor
    filled_GP: Tensor
    """False on padding."""

    def seen_by(self, prefix_R: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix of each row, [K R, P, d]; one that all share is not repeated, [K, P, d]."""
        if self.keys_KGPd.shape[1] == 1:
            return self.keys_KGPd[:, 0], self.values_KGPd[:, 0]
        keys_KRPd, values_KRPd = (t.index_select(1, prefix_R) for t in (self.keys_KGPd, self.values_KGPd))
        return keys_KRPd.flatten(0, 1), values_KRPd.flatten(0, 1)

    def of(self, members: Sequence[int]) -> "Keys":
        """Those of some sequences."""
        index = torch.tensor(members, device=self.position_GP.device)
        return Keys(
            keys_KGPd=self.keys_KGPd.index_select(1, index),
            values_KGPd=self.values_KGPd.index_select(1, index),
            position_GP=self.position_GP[index],
            filled_GP=self.filled_GP[index],
        )

    def then(self, other: "Keys") -> "Keys":
        """Both, one after the other."""
        return Keys(
            keys_KGPd=torch.cat([self.keys_KGPd, other.keys_KGPd], 2),
            values_KGPd=torch.cat([self.values_KGPd, other.values_KGPd], 2),
            position_GP=torch.cat([self.position_GP, other.position_GP], 1),
            filled_GP=torch.cat([self.filled_GP, other.filled_GP], 1),
        )


class KeptPrefixes:
    """Keys and values of prefixes between passes, those not used for longest dropped first.

    Args:
        most_bytes: Held at most, with what they were made of; the last one used stays in any case.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._found: OrderedDict[Hashable, tuple[list[Tensor], list[Tensor], Kept]] = OrderedDict()
        """Tensors that a prefix was made of (their ids are theirs as long as they are held), their values, and it."""

    def __len__(self) -> int:
        return len(self._found)

    @property
    def num_bytes(self) -> int:
        """Held now."""
        return sum(_num_bytes([*then, *kept]) for _, then, kept in self._found.values())

    def get(self, said: Hashable, tensors: Sequence[Tensor]) -> Kept | None:
        """That of these tensors with these values, under what is said: optimizers change tensors and do not tell."""
        key = (said, *map(id, tensors))
        if key not in self._found:
            return None
        self._found.move_to_end(key)
        _, then, kept = self._found[key]
        return kept if all(same(a, b) for a, b in zip(tensors, then, strict=True)) else None

    def put(self, said: Hashable, tensors: Sequence[Tensor], kept: Kept) -> None:
        """Keeps it, and drops others."""
        self._found[said, *map(id, tensors)] = (list(tensors), [t.detach().clone() for t in tensors], kept)
        held = self.num_bytes
        while held > self._most_bytes and len(self._found) > 1:
            _, (_, then, other) = self._found.popitem(last=False)
            held -= _num_bytes([*then, *other])


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def same(now: Tensor, then: Tensor) -> bool:
    """Whether two tensors have the same values."""
    return torch.equal(now, then)


def stacked(prefixes: Sequence[Kept | None], shape: tuple[int, int, int], like: Tensor) -> list[Keys] | None:
    """Prefixes of several lengths, layer by layer, the shorter ones padded; None where there are none.

    Args:
        prefixes: Keys and values of each, or None.
        shape: L, K, d.
        like: Gives dtype and device.
    """
    lengths = [0 if kept is None else kept[0].shape[2] for kept in prefixes]
    longest = max(lengths, default=0)
    if longest == 0:
        return None
    columns_P = torch.arange(longest)
    filled_GP = (columns_P < torch.tensor(lengths)[:, None]).to(like.device)
    position_GP = columns_P.expand(len(lengths), -1).to(like.device)
    return [
        Keys(keys_KGPd=keys, values_KGPd=values, position_GP=position_GP, filled_GP=filled_GP)
        for keys, values in zip(*_side_by_side(prefixes, longest, shape, like), strict=True)
    ]


def _side_by_side(
    prefixes: Sequence[Kept | None], longest: int, shape: tuple[int, int, int], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values, each [L, K, G, P, d]; a prefix that is alone is not copied."""
    if len(prefixes) == 1 and prefixes[0] is not None:
        keys, values = prefixes[0]
        return keys.to(like).unsqueeze(2), values.to(like).unsqueeze(2)
    num_layers, num_heads, width = shape
    none = like.new_zeros(2, num_layers, num_heads, longest, width)
    padded = [
        none if kept is None else nn.functional.pad(torch.stack(kept).to(like), (0, 0, 0, longest - kept[0].shape[2]))
        for kept in prefixes
    ]
    both_2LKGPd = torch.stack(padded, 3)
    return both_2LKGPd[0], both_2LKGPd[1]


def unstacked(layers: Sequence[Keys], lengths: Sequence[tuple[int, int]]) -> list[Kept]:
    """The inverse, of prefixes in two pieces.

    Args:
        layers: Keys and values of each layer: all first pieces padded to the longest, then all second ones.
        lengths: Of the pieces of each prefix.
    """
    width = max(first for first, _ in lengths)

    def pieces(values_KGPd: Tensor, g: int) -> Tensor:
        first, second = lengths[g]
        return torch.cat([values_KGPd[:, g, :first], values_KGPd[:, g, width : width + second]], 1)

    return [
        (
            torch.stack([pieces(layer.keys_KGPd, g) for layer in layers]),
            torch.stack([pieces(layer.values_KGPd, g) for layer in layers]),
        )
        for g in range(len(lengths))
    ]
