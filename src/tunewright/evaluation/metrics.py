"""Metrics: what each row adds to some sums, and what those sums are worth, for many resamples of the rows at once.

Shapes: N rows, R resamples, K candidates, C labels, M statistics of a row: sums of these are all a metric needs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.evaluation import label_sets, numbers, texts
from tunewright.registry import table
from tunewright.types import Example, TaskKind

UNKNOWN_LABEL = -1
"""Index of a label that is none of the task's: every answer to such a row is wrong."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
CountArray = NDArray[np.float32]
"""Whole numbers as float32, for the speed of the matrix product; sums are exact below 2**24 rows."""
StatsArray = NDArray[Any]
"""Statistics of each row, [N, M]: whole numbers of any width, or float64."""

References = Sequence[tuple[str, ...]]
"""For each row all answers that are right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A number up to 1 that says how good the answers are; more is better, and 0 is nothing."""

    name: str
    kinds: tuple[TaskKind, ...]
    """Of the tasks it judges."""
    stats: Callable[[Sequence[str], References, Sequence[str]], StatsArray]
    """(answers, references, labels of the task) -> what each row adds to the sums [N, M]."""
    of_sums: Callable[[FloatArray, FloatArray], FloatArray]
    """(sums [R, M], rows [R]) -> values [R]; NaN for a resample without rows."""
    is_mean: bool = False
    """True where the value is the mean of the rows' only statistic."""
    is_proportion: bool = False
    """True where that statistic is 1 for a right row and 0 for a wrong one."""
    chance: Callable[[Sequence[int], int], float] | None = None
    """(rows per label, all rows) -> the best value that is reached without reading the texts; None where unknown."""
    needs: str | None = None
    """Setting without which it cannot judge; see `named.find_metric`."""
    remarks: Callable[[Sequence[str]], tuple[str, ...]] | None = None
    """Answers -> what is to be said of them beside the value; None where that is nothing."""

    def values(self, stats_NM: StatsArray, weights_RN: CountArray) -> FloatArray:
        """One value for each resample of the rows: [R].

        Args:
            stats_NM: Of the answers.
            weights_RN: How often each resample holds each row.
        """
        assert len(stats_NM) < 2**24, "more rows than float32 counts"
        exact = np.float32 if stats_NM.dtype.kind != "f" or stats_NM.dtype == np.float32 else np.float64
        weights_RN = weights_RN.astype(np.float32, copy=False)
        sums_RM = weights_RN.astype(exact, copy=False) @ stats_NM.astype(exact, copy=False)
        return self.of_sums(sums_RM, weights_RN.sum(axis=1))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scorer:
    """A metric with what is right for some rows: all that answers are judged by."""

    metric: Metric
    references: References
    labels: Sequence[str] = ()
    """Of the task; none where texts are generated."""
    groups_N: IntArray | None = None
    """Group of each row; rows of a group are drawn together (cluster bootstrap). None: rows are independent."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.references)

    @property
    def num_units(self) -> int:
        """What is drawn independently: rows, or groups of them."""
        return self.num_rows if self.groups_N is None else np.unique(self.groups_N).size

    @property
    def is_binomial(self) -> bool:
        """True where right rows are independent draws, so that exact methods for proportions apply."""
        return self.metric.is_proportion and self.groups_N is None

    def part(self, rows: IntArray) -> "Scorer":
        """The same for some of the rows."""
        return Scorer(
            metric=self.metric,
            references=[self.references[k] for k in rows.tolist()],
            labels=self.labels,
            groups_N=None if self.groups_N is None else self.groups_N[rows],
        )

    def stats(self, answers: Sequence[str]) -> StatsArray:
        """What each answer adds to the metric's sums [N, M]: made once, it stands for the answers from here on."""
        assert len(answers) == self.num_rows, "one answer for each row"
        return self.metric.stats(answers, self.references, self.labels)

    def value(self, stats_NM: StatsArray) -> float:
        """The metric of these answers."""
        return float(self.metric.values(stats_NM, np.ones((1, self.num_rows), dtype=np.float32))[0])

    def values(self, stats_KNM: Sequence[StatsArray], weights_RN: CountArray) -> FloatArray:
        """The metric of each candidate's answers on each resample: [R, K]."""
        return np.stack([self.metric.values(stats_NM, weights_RN) for stats_NM in stats_KNM], axis=1)


def label_indices(labels: Sequence[str], given: Iterable[str | None]) -> IntArray:
    """Index of each given label among those of the task; `UNKNOWN_LABEL` for one that is not among them."""
    index = {label: k for k, label in enumerate(labels)}
    return np.array([UNKNOWN_LABEL if name is None else index.get(name, UNKNOWN_LABEL) for name in given], np.int64)


def row_scorer(metric: Metric, labels: Sequence[str], examples: Iterable[Example]) -> Scorer:
    """The metric with what is right for these rows: their labels where the task has some, else their references."""
    rights = [(str(e.label),) if labels else e.references for e in examples]
    return Scorer(metric=metric, references=rights, labels=labels)


def true_indices(scorer: Scorer) -> IntArray:
    """Label index of each row, `UNKNOWN_LABEL` where the task does not know the label."""
    return label_indices(scorer.labels, (right[0] for right in scorer.references))


def _right(answers: Sequence[str], references: References, _: Sequence[str]) -> StatsArray:
    """1 for an answer that is right to the letter."""
    return np.array([[given in right] for given, right in zip(answers, references, strict=True)], np.float32)


def _hits(answers: Sequence[str], references: References, labels: Sequence[str]) -> StatsArray:
    """For each label whether it was answered and right, then how often it occurs as truth or answer: [N, 2C]."""
    is_true_NC = label_indices(labels, (right[0] for right in references))[:, None] == np.arange(len(labels))
    is_given_NC = label_indices(labels, answers)[:, None] == np.arange(len(labels))
    return label_sets.hits_of(is_true_NC, is_given_NC)


def mean(sums_RM: FloatArray, rows_R: FloatArray) -> FloatArray:
    """Of the only statistic."""
    return _ratio(sums_RM[:, 0], rows_R)


def _macro_f1(sums_RM: FloatArray, _: FloatArray) -> FloatArray:
    """Mean F1 over the labels that occur as truth or as answer in the resample.

    As scikit-learn's `f1_score(average="macro", zero_division=0)` over those labels. A row with an unknown true label
    counts as a false positive of the answer; "unknown" is no class of its own.
    """
    hits_RC, occurrences_RC = np.split(sums_RM, 2, axis=1)
    f1_RC = np.nan_to_num(_ratio(2 * hits_RC, occurrences_RC))
    return _ratio(f1_RC.sum(axis=1), np.count_nonzero(occurrences_RC, axis=1))


def _confusions(answers: Sequence[str], references: References, labels: Sequence[str]) -> StatsArray:
    """Whether the answer is right, then for each label whether it is the truth, then whether it is the answer."""
    true_N, given_N = label_indices(labels, (right[0] for right in references)), label_indices(labels, answers)
    is_right_N1 = ((true_N == given_N) & (true_N != UNKNOWN_LABEL))[:, None]
    every_C = np.arange(len(labels))
    return np.concatenate([is_right_N1, true_N[:, None] == every_C, given_N[:, None] == every_C], axis=1, dtype=np.int8)


def _mcc(sums_RM: FloatArray, rows_R: FloatArray) -> FloatArray:
    """Matthews correlation coefficient of several classes, 0 where one side has a single class.

    R_K of Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8,
    with labels that the task does not know as one more class.
    """
    sums_RM, rows_R = sums_RM.astype(np.float64), rows_R.astype(np.float64)
    right_R, (true_RC, given_RC) = sums_RM[:, 0], np.split(sums_RM[:, 1:], 2, axis=1)
    other_true_R, other_given_R = rows_R - true_RC.sum(axis=1), rows_R - given_RC.sum(axis=1)
    covariance_R = right_R * rows_R - (true_RC * given_RC).sum(axis=1) - other_true_R * other_given_R
    spread_true_R = rows_R**2 - (true_RC**2).sum(axis=1) - other_true_R**2
    spread_given_R = rows_R**2 - (given_RC**2).sum(axis=1) - other_given_R**2
    value_R = np.nan_to_num(_ratio(covariance_R, np.sqrt(spread_true_R * spread_given_R)))
    return np.where(rows_R > 0, value_R, np.nan)


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


METRICS = table(
    Metric(
        name="accuracy", kinds=("classify", "multi-label", "choose"), stats=_right, of_sums=mean, is_mean=True,
        is_proportion=True, chance=_largest_share,
    ),
    Metric(name="macro-f1", kinds=("classify",), stats=_hits, of_sums=_macro_f1, chance=_one_in_labels),
    # A constant answer, or a guess, correlates with nothing.
    Metric(name="mcc", kinds=("classify",), stats=_confusions, of_sums=_mcc, chance=lambda _counts, _rows: 0.0),
    Metric(name="multi-label-micro-f1", kinds=("multi-label",), stats=label_sets.hits, of_sums=label_sets.micro_f1),
    Metric(name="multi-label-macro-f1", kinds=("multi-label",), stats=label_sets.hits, of_sums=_macro_f1),
    Metric(name="rouge-l", kinds=("generate",), stats=texts.rouge_l, of_sums=mean, is_mean=True),
    Metric(name="bleu", kinds=("generate",), stats=texts.bleu_stats, of_sums=texts.bleu),
    Metric(name="chrf", kinds=("generate",), stats=texts.chrf_stats, of_sums=texts.chrf),
    Metric(name="token-f1", kinds=("generate",), stats=texts.token_f1, of_sums=mean, is_mean=True),
    Metric(
        name="exact-match", kinds=("generate",), stats=texts.exact_match, of_sums=mean, is_mean=True,
        is_proportion=True,
    ),
    Metric(
        name="numeric", kinds=("generate",), stats=numbers.numeric, of_sums=mean, is_mean=True, is_proportion=True
    ),
    Metric(
        name="sql-execution", kinds=("generate",), stats=_right, of_sums=mean, is_mean=True, is_proportion=True,
        needs="database",
    ),
)  # fmt: skip
