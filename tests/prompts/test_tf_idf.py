"""The nearest text against scikit-learn."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from tests import tiny
from tunewright.prompts import tf_idf
from tunewright.prompts.tf_idf import TfIdf, words


@pytest.mark.parametrize("block_values", [1, 200, 2**22])
def test_nearest_is_that_of_scikit_learn(block_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queries are compared at a time."""
    monkeypatch.setattr(tf_idf, "_BLOCK_VALUES", block_values)
    texts = [example.text for example in tiny.examples(40, seed=1)] + ["wholly other things"]
    queries = [example.text for example in tiny.examples(25, seed=2)] + ["other bread", "things"]
    vectorizer = TfidfVectorizer(tokenizer=words, token_pattern=None, lowercase=False)
    similarity = vectorizer.fit_transform(texts)
    expected = (vectorizer.transform(queries) @ similarity.T).toarray()
    found = TfIdf(texts).nearest(queries)
    np.testing.assert_allclose(expected[np.arange(len(queries)), found], expected.max(axis=1), rtol=0, atol=1e-12)
    assert len(set(found.tolist())) > 5


def test_of_equals_the_first_and_unknown_words_find_something() -> None:
    index = TfIdf(["a b", "c d", "c d"])
    assert index.nearest(["d c", "zzz", "", "A B!"]).tolist() == [1, 0, 0, 0]


def test_texts_without_words() -> None:
    assert TfIdf(["...", "!!!"]).nearest(["?"]).tolist() == [0]
