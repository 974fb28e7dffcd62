"""The bootstrap against naive loops on the same resamples, and its promises in simulation."""

import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.evaluation import bootstrap
from tunewright.evaluation.metrics import FloatArray, IntArray, Scorer
from tunewright.evaluation.statistics import Difference


def scorer_of(true_N: IntArray, name: str = "accuracy", groups_N: IntArray | None = None) -> Scorer:
    return label_scorer(name, true_N, 3, groups_N)


def three(rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray, IntArray]:
    """True labels and two candidates' answers, all three of them skewed and different."""
    true_N = rng.choice(3, size=n, p=[0.6, 0.3, 0.1])
    a_N = np.where(rng.random(n) < 0.8, true_N, rng.integers(3, size=n))
    b_N = np.where(rng.random(n) < 0.6, true_N, rng.integers(3, size=n))
    return true_N, a_N, b_N


def test_counts_are_draws_with_replacement() -> None:
    counts_RN = bootstrap.resample_counts(30, 4_000, np.random.default_rng(0))
    assert counts_RN.shape == (4_000, 30)
    np.testing.assert_array_equal(counts_RN.sum(axis=1), 30)
    np.testing.assert_allclose(counts_RN.mean(axis=0), 1, atol=0.08)
    observed = np.bincount(counts_RN.astype(int).ravel(), minlength=4)[:4] / counts_RN.size
    np.testing.assert_allclose(observed, stats.binom.pmf(range(4), 30, 1 / 30), atol=0.005)


def test_groups_are_drawn_whole() -> None:
    groups_N = np.array([4, 2, 4, 9, 2, 4])
    counts_RN = bootstrap.resample_counts(6, 500, np.random.default_rng(0), groups_N)
    for group in (2, 4, 9):
        rows_RG = counts_RN[:, groups_N == group]
        np.testing.assert_array_equal(rows_RG, np.repeat(rows_RG[:, :1], rows_RG.shape[1], axis=1))
    np.testing.assert_array_equal(counts_RN[:, [0, 1, 3]].sum(axis=1), 3)


def paired(
    scorer: Scorer, a_N: IntArray, b_N: IntArray, rng: np.random.Generator, *, num_resamples: int = 10_000
) -> Difference:
    """Metric of `a` minus metric of `b`, both on the same resamples of the rows."""
    a_NM, b_NM = of(scorer, a_N), of(scorer, b_N)
    values_RK = bootstrap.resampled_values(scorer, [a_NM, b_NM], rng, num_resamples=num_resamples)
    value = scorer.value(a_NM) - scorer.value(b_NM)
    return bootstrap.difference(values_RK[:, 0] - values_RK[:, 1], value, scorer.num_units)


def naive_differences(name: str, arrays: tuple[IntArray, IntArray, IntArray], counts_RN: FloatArray) -> list[float]:
    true_N, a_N, b_N = arrays
    differences = []
    for counts_N in counts_RN.astype(int):
        rows = np.repeat(np.arange(true_N.size), counts_N)
        truth, a, b = true_N[rows], a_N[rows], b_N[rows]
        if name == "accuracy":
            differences.append(float(accuracy_score(truth, a) - accuracy_score(truth, b)))
        else:
            scores = [f1_score(truth, x, average="macro", zero_division=0) for x in (a, b)]
            differences.append(float(scores[0] - scores[1]))
    return differences


@pytest.mark.parametrize("name", ["accuracy", "macro-f1"])
def test_paired_bootstrap_is_the_naive_loop(name: str) -> None:
    arrays = three(np.random.default_rng(0), 60)
    got = paired(scorer_of(arrays[0], name), *arrays[1:], np.random.default_rng(1), num_resamples=150)
    counts_RN = bootstrap.resample_counts(60, 150, np.random.default_rng(1)).astype(np.float64)
    drawn = np.array(naive_differences(name, arrays, counts_RN))
    (value,) = naive_differences(name, arrays, np.ones((1, 60)))
    tails = stats.norm.cdf(np.sqrt(60 / 59) * stats.t.ppf([0.025, 0.975], 59))
    assert got.value == pytest.approx(value, abs=1e-12)
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(drawn, tails)), abs=1e-9)
    assert got.standard_error == pytest.approx(drawn.std(ddof=1), abs=1e-9)
    as_far = sum(abs(other - value) >= abs(value) - 1e-12 for other in drawn)
    assert got.p_value == pytest.approx((1 + as_far) / 151, abs=1e-12)


def test_swapping_the_two_mirrors_the_difference() -> None:
    true_N, a_N, b_N = three(np.random.default_rng(2), 80)
    there = paired(scorer_of(true_N), a_N, b_N, np.random.default_rng(3), num_resamples=500)
    back = paired(scorer_of(true_N), b_N, a_N, np.random.default_rng(3), num_resamples=500)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-9)
    assert there.p_value == back.p_value


def test_the_same_answers_do_not_differ() -> None:
    true_N, a_N, _ = three(np.random.default_rng(2), 80)
    same = paired(scorer_of(true_N), a_N, a_N, np.random.default_rng(3), num_resamples=500)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_eight_to_none_is_not_overstated() -> None:
    true_N = np.zeros(100, dtype=np.int64)
    b_N = np.where(np.arange(100) < 8, 1, 0)
    got = paired(scorer_of(true_N), true_N, b_N, np.random.default_rng(0))
    assert 0.003 < got.p_value < 0.008


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_units_show_no_more_than_flipping_their_signs_could(n: int) -> None:
    """All rows say the same, by different amounts; the oracle is scipy's exact sign-flip test."""
    gains_N = 1 + np.arange(n) / 10
    values_R = np.random.default_rng(0).choice(gains_N, (10_000, n)).mean(1)
    exact = 1.0
    if n > 1:
        flips = stats.permutation_test((gains_N,), np.mean, permutation_type="samples", n_resamples=2**n + 1)
        exact = float(flips.pvalue)
    assert bootstrap.difference(values_R, float(gains_N.mean()), n).p_value == pytest.approx(exact)


def test_difference_interval_covers() -> None:
    """Two correlated candidates, 15% of 100 rows in disagreement, a true difference of 5 points."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(600):
        kind_N = rng.choice(3, size=100, p=[0.1, 0.05, 0.85])
        true_N = np.zeros(100, dtype=np.int64)
        a_N, b_N = (kind_N == 1).astype(np.int64), (kind_N == 0).astype(np.int64)
        got = paired(scorer_of(true_N), a_N, b_N, rng, num_resamples=400)
        covered += got.low <= 0.05 <= got.high
    assert 0.925 <= covered / 600 <= 0.985


def test_interval_is_wilsons_for_a_proportion_and_widens_with_groups() -> None:
    true_N, a_N, _ = three(np.random.default_rng(5), 120)
    rows = bootstrap.interval(scorer_of(true_N), of(scorer_of(true_N), a_N), np.random.default_rng(0))
    expected = stats.binomtest(int((true_N == a_N).sum()), 120).proportion_ci(0.95, method="wilson")
    assert (rows.low, rows.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    fourfold_N, groups_N = np.repeat(true_N, 4), np.repeat(np.arange(120), 4)
    grouped_scorer = scorer_of(fourfold_N, groups_N=groups_N)
    grouped = bootstrap.interval(grouped_scorer, of(grouped_scorer, np.repeat(a_N, 4)), np.random.default_rng(0))
    assert grouped.n == 480
    assert grouped.high - grouped.low == pytest.approx(rows.high - rows.low, rel=0.1)


def test_macro_f1_interval_is_the_quantiles_of_its_resamples() -> None:
    true_N, a_N, _ = three(np.random.default_rng(6), 50)
    scorer = scorer_of(true_N, "macro-f1")
    got = bootstrap.interval(scorer, of(scorer, a_N), np.random.default_rng(7), num_resamples=300)
    counts_RN = bootstrap.resample_counts(50, 300, np.random.default_rng(7)).astype(int)
    drawn = []
    for counts_N in counts_RN:
        truth, answers = np.repeat(true_N, counts_N), np.repeat(a_N, counts_N)
        drawn.append(f1_score(truth, answers, average="macro", zero_division=0))
    tails = stats.norm.cdf(np.sqrt(50 / 49) * stats.t.ppf([0.025, 0.975], 49))
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(drawn, tails)), abs=1e-9)


def test_lower_bound_does_not_promise_more_than_the_rows_can_show() -> None:
    z = stats.norm.ppf(0.95)
    bound = bootstrap.lower_bound(np.zeros(100), 0.0, 50)
    assert bound == pytest.approx(-(z**2) / (50 + z**2), abs=1e-12)


def test_bounds_of_macro_f1_are_the_quantiles_of_its_resamples_in_both_directions() -> None:
    true_N, a_N, b_N = three(np.random.default_rng(12), 60)
    scorer = scorer_of(true_N, "macro-f1")
    a_NM, b_NM = of(scorer, a_N), of(scorer, b_N)
    values_RK = bootstrap.resampled_values(scorer, [a_NM, b_NM], np.random.default_rng(13), num_resamples=300)
    counts_RN = bootstrap.resample_counts(60, 300, np.random.default_rng(13)).astype(np.float64)
    drawn = naive_differences("macro-f1", (true_N, a_N, b_N), counts_RN)
    tail = stats.norm.cdf(np.sqrt(60 / 59) * stats.t.ppf(0.05, 59))
    difference = scorer.value(a_NM) - scorer.value(b_NM)
    found = bootstrap.resampled_bounds(values_RK[:, 0] - values_RK[:, 1], difference, 60)
    assert found == pytest.approx((np.quantile(drawn, tail), np.quantile(drawn, 1 - tail)), abs=1e-9)


def test_wins_and_losses_are_counted_one_by_one() -> None:
    true_N, a_N, b_N = three(np.random.default_rng(14), 50)
    rows = list(zip(true_N, a_N, b_N, strict=True))
    wins, losses = sum(a == t != b for t, a, b in rows), sum(b == t != a for t, a, b in rows)
    scorer = scorer_of(true_N)
    assert bootstrap.wins_losses(of(scorer, a_N), of(scorer, b_N)) == (wins, losses)
    assert wins != losses


def take_highest(values_RK: FloatArray) -> IntArray:
    choice_R: IntArray = values_RK.argmax(axis=1)
    return choice_R


def test_winner_corrected_is_the_naive_loop() -> None:
    true_N, a_N, b_N = three(np.random.default_rng(8), 40)
    scorer = scorer_of(true_N)
    got = bootstrap.winner_corrected(
        scorer, [[of(scorer, a_N), of(scorer, b_N)]], take_highest, np.random.default_rng(9), num_replicates=200
    )
    counts_RN = bootstrap.resample_counts(40, 200, np.random.default_rng(9)).astype(int)
    picks, worths = [], []
    for counts_N in counts_RN:
        inside = [np.average(true_N == x_N, weights=counts_N) for x_N in (a_N, b_N)]
        pick = 0 if inside[0] >= inside[1] - 1e-12 else 1
        out = counts_N == 0
        picks.append(pick)
        worths.append(np.mean((a_N, b_N)[pick][out] == true_N[out]))
    assert got.value == pytest.approx(np.mean(worths), abs=1e-9)
    assert got.shares == pytest.approx((picks.count(0) / 200, picks.count(1) / 200), abs=1e-12)


def test_of_several_repeats_the_mean_is_chosen_by() -> None:
    """Two repeats of two candidates, each far better in one of them: the mean decides, in and out of the resample."""
    true_N = np.zeros(60, dtype=np.int64)
    right_N, wrong_N, half_N = true_N, true_N + 1, (np.arange(60) < 20).astype(np.int64)
    scorer = scorer_of(true_N)
    right_NM, wrong_NM, half_NM = (of(scorer, x_N) for x_N in (right_N, wrong_N, half_N))
    answers = [[right_NM, wrong_NM], [wrong_NM, half_NM]]
    got = bootstrap.winner_corrected(scorer, answers, take_highest, np.random.default_rng(15), num_replicates=50)
    assert got.value == pytest.approx(0.5, abs=1e-12)
    assert got.shares == (1.0, 0.0)


@pytest.mark.parametrize("num_candidates", [2, 10])
@pytest.mark.parametrize("lower", [0.0, 0.03])
def test_winner_corrected_takes_the_luck_out(num_candidates: int, lower: float) -> None:
    """The winner looks better than it is; its corrected value does not, to within the error of the simulation.

    Where half of the candidates are worse, replicates choose one of those more often than all rows do: the corrected
    value may then be too low, by less than half a point, never too high.
    """
    rng = np.random.default_rng(10)
    accuracies = np.where(np.arange(num_candidates) < num_candidates // 2, 0.8 - lower, 0.8)
    apparent, corrected = [], []
    for _ in range(150):
        answers_KN = (rng.random((num_candidates, 200)) > accuracies[:, None]).astype(np.int64)
        scorer = scorer_of(np.zeros(200, dtype=np.int64))
        stats_KNM = [of(scorer, x_N) for x_N in answers_KN]
        values = [scorer.value(x_NM) for x_NM in stats_KNM]
        truth = accuracies[int(np.argmax(values))]
        found = bootstrap.winner_corrected(scorer, [stats_KNM], take_highest, rng, num_replicates=100)
        apparent.append(max(values) - truth)
        corrected.append(found.value - truth)
    error = float(np.std(corrected)) / np.sqrt(150)
    assert np.mean(apparent) > 3 * error
    assert -2.5 * error - (0.005 if lower else 0) <= np.mean(corrected) <= 2.5 * error


def test_ten_candidates_take_seconds() -> None:
    rng = np.random.default_rng(11)
    true_N = rng.integers(3, size=2_000)
    predicted_KN = [np.where(rng.random(2_000) < 0.8, true_N, 0) for _ in range(10)]
    scorer = scorer_of(true_N, "macro-f1")
    start = time.perf_counter()
    stats_KNM = [of(scorer, x_N) for x_N in predicted_KN]
    values_RK = bootstrap.resampled_values(scorer, stats_KNM, rng, num_resamples=2_000)
    assert values_RK.shape == (2_000, 10)
    assert time.perf_counter() - start < 3
