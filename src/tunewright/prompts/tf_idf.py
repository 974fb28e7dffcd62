"""Texts as weighted counts of their words, to find the nearest of some.

Shapes: N texts, V words.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_WORD = re.compile(r"[^\W_]+")

_BLOCK_VALUES = 2**22
"""Similarities that are held at a time."""


def words(text: str) -> list[str]:
    """Runs of letters and digits, in small letters."""
    return _WORD.findall(text.lower())


class TfIdf:
    """An index of texts by count times inverse document frequency, rows at length 1.

    The weights are scikit-learn's: count (1 + log((1 + N) / (1 + texts with the word))).

    Args:
        texts: To be found, at least one.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words(text)) for text in texts]
        self._column = {word: k for k, word in enumerate(dict.fromkeys(w for count in counts for w in count))}
        texts_with_V = np.zeros(max(1, len(self._column)))
        for count in counts:
            texts_with_V[[self._column[word] for word in count]] += 1
        self._weight_V = 1 + np.log((1 + len(texts)) / (1 + texts_with_V))
        self._rows_NV = self._weighted(counts)

    def nearest(self, queries: Sequence[str]) -> NDArray[np.int64]:
        """For each query the position of the text of highest cosine, the first of equals: [queries]."""
        found, size = [], max(1, _BLOCK_VALUES // self._rows_NV.shape[0])
        for start in range(0, len(queries), size):
            some = [Counter(words(query)) for query in queries[start : start + size]]
            found.append((self._weighted(some) @ self._rows_NV.T).toarray().argmax(axis=1))
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])

    def _weighted(self, counts: Sequence[Counter[str]]) -> "sparse.csr_array":
        """The texts' rows, of length 1 where they have a known word."""
        known = [{self._column[w]: n for w, n in count.items() if w in self._column} for count in counts]
        columns = np.array([column for row in known for column in row], dtype=np.int64)
        values = np.array([n for row in known for n in row.values()]) * self._weight_V[columns]
        starts = np.cumsum([0, *(len(row) for row in known)])
        lengths = np.sqrt(np.maximum(np.add.reduceat(np.append(values**2, 0.0), starts[:-1]), 1e-12))
        values = values / np.repeat(lengths, np.diff(starts))
        return sparse.csr_array((values, columns, starts), shape=(len(counts), self._weight_V.size))
