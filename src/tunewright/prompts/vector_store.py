"""Where the vectors are that rows are compared with: in an adapter, or elsewhere (see `pgvector`).

Shapes: N vectors, D width.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class VectorStore(Protocol):
    """Vectors, of which the nearest are asked for."""

    def nearest(self, vector_D: Tensor, count: int) -> Sequence[int]:
        """Positions of those of highest inner product, at most so many: the highest first, of equals the first."""
        ...


class InMemory:
    """Vectors of an adapter's own, fp32, out of a file whose hash was compared."""

    def __init__(self, vectors_ND: Tensor) -> None:
        self._vectors_ND = vectors_ND

    def nearest(self, vector_D: Tensor, count: int) -> Sequence[int]:
        scores_N = self._vectors_ND @ vector_D.to(self._vectors_ND)
        found: list[int] = scores_N.argsort(descending=True, stable=True)[:count].tolist()
        return found
