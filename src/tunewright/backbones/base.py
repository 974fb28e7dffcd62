"""What the executor is asked: rows, each naming its adapter.

Shapes: B rows, D width, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.types import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """One tokenised input, special tokens included."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    num_cut: int = 0
    """Tokens of the text that did not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a batch: an input and the adapter that answers it."""

    encoding: Encoding
    adapter: Adapter


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Zeroes a share of values while training, from a generator of its own."""

    share: float
    generator: torch.Generator

    def __call__(self, values: Tensor) -> Tensor:
        """The values with a share set to 0 and the rest scaled up to the same mean."""
        if self.share == 0:
            return values
        kept = torch.rand(values.shape, generator=self.generator).ge_(self.share).to(values.device, values.dtype)
        return values * kept / (1 - self.share)


class Backbone(Protocol):
    """A frozen base model that runs rows of any mixture of adapters."""

    @property
    def identity(self) -> BaseIdentity: ...

    @property
    def width(self) -> int:
        """D."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest input, virtual tokens included."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights."""
        ...

    @property
    def num_parameters(self) -> int: ...

    @property
    def prefix_shape(self) -> tuple[int, int, int] | None:
        """(layers, heads, head width) of a deep prefix; None where this model cannot carry one."""
        ...

    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        """Tokenises, cutting texts so that each input has at most `limit` tokens."""
        ...

    def features(self, rows: Sequence[Row]) -> Tensor:
        """Pooled output of each row under its adapter: fp32 [B, D]. Gradients flow to the adapters' tensors."""
        ...

    def answer(self, adapter: Adapter, features_BD: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Logits [B, C] from features computed under this adapter."""
        ...

    def logits(self, rows: Sequence[Row]) -> list[Tensor]:
        """Answer of each row under its adapter: fp32 [C of that adapter]."""
        ...
