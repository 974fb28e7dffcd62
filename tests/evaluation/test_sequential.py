"""The confidence sequence: against a slow copy of the paper, and by its coverage under constant peeking."""

import itertools
import math

import numpy as np
import pytest
from numpy.random import default_rng

from tunewright.evaluation.sequential import always_valid
from tunewright.evaluation.statistics import wilson

ALPHA = 0.05


def by_the_paper(values: list[float], grid: int = 4000) -> tuple[float, float]:
    """Waudby-Smith and Ramdas (2023): every mean on a grid kept while max(K+, K-) / 2 has stayed below 1/alpha."""
    kept = []
    for m in [(k + 0.5) / grid for k in range(grid)]:
        total, squares, variance, up, down, out = 0.0, 0.0, 0.25, 1.0, 1.0, False
        for t, x in enumerate(values, 1):
            bet = math.sqrt(2 * math.log(2 / ALPHA) / (variance * t * math.log(t + 1)))
            up *= 1 + min(bet, 0.5 / m) * (x - m)
            down *= 1 - min(bet, 0.5 / (1 - m)) * (x - m)
            out = out or max(up / 2, down / 2) >= 1 / ALPHA
            total += x
            squares += (x - (0.5 + total) / (t + 1)) ** 2
            variance = (0.25 + squares) / (t + 1)
        if not out:
            kept.append(m)
    return min(kept), max(kept)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_as_in_the_paper(share: float) -> None:
    values = (default_rng(3).random(60) < share).astype(float)
    found = always_valid(values, 0, 1)
    low, high = by_the_paper(values.tolist())
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=1 / 4000)


def test_differences_are_the_same_on_another_scale() -> None:
    values = default_rng(4).choice([-1.0, 0.0, 1.0], size=300, p=[0.05, 0.8, 0.15])
    found, scaled = always_valid(values, -1, 1), always_valid((values + 1) / 2, 0, 1)
    assert (found.value, found.low, found.high) == pytest.approx(
        (2 * scaled.value - 1, 2 * scaled.low - 1, 2 * scaled.high - 1)
    )
    mirrored = always_valid(-values, -1, 1)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("chances", [(0.05, 0.9, 0.05), (0.02, 0.9, 0.08), (0.3, 0.3, 0.4)])
def test_coverage_under_continuous_peeking(chances: tuple[float, float, float]) -> None:
    """Looked at after every row of 400: the truth is missed at any time in at most 5% of 300 streams.

    An interval for a fixed number of rows, looked at in the same way, misses it far more often.
    """
    rng, truth, missed = default_rng(5), chances[2] - chances[0], 0
    for _ in range(300):
        values = rng.choice([-1.0, 0.0, 1.0], size=400, p=chances)
        final = always_valid(values, -1, 1)  # holds the intersection of all earlier ones
        missed += not final.low <= truth <= final.high
    assert missed / 300 <= ALPHA


def test_peeking_at_an_ordinary_interval_misleads() -> None:
    """The oracle of the above: the same simulation finds the fault where there is one."""
    rng, missed = default_rng(6), 0
    for _ in range(200):
        hits = np.cumsum(rng.random(400) < 0.5)
        intervals = [wilson(int(hits[t - 1]), t) for t in range(20, 401, 10)]
        missed += any(not each.low <= 0.5 <= each.high for each in intervals)
    assert missed / 200 > 2 * ALPHA


def test_earlier_intervals_are_never_left() -> None:
    values = default_rng(7).choice([-1.0, 0.0, 1.0], size=200, p=[0.1, 0.6, 0.3])
    found = [always_valid(values[:t], -1, 1) for t in range(1, 201)]
    assert all(b.low >= a.low - 1e-9 and b.high <= a.high + 1e-9 for a, b in itertools.pairwise(found))


def test_it_narrows_to_the_truth() -> None:
    values = default_rng(8).choice([-1.0, 0.0, 1.0], size=20_000, p=[0.02, 0.9, 0.08])
    found = always_valid(values, -1, 1)
    assert found.low > 0.04
    assert found.high < 0.08
    assert found.high - found.low < 0.03


@pytest.mark.parametrize("values", [[], [1.0], [-1.0], [0.0] * 5])
def test_few_rows_say_little(values: list[float]) -> None:
    found = always_valid(values, -1, 1)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.n == len(values)
    assert found.high - found.low > 1


def test_a_mean_that_changes_is_shown_as_no_interval_turned_round() -> None:
    """All wins, then all losses: against the assumption; bounds stay in order."""
    found = always_valid([1.0] * 500 + [-1.0] * 5000, -1, 1)
    assert found.low <= found.high
