"""Whether probabilities mean what they say, and what they are good for: abstaining, and errors that differ in cost.

The confidence of a row is the probability of its answer. Shapes: N rows, C labels, B bins.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from tunewright.evaluation.answers import Answers
from tunewright.evaluation.metrics import UNKNOWN_LABEL, FloatArray, IntArray, Scorer, label_indices, true_indices
from tunewright.evaluation.statistics import ALPHA, LEVEL, wilson
from tunewright.runs.measurements import Bin, Calibration, Coverage

BoolArray = NDArray[np.bool_]

COOLEST, HOTTEST = 0.05, 20.0
"""Limits of a temperature."""

_MOST_BINS = 100
_STEPS = 20
"""Points of a risk-coverage curve, and steps in the search for a threshold."""


def fit_temperature(logits_NC: FloatArray, true_N: IntArray) -> float:
    """The temperature of least negative log likelihood (Guo et al. 2017, section 4.2), in [COOLEST, HOTTEST].

    1 where the rows are too few to show, by the likelihood ratio at the 5% level, that it is not 1; and where it would
    raise the calibration error, as for votes of neighbours: a true label without a vote costs the likelihood so much
    that it would have every answer in doubt. Where every answer is right, no temperature is cold enough for the
    likelihood; the targets are then Platt's (1999, section 2.2): of n rows without an error, 1 in n + 2 may be one.

    Args:
        logits_NC: Or logarithms of probabilities; finite.
        true_N: Label indices; rows of unknown labels say nothing and are left out.
    """
    logits_NC, true_N = logits_NC[true_N != UNKNOWN_LABEL], true_N[true_N != UNKNOWN_LABEL]
    n, num_labels = logits_NC.shape
    if n == 0:
        return 1.0
    doubt = 1 / (n + 2) if (logits_NC.argmax(axis=1) == true_N).all() else 0.0
    targets_NC = np.where(np.eye(num_labels)[true_N] == 1, 1 - doubt, doubt / (num_labels - 1))

    def loss(log_temperature: float) -> float:
        return -float((targets_NC * special.log_softmax(logits_NC / math.exp(log_temperature), axis=1)).sum())

    limits = (math.log(COOLEST), math.log(HOTTEST))
    found = optimize.minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-7})
    temperature = math.exp(found.x)
    is_shown = 2 * (loss(0.0) - found.fun) > stats.chi2.ppf(LEVEL, df=1)
    before, after = (_error_at(each, logits_NC, true_N) for each in (1.0, temperature))
    return temperature if is_shown and after < before else 1.0


def _error_at(temperature: float, logits_NC: FloatArray, true_N: IntArray) -> float:
    confidence_N = special.softmax(logits_NC / temperature, axis=1).max(axis=1)
    return calibration_error(confidence_N, logits_NC.argmax(axis=1) == true_N)


def tempered(probabilities_NC: FloatArray, temperature: float) -> FloatArray:
    """Probabilities whose logits are divided by the temperature; 1 / t takes back what t did."""
    with np.errstate(divide="ignore"):
        scaled_NC: FloatArray = special.softmax(np.log(probabilities_NC) / temperature, axis=1)
    return scaled_NC


def calibration_error(confidence_N: FloatArray, is_right_N: BoolArray) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over the bins of equal mass."""
    _, confidence_B, right_B = _rising(confidence_N, is_right_N).T
    return float(np.abs(confidence_B - right_B).sum() / confidence_N.size)


def reliability(confidence_N: FloatArray, is_right_N: BoolArray) -> tuple[Bin, ...]:
    """The same bins one by one, the least sure first."""
    return tuple(
        Bin(confidence=confidence / count, accuracy=wilson(round(right), round(count)))
        for count, confidence, right in _rising(confidence_N, is_right_N).tolist()
    )


def _rising(confidence_N: FloatArray, is_right_N: BoolArray) -> FloatArray:
    """Rows, summed confidence and right rows [B, 3] of each bin.

    As many bins as leave the accuracy rising from bin to bin (Roelofs et al. 2022, "Mitigating bias in calibration
    error estimation", algorithm 1): a fixed number of bins takes the noise of small bins for an error. Rows of the same
    confidence share a bin.
    """
    found_B3 = np.zeros((0, 3))
    for sums_B3 in _binnings(confidence_N, is_right_N):
        count_B, _, right_B = sums_B3.T
        if (np.diff(right_B / count_B) < 0).any():
            break
        found_B3 = sums_B3
    return found_B3


def _binnings(confidence_N: FloatArray, is_right_N: BoolArray) -> Iterator[FloatArray]:
    """For 1, 2, ... bins: rows, summed confidence and right rows of each that is not empty."""
    n = confidence_N.size
    share_N = (stats.rankdata(confidence_N) - 0.5) / n
    for num_bins in range(1, min(n, _MOST_BINS) + 1):
        bin_N = np.floor(share_N * num_bins).astype(np.int64)
        columns = (np.ones(n), confidence_N, is_right_N)
        sums_B3 = np.stack([np.bincount(bin_N, weights, num_bins) for weights in columns], axis=1).astype(np.float64)
        yield sums_B3[sums_B3[:, 0] > 0]


def abstention_threshold(confidence_N: FloatArray, is_right_N: BoolArray) -> float | None:
    """The least confidence to answer at, so that the risk is shown to be at most half of what it is without abstaining.

    "Shown" is an exact one-sided 95% bound (Clopper and Pearson 1934). Thresholds are tried from the one with the
    fewest rows that could show it, downwards, until one fails: a fixed sequence, so that the level holds for all
    together (Angelopoulos et al. 2021, "Learn then Test", section 3). None where nothing is wrong or rows are too few.
    """
    n, num_wrong = confidence_N.size, int((~is_right_N).sum())
    if num_wrong == 0:
        return None
    allowed = num_wrong / n / 2
    fewest = math.ceil(math.log(ALPHA) / math.log1p(-allowed))
    falling_N, found = np.sort(confidence_N)[::-1], None
    for rows in range(fewest, n, max(1, n // _STEPS)):
        threshold = float(falling_N[rows - 1])
        given_N = confidence_N >= threshold
        answered, wrong = int(given_N.sum()), int((given_N & ~is_right_N).sum())
        if answered == wrong or stats.beta.ppf(LEVEL, wrong + 1, answered - wrong) > allowed:
            break
        found = threshold
    return found


def coverage_curve(
    confidence_N: FloatArray, is_right_N: BoolArray, threshold: float | None = None
) -> tuple[Coverage, ...]:
    """Risk against coverage (El-Yaniv and Wiener 2010), from all rows down to a twentieth of them.

    Args:
        confidence_N: Of the answers.
        is_right_N: Whether they are right.
        threshold: One more point, where it answers any row.
    """
    falling_N, n = np.sort(confidence_N)[::-1], confidence_N.size
    thresholds = {float(falling_N[math.ceil(n * k / _STEPS) - 1]) for k in range(1, _STEPS + 1)}
    points = []
    for each in sorted(thresholds | (set() if threshold is None else {threshold})):
        given_N = confidence_N >= each
        if given_N.any():
            risk = float((~is_right_N[given_N]).mean())
            points.append(Coverage(threshold=each, coverage=float(given_N.mean()), risk=risk))
    return tuple(points)


def least_cost(probabilities_NC: FloatArray, costs_CC: FloatArray) -> IntArray:
    """The answer of least expected cost to each row (Elkan 2001, equation 1).

    Args:
        probabilities_NC: Of the labels.
        costs_CC: Cost of an answer (column) to a row of this true label (row).
    """
    answer_N: IntArray = (probabilities_NC @ costs_CC).argmin(axis=1)
    return answer_N


def mean_cost(answer_N: IntArray, true_N: IntArray, costs_CC: FloatArray) -> float:
    """Mean cost of the answers; 1 for a row of a label that has no costs."""
    return float(np.where(true_N == UNKNOWN_LABEL, 1.0, costs_CC[true_N, answer_N]).mean())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """Answers with probabilities to rows of known labels."""

    predicted_N: IntArray
    """Label indices."""
    true_N: IntArray
    """Label indices."""
    probabilities_NC: FloatArray

    @property
    def is_right(self) -> BoolArray:
        """Whether each answer is right: [N]."""
        is_right_N: BoolArray = self.predicted_N == self.true_N
        return is_right_N

    def confidence(self, probabilities_NC: FloatArray) -> FloatArray:
        """The probability of each answer: [N]."""
        return probabilities_NC[np.arange(self.predicted_N.size), self.predicted_N]


def judged(answers: Answers, scorer: Scorer) -> Judged:
    """Answers of labels with what is right."""
    predicted_N = label_indices(scorer.labels, answers.given)
    return Judged(predicted_N=predicted_N, true_N=true_indices(scorer), probabilities_NC=answers.probabilities_NC)


def assess(dev: Judged, test: Judged, temperature: float, costs_CC: FloatArray | None) -> Calibration:
    """All of the above for one artefact: the threshold from dev, everything else on test.

    Args:
        dev: Answers with calibrated probabilities.
        test: As `dev`.
        temperature: By which the logits were divided.
        costs_CC: As for `least_cost`.
    """
    raw_NC = tempered(test.probabilities_NC, 1 / temperature)
    threshold = abstention_threshold(dev.confidence(dev.probabilities_NC), dev.is_right)
    confidence_N, is_right_N = test.confidence(test.probabilities_NC), test.is_right
    cheapest_N = None if costs_CC is None else least_cost(test.probabilities_NC, costs_CC)
    costs = None if cheapest_N is None or costs_CC is None else mean_cost(cheapest_N, test.true_N, costs_CC)
    return Calibration(
        temperature=temperature,
        error_before=calibration_error(test.confidence(raw_NC), is_right_N),
        error=calibration_error(confidence_N, is_right_N),
        bins=reliability(confidence_N, is_right_N),
        threshold=threshold,
        curve=coverage_curve(confidence_N, is_right_N, threshold),
        mean_error_cost=costs,
    )
