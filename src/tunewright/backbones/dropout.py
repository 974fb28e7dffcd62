"""Dropout that draws from a generator of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
