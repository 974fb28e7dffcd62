"""A part that shows a row the answered examples nearest to it.

Shapes: B rows, N pool rows, D width.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, Self

import numpy as np
from torch import Tensor

from tunewright.adapters.parts import Part
from tunewright.prompts.bm25 import BM25


class VectorStore(Protocol):
    """Vectors, of which the nearest are asked for: in an adapter, or elsewhere (see `pgvector`)."""

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


@dataclass(frozen=True, kw_only=True)
class Retriever(Part):
    """Answered examples of which the nearest stand before a row, the nearest last (Liu et al. 2022, KATE, section 3).

    They belong to the row: they run with it, under its soft prompt and LoRA.
    """

    texts: tuple[str, ...]
    """What rows are compared with."""
    shown: tuple[str, ...]
    """Each as it stands before a row, with its answer."""
    num_shown: int
    """At most: as many as fit."""
    vectors_ND: Tensor | None = None
    """The texts' features under the bare base, of length 1."""
    collection: str | None = None
    """Of these on a server. With neither, rows are compared by their words (BM25)."""
    url: str | None = None
    """Of that server in the run that filled it; never saved: who loads the adapter names it in the environment."""
    later: ClassVar = ("collection",)

    @property
    def by_features(self) -> bool:
        """Whether rows are compared by their features."""
        return self.vectors_ND is not None or self.collection is not None

    def moved(self, url: str | None) -> Self:
        """The same with its vectors on a server, if one is named.

        Raises:
            VectorStoreError: It does not take them.
        """
        if url is None or self.vectors_ND is None:
            return self
        from tunewright.prompts.pgvector import keep  # a database's client takes its time to load

        return replace(self, vectors_ND=None, collection=keep(url, self.vectors_ND), url=url)

    @cached_property
    def _store(self) -> VectorStore:
        if self.vectors_ND is not None:
            return InMemory(self.vectors_ND)
        from tunewright.prompts.pgvector import PgVector

        return PgVector(str(self.collection), self.url)

    @cached_property
    def _index(self) -> BM25:
        return BM25(self.texts)

    def ranked(self, queries: Sequence[str], vectors_BD: Tensor | None) -> Iterator[tuple[str, ...]]:
        """For each query the examples to show, nearest first; never one of the same text, whose answer that would tell.

        Args:
            queries: Texts of rows.
            vectors_BD: Their features at length 1, where they are compared by these.

        Raises:
            VectorStoreError: A server does not answer.
        """
        for b, query in enumerate(queries):
            count = self.num_shown + self.texts.count(query)
            if vectors_BD is None or not self.by_features:
                order = np.argsort(-self._index.scores(query), kind="stable")[:count].tolist()
            else:
                order = self._store.nearest(vectors_BD[b], count)
            others = [k for k in order if self.texts[k] != query]
            yield tuple(self.shown[k] for k in others[: self.num_shown])

    def settings(self) -> dict[str, object]:
        return {name: value for name, value in super().settings().items() if name != "url"}

    def check(self) -> None:
        assert 0 < len(self.texts) == len(self.shown), "each text is shown in some way"
        assert self.num_shown >= 1, "something is shown"
        assert self.collection is None or re.fullmatch("tunewright_[0-9a-f]{40}", self.collection), "a name of ours"
        assert self.url is None, "a folder does not say who gets a password"
