"""Probabilities against statsmodels, scipy, plain loops and simulation."""

import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, special, stats

from tests.scoring import label_scorer
from tunewright.evaluation.answers import Answers
from tunewright.evaluation.calibration import (
    COOLEST,
    HOTTEST,
    Judged,
    abstention_threshold,
    assess,
    calibration_error,
    coverage_curve,
    fit_temperature,
    judged,
    least_cost,
    mean_cost,
    reliability,
    tempered,
)
from tunewright.evaluation.metrics import FloatArray, IntArray


def drawn(n: int, num_labels: int, temperature: float, seed: int) -> tuple[FloatArray, IntArray]:
    """Logits, and labels drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(0, 2.5, (n, num_labels))
    return logits_NC, labels_from(special.softmax(logits_NC / temperature, axis=1), rng)


def labels_from(probabilities_NC: FloatArray, rng: np.random.Generator) -> IntArray:
    true_N: IntArray = (probabilities_NC.cumsum(1) > rng.random((len(probabilities_NC), 1))).argmax(1).astype(np.int64)
    return true_N


# --- the temperature --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.4, 2.0, 3.5])
def test_two_labels_are_a_logistic_regression(temperature: float) -> None:
    """On the difference of the logits, without intercept: its slope is one over the temperature."""
    logits_NC, true_N = drawn(800, 2, temperature, seed=1)
    fitted = sm.Logit(true_N, logits_NC[:, 1] - logits_NC[:, 0]).fit(disp=0, tol=1e-12)
    assert fit_temperature(logits_NC, true_N) == pytest.approx(1 / fitted.params[0], rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.7, 5.0])
def test_many_labels_against_a_grid(temperature: float) -> None:
    logits_NC, true_N = drawn(500, 6, temperature, seed=2)
    grid = np.geomspace(COOLEST, HOTTEST, 20_001)
    rows = np.arange(500)
    losses = [-special.log_softmax(logits_NC / t, axis=1)[rows, true_N].sum() for t in grid]
    found = fit_temperature(logits_NC, true_N)
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=1e-3)
    assert found == pytest.approx(temperature, rel=0.25)
    assert fit_temperature(logits_NC + rows[:, None], true_N) == pytest.approx(found, rel=1e-5)  # a constant a row


def test_logarithms_of_probabilities_serve_as_logits() -> None:
    logits_NC, true_N = drawn(300, 4, 2.0, seed=3)
    logs_NC = np.log(special.softmax(logits_NC, axis=1))
    assert fit_temperature(logs_NC, true_N) == pytest.approx(fit_temperature(logits_NC, true_N), rel=1e-5)


def test_rows_of_unknown_labels_say_nothing() -> None:
    logits_NC, true_N = drawn(300, 4, 2.0, seed=4)
    more_NC, more_N = np.vstack([logits_NC, 50 * np.eye(4)]), np.append(true_N, [-1] * 4)
    assert fit_temperature(more_NC, more_N) == fit_temperature(logits_NC, true_N)
    assert fit_temperature(logits_NC, np.full(300, -1)) == 1.0


def test_few_rows_leave_it_at_one() -> None:
    """Where the truth is 1 it is moved in some 5% of the draws; where it is not, by enough rows it always is."""
    moved = [fit_temperature(*drawn(40, 3, 1.0, seed)) != 1 for seed in range(200)]
    assert 0 < np.mean(moved) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean([fit_temperature(*drawn(12, 3, 2.0, seed)) == 1 for seed in range(50)]) > 0.5
    assert all(fit_temperature(*drawn(400, 3, 2.0, seed)) > 1.4 for seed in range(20))
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == 1.0


@pytest.mark.parametrize("margin", [0.5, 4.0, 60.0])
@pytest.mark.parametrize("n", [2, 30, 1000])
def test_perfect_answers_do_not_make_it_certain(margin: float, n: int) -> None:
    """Of n rows without an error the confidence is at most that of n + 2 rows with one; by Platt's targets, exactly."""
    true_N = np.arange(n) % 3
    logits_NC = margin * np.eye(3)[true_N]
    found = fit_temperature(logits_NC, true_N)
    assert COOLEST <= found <= HOTTEST
    if found != 1:
        confidence = float(special.softmax(logits_NC / found, axis=1).max(axis=1)[0])
        wanted = special.softmax([margin / HOTTEST, 0, 0])[0]
        assert confidence == pytest.approx(max((n + 1) / (n + 2), wanted), abs=1e-4)
    else:
        assert n == 2 or abs(1 / (1 + 2 * math.exp(-margin)) - 1) < 4 / n


@pytest.mark.parametrize("answer", [0, 1])
def test_dev_rows_of_one_class(answer: int) -> None:
    logits_NC = np.random.default_rng(0).normal(0, 0.3, (200, 2)) + 5 * np.eye(2)[answer]
    found = fit_temperature(logits_NC, np.zeros(200, dtype=np.int64))
    assert (COOLEST <= found < 1.0 or found == 1.0) if answer == 0 else found == pytest.approx(HOTTEST, rel=1e-3)


def test_likelihood_that_would_put_every_answer_in_doubt_is_not_followed() -> None:
    """Votes of neighbours: four in five are right at .8; the others have the truth at next to nothing."""
    rng = np.random.default_rng(6)
    true_N = rng.integers(0, 5, 300)
    given_N = np.where(np.arange(300) % 5 == 0, (true_N + 1) % 5, true_N)
    probabilities_NC = 0.8 * np.eye(5)[given_N] + 0.2 * np.eye(5)[(given_N + 1) % 5] + 1e-7
    logits_NC = np.log(probabilities_NC)
    right_N = logits_NC.argmax(1) == true_N

    def loss(t: float) -> float:
        return -float(special.log_softmax(logits_NC / t, axis=1)[np.arange(300), true_N].sum())

    best = optimize.minimize_scalar(loss, bounds=(COOLEST, HOTTEST), method="bounded").x
    assert best > 2  # what the likelihood alone asks for
    assert calibration_error(probabilities_NC.max(1), right_N) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(tempered(probabilities_NC, best).max(1), right_N) > 0.1
    assert fit_temperature(logits_NC, true_N) == 1.0


def test_tempered() -> None:
    logits_NC, _ = drawn(50, 4, 1.0, seed=7)
    probabilities_NC = special.softmax(logits_NC, axis=1)
    np.testing.assert_allclose(tempered(probabilities_NC, 2.5), special.softmax(logits_NC / 2.5, axis=1), atol=1e-12)
    np.testing.assert_allclose(tempered(tempered(probabilities_NC, 2.5), 0.4), probabilities_NC, atol=1e-12)
    np.testing.assert_array_equal(tempered(np.array([[1.0, 0.0]]), 3.0), [[1.0, 0.0]])


# --- the error --------------------------------------------------------------------------------------------------------


def error_by_loops(confidence: list[float], right: list[bool]) -> float:
    """The same rule row by row: bins of equal mass, one more as long as their accuracies rise; ties together."""
    n, found = len(confidence), math.nan
    for num_bins in range(1, 101):
        bins: dict[int, list[int]] = {}
        for k in range(n):
            below, equal = sum(c < confidence[k] for c in confidence), confidence.count(confidence[k])
            middle = below + equal / 2  # rows up to the middle of its ties
            bins.setdefault(int(middle / n * num_bins), []).append(k)
        accuracies = [sum(right[k] for k in bins[b]) / len(bins[b]) for b in sorted(bins)]
        if accuracies != sorted(accuracies):
            break
        found = sum(abs(sum(right[k] - confidence[k] for k in rows)) for rows in bins.values()) / n
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("digits", [1, 2, 9])
def test_error_against_loops(digits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence_N = np.round(rng.uniform(0.2, 1.0, 60), digits)
    right_N = rng.random(60) < confidence_N ** (1 + seed / 3)
    order = rng.permutation(60)
    expected = error_by_loops(confidence_N.tolist(), right_N.tolist())
    assert calibration_error(confidence_N, right_N) == pytest.approx(expected, abs=1e-12)
    assert calibration_error(confidence_N[order], right_N[order]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("digits", [1, 9])
def test_bins_are_those_of_the_error(digits: int) -> None:
    """Each row is in one of them, by its confidence; their accuracies rise; their distances are the error."""
    rng = np.random.default_rng(3)
    confidence_N = np.round(rng.uniform(0.2, 1.0, 400), digits)
    right_N = rng.random(400) < confidence_N**2
    bins = reliability(confidence_N, right_N)
    assert len(bins) > 2
    sizes = [each.accuracy.n for each in bins]
    order = np.argsort(confidence_N, kind="stable")
    parts = np.split(order, np.cumsum(sizes)[:-1])
    assert sum(sizes) == 400
    assert all(confidence_N[a].max() < confidence_N[b].min() for a, b in itertools.pairwise(parts))
    for each, rows in zip(bins, parts, strict=True):
        assert each.confidence == pytest.approx(confidence_N[rows].mean(), abs=1e-12)
        interval = stats.binomtest(int(right_N[rows].sum()), rows.size).proportion_ci(method="wilson")
        assert (each.accuracy.low, each.accuracy.high) == pytest.approx((interval.low, interval.high))
    values = [each.accuracy.value for each in bins]
    assert values == sorted(values)
    error = sum(each.accuracy.n * abs(each.confidence - each.accuracy.value) for each in bins) / 400
    assert calibration_error(confidence_N, right_N) == pytest.approx(error, abs=1e-12)


def test_error_of_one_confidence() -> None:
    """Rows that are all as sure cannot be told apart: the error is the distance of the means."""
    right_N = np.arange(40) % 4 == 0
    assert calibration_error(np.full(40, 0.7), right_N) == pytest.approx(0.45, abs=1e-12)
    assert calibration_error(np.ones(30), np.ones(30, dtype=bool)) == 0.0


def test_less_of_the_noise_is_taken_for_an_error_than_with_fifteen_bins() -> None:
    """Of probabilities that are right, on 300 rows; the truth is nought."""
    rng = np.random.default_rng(3)
    found, fixed = [], []
    for _ in range(200):
        confidence_N = np.sort(rng.uniform(0.5, 1.0, 300))
        right_N = rng.random(300) < confidence_N
        parts = zip(np.split(confidence_N, 15), np.split(right_N, 15), strict=True)
        fixed.append(np.mean([abs(c.mean() - r.mean()) for c, r in parts]))
        found.append(calibration_error(confidence_N, right_N))
    assert np.mean(found) < 0.6 * np.mean(fixed)


def test_a_large_error_is_found() -> None:
    """Confidence c, accuracy c - .2, on many rows."""
    rng = np.random.default_rng(4)
    confidence_N = rng.uniform(0.5, 1.0, 4000)
    right_N = rng.random(4000) < confidence_N - 0.2
    assert calibration_error(confidence_N, right_N) == pytest.approx(0.2, abs=0.025)


# --- abstaining -------------------------------------------------------------------------------------------------------


def test_threshold_by_hand() -> None:
    """200 rows, 40 wrong, all below .8: risk .2, allowed .1; an exact bound below .1 needs 29 rows without an error."""
    confidence_N = np.linspace(0.5, 1.0, 200)
    right_N = ~((confidence_N < 0.8) & (np.arange(200) % 3 == 0))
    num_wrong = int((~right_N).sum())
    allowed = num_wrong / 200 / 2
    found = abstention_threshold(confidence_N, right_N)
    assert found is not None
    given_N = confidence_N >= found
    bound = stats.binomtest(int((~right_N[given_N]).sum()), int(given_N.sum()), alternative="less").proportion_ci(0.95)
    assert bound.high <= allowed
    step = 200 // 20
    lower = confidence_N >= np.sort(confidence_N)[::-1][int(given_N.sum()) + step - 1]
    after = stats.binomtest(int((~right_N[lower]).sum()), int(lower.sum()), alternative="less").proportion_ci(0.95)
    assert after.high > allowed  # one step further it is not shown any more


def test_no_threshold_where_nothing_can_be_shown() -> None:
    confidence_N = np.linspace(0.5, 1.0, 200)
    assert abstention_threshold(confidence_N, np.ones(200, dtype=bool)) is None
    assert abstention_threshold(confidence_N[:20], np.arange(20) > 2) is None  # 20 rows show no risk of .075
    assert abstention_threshold(np.full(200, 0.7), np.arange(200) % 5 > 0) is None  # all are as sure
    assert abstention_threshold(confidence_N, np.arange(200) % 5 > 0) is None  # being sure says nothing
    assert abstention_threshold(confidence_N, np.zeros(200, dtype=bool)) is None


def test_the_promise_is_kept() -> None:
    """A threshold whose true risk is above the one allowed comes out of at most 5% of the draws."""
    rng = np.random.default_rng(9)
    broken = 0
    for _ in range(1500):
        confidence_N = rng.uniform(0, 1, 300)
        right_N = rng.random(300) >= np.where(confidence_N > 0.5, 0.102, 0.298)
        found = abstention_threshold(confidence_N, right_N)
        if found is not None:
            above = min(1.0, 0.5 / (1 - found))  # share of what is answered that has the lower risk
            broken += 0.102 * above + 0.298 * (1 - above) > float((~right_N).mean()) / 2
    assert 10 < broken <= 1500 * (0.05 + 2 * math.sqrt(0.05 * 0.95 / 1500))


def test_curve_against_loops() -> None:
    rng = np.random.default_rng(5)
    confidence_N = np.round(rng.uniform(0.3, 1.0, 130), 2)
    right_N = rng.random(130) < confidence_N
    curve = coverage_curve(confidence_N, right_N, threshold=0.777)
    assert [point.threshold for point in curve] == sorted({point.threshold for point in curve})
    assert curve[0].coverage == 1.0
    assert 0.777 in {point.threshold for point in curve}
    assert len(curve) > 15
    for point in curve:
        given = [k for k in range(130) if confidence_N[k] >= point.threshold]
        assert point.coverage == pytest.approx(len(given) / 130, abs=1e-12)
        assert point.risk == pytest.approx(sum(not right_N[k] for k in given) / len(given), abs=1e-12)
    assert all(point.threshold != 2.0 for point in coverage_curve(confidence_N, right_N, threshold=2.0))


# --- costs ------------------------------------------------------------------------------------------------------------


def test_least_cost_by_hand() -> None:
    """Missing b costs ten: it is answered from a probability of one in eleven on."""
    costs_CC = np.array([[0.0, 1.0], [10.0, 0.0]])
    probabilities_NC = np.array([[0.95, 0.05], [0.92, 0.08], [0.90, 0.10], [0.2, 0.8]])
    assert least_cost(probabilities_NC, costs_CC).tolist() == [0, 0, 1, 1]
    answer_N, true_N = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, -1])
    assert mean_cost(answer_N, true_N, costs_CC) == pytest.approx((0 + 1 + 10 + 0 + 1) / 5)


def test_least_cost_against_enumeration() -> None:
    rng = np.random.default_rng(2)
    probabilities_NC, costs_CC = rng.dirichlet(np.ones(4), 40), rng.uniform(0, 5, (4, 4))
    for row, answer in zip(probabilities_NC, least_cost(probabilities_NC, costs_CC), strict=True):
        expected = [sum(row[t] * costs_CC[t, a] for t in range(4)) for a in range(4)]
        assert answer == expected.index(min(expected))


def test_assess_puts_each_part_on_its_rows() -> None:
    """Probabilities are given calibrated; the error before is that of what they were."""
    logits_NC, true_N = drawn(800, 3, 2.0, seed=8)
    costs_CC = np.array([[0, 1, 4], [1, 0, 1], [1, 1, 0]], dtype=np.float64)

    def answers(rows: slice) -> Judged:
        given = tuple(str(k) for k in logits_NC[rows].argmax(1))
        found = Answers(given=given, probabilities_NC=special.softmax(logits_NC[rows] / 2.0, axis=1))
        return judged(found, label_scorer("accuracy", true_N[rows], 3))

    dev, test = slice(0, 400), slice(400, 800)
    found = assess(answers(dev), answers(test), 2.0, costs_CC)
    right_N = logits_NC[test].argmax(1) == true_N[test]
    confident_N = special.softmax(logits_NC[test], axis=1).max(1)
    assert found.temperature == 2.0
    assert found.error_before == pytest.approx(calibration_error(confident_N, right_N), abs=1e-9)
    assert found.error == calibration_error(special.softmax(logits_NC[test] / 2, axis=1).max(1), right_N)
    assert found.error < found.error_before
    dev_confidence_N = special.softmax(logits_NC[dev] / 2, axis=1).max(1)
    assert found.threshold == abstention_threshold(dev_confidence_N, logits_NC[dev].argmax(1) == true_N[dev])
    assert found.threshold is not None
    assert found.curve[0].risk == pytest.approx(1 - right_N.mean())
    given_N = least_cost(answers(test).probabilities_NC, costs_CC)
    expected = sum(costs_CC[t, a] for t, a in zip(true_N[test], given_N, strict=True)) / 400
    assert found.mean_error_cost == pytest.approx(expected)
    assert assess(answers(dev), answers(test), 2.0, None).mean_error_cost is None
