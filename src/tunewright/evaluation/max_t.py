"""P-values of many differences at once that know how these depend on each other: the step-down max-T.

Shapes: N rows, R resamples or sign flips, K candidates, P pairs of them.

Holm's method takes the worst dependence for granted. Differences of the same candidates on the same rows depend
strongly, and to know how is power (Westfall and Young 1993, "Resampling-Based Multiple Testing", algorithm 4.1).
"""

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator
from scipy import special

from tunewright.evaluation.metrics import CountArray, FloatArray, IntArray
from tunewright.evaluation.statistics import ROUNDING

_CHUNK = 4_000_000


def step_down(observed_P: FloatArray, null_RP: FloatArray) -> FloatArray:
    """Adjusted p-values: how often chance alone brings the largest of those not yet shown as far.

    Args:
        observed_P: Size of each statistic.
        null_RP: The same under the null, all of them in the same resample.
    """
    order = np.argsort(-observed_P, kind="stable")
    largest_RP = np.maximum.accumulate(null_RP[:, order[::-1]], axis=1)[:, ::-1]
    as_far_P = (largest_RP >= observed_P[order] - ROUNDING).sum(axis=0)
    adjusted_P = np.empty_like(observed_P)
    adjusted_P[order] = np.maximum.accumulate((1 + as_far_P) / (1 + len(null_RP)))
    return adjusted_P


def by_sign_flips(
    is_right_KN: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
    pairs: tuple[IntArray, IntArray],
    rng: Generator,
    num_flips: int,
) -> FloatArray:
    """Adjusted p-values of all differences of shares of right rows: [P].

    Under the null a row's difference is as likely as its opposite, so that the signs of rows are flipped, those of all
    pairs together. For one pair this is McNemar's exact test, up to the number of flips.

    Args:
        is_right_KN: Whether each candidate has each row right.
        pairs: First and second index of each pair.
        rng: Source of randomness.
        num_flips: R.
    """
    a_P, b_P = pairs
    differs_KN = is_right_KN[:, is_right_KN.any(axis=0) & ~is_right_KN.all(axis=0)].astype(np.float32)
    sums_K = differs_KN.sum(axis=1)
    size_P = np.sqrt(np.maximum(1.0, np.square(differs_KN[a_P] - differs_KN[b_P]).sum(axis=1)))
    null_RP = []
    for is_flipped_RN in _flips(differs_KN.shape[1], rng, num_flips):
        flipped_RK = sums_K - 2 * (is_flipped_RN @ differs_KN.T)
        null_RP.append(np.abs(flipped_RK[:, a_P] - flipped_RK[:, b_P]) / size_P)
    return step_down(np.abs(sums_K[a_P] - sums_K[b_P]) / size_P, np.concatenate(null_RP))


def by_resamples(values_RP: FloatArray, values_P: FloatArray, n: int) -> FloatArray:
    """Adjusted p-values of differences of any metric from their shared resamples of n units, moved to the null: [P].

    What was observed is brought in to where a t quantile with n - 1 degrees of freedom and the divisor n - 1 would put
    it, as the expanded percentiles of `bootstrap.quantile` move the tails out.
    """
    error_P = values_RP.std(axis=0, ddof=1)
    error_P = np.where(error_P < ROUNDING, np.inf, error_P)
    expected_P = -special.ndtri(special.stdtr(max(1, n - 1), -np.abs(values_P) / error_P * np.sqrt((n - 1) / n)))
    return step_down(np.minimum(expected_P, np.abs(values_P) / error_P), np.abs(values_RP - values_P) / error_P)


def _flips(n: int, rng: Generator, num_flips: int) -> Iterator[CountArray]:
    """Zeros and ones [R, N] by the throw of a coin, in pieces of bounded memory."""
    size = max(1, _CHUNK // max(1, n))
    for start in range(0, num_flips, size):
        shape = min(size, num_flips - start), -(-n // 8)
        bits_RN = np.unpackbits(rng.integers(256, size=shape, dtype=np.uint8), axis=1, count=n)
        yield bits_RN.astype(np.float32)
