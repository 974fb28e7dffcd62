"""A part that shows a row the answered examples nearest to it.

Shapes: B rows, N pool rows, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tunewright.adapters.parts import Settings
from tunewright.prompts.bm25 import BM25


@dataclass(frozen=True, kw_only=True)
class Retriever:
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
    """The texts' features under the bare base, of length 1; None: they are compared by their words (BM25)."""
    mixes: ClassVar[bool] = True

    @cached_property
    def _index(self) -> BM25:
        return BM25(self.texts)

    def ranked(self, queries: Sequence[str], vectors_BD: Tensor | None) -> Iterator[tuple[str, ...]]:
        """For each query the examples to show, nearest first; never one of the same text, whose answer that would tell.

        Args:
            queries: Texts of rows.
            vectors_BD: Their features at length 1, where there are vectors.
        """
        for b, query in enumerate(queries):
            order = np.argsort(-self._similarity(query, None if vectors_BD is None else vectors_BD[b]), kind="stable")
            others = [int(k) for k in order[: self.num_shown + self.texts.count(query)] if self.texts[k] != query]
            yield tuple(self.shown[k] for k in others[: self.num_shown])

    def _similarity(self, query: str, vector_D: Tensor | None) -> NDArray[np.float32]:
        if self.vectors_ND is None or vector_D is None:
            return self._index.scores(query)
        similarity: NDArray[np.float32] = (self.vectors_ND @ vector_D.to(self.vectors_ND)).numpy()
        return similarity

    def settings(self) -> dict[str, object]:
        return {"texts": list(self.texts), "shown": list(self.shown), "num_shown": self.num_shown}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.vectors_ND is None else {"vectors": self.vectors_ND}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        texts, shown = settings["texts"], settings["shown"]
        assert isinstance(texts, list)
        assert isinstance(shown, list)
        assert 0 < len(texts) == len(shown), "each text is shown in some way"
        num_shown = int(str(settings["num_shown"]))
        assert num_shown >= 1, "something is shown"
        return cls(
            texts=tuple(map(str, texts)),
            shown=tuple(map(str, shown)),
            num_shown=num_shown,
            vectors_ND=tensors.get("vectors"),
        )
