"""What a generated text adds to a metric, held against all texts that are right for its input.

Shapes: N rows, R resamples, M statistics of a row.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.prompts.tf_idf import words

FloatArray = NDArray[np.float64]
References = Sequence[tuple[str, ...]]

BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2
"""Longest n-grams, of tokens and of characters, and how much more recall counts: sacrebleu's defaults."""


def rouge_l(answers: Sequence[str], references: References, _: Sequence[str]) -> FloatArray:
    """F1 of the longest common subsequence of words with the best of the references (Lin 2004, section 3.1): [N, 1]."""
    return _best(answers, references, longest_common)


def token_f1(answers: Sequence[str], references: References, _: Sequence[str]) -> FloatArray:
    """F1 of the words in common, order aside (Rajpurkar et al. 2016, section 6.1, articles kept): [N, 1]."""
    return _best(answers, references, lambda one, other: (Counter(one) & Counter(other)).total())


def exact_match(answers: Sequence[str], references: References, _: Sequence[str]) -> NDArray[np.float32]:
    """1 for an answer that is one of the references, but for white space: [N, 1]."""
    rows = zip(answers, references, strict=True)
    return np.array([[given.split() in [each.split() for each in right]] for given, right in rows], np.float32)


def _best(answers: Sequence[str], references: References, common: Callable[[list[str], list[str]], int]) -> FloatArray:
    """For each row the highest F1 over its references."""

    def f1(given: list[str], right: list[str]) -> float:
        return 2 * common(given, right) / max(1, len(given) + len(right))

    rows = ((words(given), [words(each) for each in right]) for given, right in zip(answers, references, strict=True))
    return np.array([[max(f1(given, each) for each in right)] for given, right in rows])


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as the bits of one number.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited", figure 2.
    """
    places: dict[str, int] = {}
    for position, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << position
    whole = (1 << len(one)) - 1
    row = whole
    for token in other:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & whole
    return len(one) - row.bit_count()


def bleu_stats(answers: Sequence[str], references: References, _: Sequence[str]) -> NDArray[np.float32]:
    """Tokens of the answer, of the nearest long reference, matched and all n-grams of each order, by sacrebleu."""
    from sacrebleu.metrics.bleu import BLEU

    return _sacrebleu(BLEU(max_ngram_order=BLEU_ORDER), answers, references)


def chrf_stats(answers: Sequence[str], references: References, _: Sequence[str]) -> NDArray[np.float32]:
    """N-grams of characters of the answer, of the best reference and of both, for each order, by sacrebleu."""
    from sacrebleu.metrics.chrf import CHRF

    return _sacrebleu(CHRF(char_order=CHRF_ORDER, beta=CHRF_BETA), answers, references)


def _sacrebleu(metric: Any, answers: Sequence[str], references: References) -> NDArray[np.float32]:
    """Its own sufficient statistics of each row; whole numbers."""
    return np.array(metric._extract_corpus_statistics(answers, list(zip_longest(*references))), np.float32)


def bleu(sums_RM: FloatArray, rows_R: FloatArray) -> FloatArray:
    """BLEU of the corpus (Papineni et al. 2002, section 2.3), orders without a match smoothed as in sacrebleu.

    Each further order without a match counts as half a match of the one before (Chen and Cherry 2014, method 3).
    """
    sums_RM = sums_RM.astype(np.float64)
    answer_R, reference_R = sums_RM[:, 0], sums_RM[:, 1]
    matched_RO, all_RO = sums_RM[:, 2 : 2 + BLEU_ORDER], sums_RM[:, 2 + BLEU_ORDER :]
    is_defined_R = (matched_RO.sum(axis=1) > 0) & (all_RO > 0).all(axis=1)
    halved_RO = 0.5 ** np.cumsum(matched_RO == 0, axis=1)
    precision_RO = np.where(matched_RO > 0, matched_RO, halved_RO) / np.maximum(all_RO, 1)
    brevity_R = np.exp(np.minimum(0.0, 1 - reference_R / np.maximum(answer_R, 1)))
    value_R = np.where(is_defined_R, brevity_R * np.exp(np.log(precision_RO).mean(axis=1)), 0.0)
    return np.where(rows_R > 0, value_R, np.nan)


def chrf(sums_RM: FloatArray, rows_R: FloatArray) -> FloatArray:
    """chrF of the corpus (Popovic 2015): F of mean precision and recall over the orders that both sides have."""
    answer_RO, reference_RO, both_RO = (sums_RM[:, k::3].astype(np.float64) for k in range(3))
    has_RO = (answer_RO > 0) & (reference_RO > 0)
    orders_R = np.maximum(has_RO.sum(axis=1), 1)
    precision_R = (has_RO * both_RO / np.maximum(answer_RO, 1)).sum(axis=1) / orders_R
    recall_R = (has_RO * both_RO / np.maximum(reference_RO, 1)).sum(axis=1) / orders_R
    whole_R = CHRF_BETA**2 * precision_R + recall_R
    value_R = (1 + CHRF_BETA**2) * precision_R * recall_R / np.where(whole_R > 0, whole_R, 1.0)
    return np.where(rows_R > 0, value_R, np.nan)
