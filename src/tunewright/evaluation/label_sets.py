"""Answers that are sets of labels: what each row adds to F1, and above which logits a label is answered.

Shapes: N rows, R resamples, C labels, M = N C pairs of row and label.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.types import label_set

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def members(answers: Sequence[str], labels: Sequence[str]) -> BoolArray:
    """Whether each row's set has each label of the task; labels that are none of its are left out: [N, C]."""
    index = {label: k for k, label in enumerate(labels)}
    found_NC = np.zeros((len(answers), len(labels)), dtype=bool)
    for row, answer in enumerate(answers):
        found_NC[row, [index[label] for label in label_set(answer) if label in index]] = True
    return found_NC


def hits(answers: Sequence[str], references: Sequence[tuple[str, ...]], labels: Sequence[str]) -> NDArray[np.int8]:
    """For each label whether it was answered and right, then how often it occurs as truth or answer: [N, 2C]."""
    return hits_of(members([right[0] for right in references], labels), members(answers, labels))


def hits_of(is_true_NC: BoolArray, is_given_NC: BoolArray) -> NDArray[np.int8]:
    """The same, of what is right and what was answered."""
    occurs_NC = is_true_NC.astype(np.int8) + is_given_NC
    return np.concatenate([is_true_NC & is_given_NC, occurs_NC], axis=1, dtype=np.int8)


def micro_f1(sums_RM: FloatArray, rows_R: FloatArray) -> FloatArray:
    """F1 of all pairs of row and label; 0 where no label occurs at all.

    As scikit-learn's `f1_score(average="micro", zero_division=0)` of indicator matrices.
    """
    hits_RC, occurrences_RC = np.split(sums_RM.astype(np.float64), 2, axis=1)
    value_R = 2 * hits_RC.sum(axis=1) / np.maximum(occurrences_RC.sum(axis=1), 1)
    return np.where(rows_R > 0, value_R, np.nan)


def thresholds(logits_NC: FloatArray, is_true_NC: BoolArray, *, apart: bool) -> FloatArray:
    """Logits above which labels are answered, chosen for the highest F1 on these rows: [C].

    Args:
        logits_NC: Of dev rows.
        is_true_NC: Their labels.
        apart: One for each label, by its own F1, as a macro score asks for; a label without a row gets the shared one.
            Else one for all, by F1 over all pairs: where probabilities are right, that is the best there is for a
            micro score (Lipton et al. 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure", section 4).
    """
    shared = _best_threshold(logits_NC.ravel(), is_true_NC.ravel())
    if not apart:
        return np.full(logits_NC.shape[1], shared)
    columns = zip(logits_NC.T, is_true_NC.T, strict=True)
    return np.array([_best_threshold(logits_N, true_N) if true_N.any() else shared for logits_N, true_N in columns])


def _best_threshold(logits_M: FloatArray, is_true_M: BoolArray) -> float:
    """Half-way between the last logit that is answered and the next; of equal F1, the fewest answers."""
    order = np.argsort(-logits_M, kind="stable")
    sorted_M = logits_M[order]
    hits_M, answered_M = np.cumsum(is_true_M[order]), np.arange(1, len(order) + 1)
    f1_M = 2 * hits_M / (answered_M + is_true_M.sum())
    is_end_M = np.append(sorted_M[:-1] > sorted_M[1:], True)
    best = int(np.argmax(np.where(is_end_M, f1_M, -1.0)))
    below = sorted_M[best + 1] if best + 1 < len(sorted_M) else sorted_M[best] - 1
    return float((sorted_M[best] + below) / 2)
