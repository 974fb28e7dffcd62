"""Metrics of classification, on one set of rows or on many resamples of it at once.

Shapes: N rows, R resamples, C labels. Labels are indices; a true index of -1 is a label that the task does not know.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tunewright.registry import table
from tunewright.types import Example

UNKNOWN_LABEL = -1
"""True index of a row whose label is none of the task's: every answer to it is wrong."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
CountArray = NDArray[np.float32]
"""Whole numbers as float32, for the speed of the matrix product; sums are exact below 2**24 rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A number between 0 and 1 that says how good the answers are; more is better."""

    name: str
    chance: Callable[[Sequence[int], int], float]
    """(rows per label, all rows) -> the best value that is reached without reading the texts."""
    resampled: Callable[[IntArray, IntArray, int, CountArray], FloatArray]
    """(true_N, predicted_N, num_labels, weights_RN) -> values_R; NaN for a resample without rows."""
    is_proportion: bool
    """True where the value is a share of right rows, not a ratio of sums."""

    @overload
    def value(self, true_N: IntArray, predicted_N: IntArray, num_labels: int, weights_RN: None = None) -> float: ...

    @overload
    def value(self, true_N: IntArray, predicted_N: IntArray, num_labels: int, weights_RN: CountArray) -> FloatArray: ...

    def value(
        self, true_N: IntArray, predicted_N: IntArray, num_labels: int, weights_RN: CountArray | None = None
    ) -> float | FloatArray:
        """The value on the rows, or one value for each resample of them.

        Args:
            true_N: Label indices, `UNKNOWN_LABEL` where the task does not know the label.
            predicted_N: Label indices in [0, num_labels).
            num_labels: Labels of the task.
            weights_RN: How often each resample holds each row; None for each row once.
        """
        assert true_N.shape == predicted_N.shape, "one prediction for each row"
        assert true_N.size < 2**24, "more rows than float32 counts"
        if weights_RN is None:
            once_RN = np.ones((1, true_N.size), dtype=np.float32)
            return float(self.resampled(true_N, predicted_N, num_labels, once_RN)[0])
        return self.resampled(true_N, predicted_N, num_labels, weights_RN.astype(np.float32, copy=False))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scorer:
    """A metric with the true labels of some rows: all that answers are judged by."""

    metric: Metric
    true_N: IntArray
    num_labels: int
    groups_N: IntArray | None = None
    """Group of each row; rows of a group are drawn together (cluster bootstrap). None: rows are independent."""

    @property
    def num_units(self) -> int:
        """What is drawn independently: rows, or groups of them."""
        return self.true_N.size if self.groups_N is None else np.unique(self.groups_N).size

    @property
    def is_binomial(self) -> bool:
        """True where right rows are independent draws, so that exact methods for proportions apply."""
        return self.metric.is_proportion and self.groups_N is None

    def value(self, predicted_N: IntArray) -> float:
        """The metric of these answers."""
        return self.metric.value(self.true_N, predicted_N, self.num_labels)

    def values(self, predicted_KN: Sequence[IntArray], weights_RN: CountArray) -> FloatArray:
        """The metric of each candidate's answers on each resample: [R, K]."""
        values_KR = [self.metric.value(self.true_N, row_N, self.num_labels, weights_RN) for row_N in predicted_KN]
        return np.stack(values_KR, axis=1)


def _accuracy(true_N: IntArray, predicted_N: IntArray, _: int, weights_RN: CountArray) -> FloatArray:
    """Share of rows answered right."""
    right_R = weights_RN @ (true_N == predicted_N).astype(np.float32)
    return _ratio(right_R, weights_RN.sum(axis=1))


def _macro_f1(true_N: IntArray, predicted_N: IntArray, num_labels: int, weights_RN: CountArray) -> FloatArray:
    """Mean F1 over the labels that occur as truth or as prediction in the resample.

    As scikit-learn's `f1_score(average="macro", zero_division=0)` over those labels. A row with an unknown true label
    counts as a false positive of the predicted label; "unknown" is no class of its own.
    """
    is_true_NC = true_N[:, None] == np.arange(num_labels)
    is_predicted_NC = predicted_N[:, None] == np.arange(num_labels)
    hits_RC = weights_RN @ (is_true_NC & is_predicted_NC).astype(np.float32)
    occurrences_RC = weights_RN @ (is_true_NC.astype(np.float32) + is_predicted_NC)
    f1_RC = np.nan_to_num(_ratio(2 * hits_RC, occurrences_RC))
    return _ratio(f1_RC.sum(axis=1), np.count_nonzero(occurrences_RC, axis=1))


def _ratio(numerator: NDArray[np.floating], denominator: NDArray[np.floating] | IntArray) -> FloatArray:
    """The quotient in float64; NaN where the denominator is zero."""
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0, dtype=np.float64)
    return ratio


def _largest_share(counts_C: Sequence[int], num_rows: int) -> float:
    """Always answering the most frequent label; rows of unknown labels are wrong whatever is answered."""
    return max(counts_C) / num_rows


def _one_in_labels(counts_C: Sequence[int], _: int) -> float:
    """Guessing each label as often as it occurs.

    F1 of a guess made with frequency q of a label with share p is 2pq/(p+q) <= (p+q)/2, so no guess exceeds 1/C.
    """
    return 1 / sum(count > 0 for count in counts_C)


def label_indices(labels: Sequence[str], given: Iterable[str | None]) -> IntArray:
    """Index of each given label among those of the task; `UNKNOWN_LABEL` for one that is not among them."""
    index = {label: k for k, label in enumerate(labels)}
    return np.array([UNKNOWN_LABEL if name is None else index.get(name, UNKNOWN_LABEL) for name in given], np.int64)


def row_scorer(metric: str, labels: Sequence[str], examples: Iterable[Example]) -> Scorer:
    """The metric of this name with the true labels of these rows."""
    true_N = label_indices(labels, (example.label for example in examples))
    return Scorer(metric=METRICS[metric], true_N=true_N, num_labels=len(labels))


METRICS = table(
    Metric(name="accuracy", chance=_largest_share, resampled=_accuracy, is_proportion=True),
    Metric(name="macro-f1", chance=_one_in_labels, resampled=_macro_f1, is_proportion=False),
)
