"""What the executor is asked: rows, each naming its adapter."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding


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
class Request:
    """A row that wants an answer in text."""

    id: Hashable
    row: Row
    decoding: Decoding
    generator: torch.Generator | None = None
    """Draws its tokens, and nobody else's, so that neighbours change nothing; not used at temperature 0."""


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


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A whole answer."""

    text: str
    """Without the stop text."""
    ids: tuple[int, ...]
    """All tokens that were chosen, an end-of-text token included."""
    log_probs: tuple[float, ...]
    """Of each token, by the model itself, before temperature and top-p."""
    finish_reason: FinishReason
