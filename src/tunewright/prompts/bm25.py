"""Texts ranked by the words they share with a query (BM25, Robertson and Zaragoza 2009), by the library bm25s."""

from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from tunewright.prompts.tf_idf import words


class BM25:
    """An index of texts.

    Args:
        texts: To be found, at least one.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._index = bm25s.BM25()
        self._num_texts = len(texts)
        self._index.index([words(text) for text in texts], show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Of every text, the better the higher: [texts]."""
        asked = words(query)
        return np.asarray(self._index.get_scores(asked)) if asked else np.zeros(self._num_texts, dtype=np.float32)
