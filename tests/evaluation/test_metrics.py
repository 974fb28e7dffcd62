"""Metrics against scikit-learn, resample by resample."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tunewright.evaluation.metrics import METRICS, UNKNOWN_LABEL, IntArray, Metric, Scorer

NUM_LABELS = 5


def oracle(name: str, true_N: IntArray, predicted_N: IntArray) -> float:
    if name == "accuracy":
        return float(accuracy_score(true_N, predicted_N))
    labels = sorted((set(true_N.tolist()) | set(predicted_N.tolist())) - {UNKNOWN_LABEL})
    return float(f1_score(true_N, predicted_N, labels=labels, average="macro", zero_division=0))


def draw(rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
    """Skewed labels, one of them absent from the truth, some rows unknown, answers right more often than not."""
    true_N = rng.choice([UNKNOWN_LABEL, 0, 1, 2, 3], size=n, p=[0.1, 0.5, 0.25, 0.1, 0.05])
    guess_N = rng.integers(NUM_LABELS, size=n)
    is_copied_N = (rng.random(n) < 0.6) & (true_N >= 0)
    return true_N, np.where(is_copied_N, true_N, guess_N)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_value_is_scikit_learns(metric: Metric, n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        true_N, predicted_N = draw(rng, n)
        assert metric.value(true_N, predicted_N, NUM_LABELS) == pytest.approx(
            oracle(metric.name, true_N, predicted_N), abs=1e-12
        )


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_each_resample_is_scikit_learns_on_its_rows(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    true_N, predicted_N = draw(rng, 40)
    weights_RN = rng.integers(0, 4, size=(50, 40)) * rng.integers(0, 2, size=(50, 40))
    expected = [
        oracle(metric.name, np.repeat(true_N, weights_N), np.repeat(predicted_N, weights_N)) for weights_N in weights_RN
    ]
    got_R = metric.value(true_N, predicted_N, NUM_LABELS, weights_RN.astype(np.float32))
    np.testing.assert_allclose(got_R, expected, rtol=0, atol=1e-12)
    assert len(set(expected)) > 10


def test_unknown_true_label_is_wrong_and_a_false_positive() -> None:
    true_N, predicted_N = np.array([0, 1, UNKNOWN_LABEL]), np.array([0, 1, 1])
    assert METRICS["accuracy"].value(true_N, predicted_N, 2) == pytest.approx(2 / 3, abs=1e-12)
    assert METRICS["macro-f1"].value(true_N, predicted_N, 2) == pytest.approx((1 + 2 / 3) / 2, abs=1e-12)


def test_a_resample_without_rows_has_no_value() -> None:
    true_N = np.array([0, 1])
    for metric in METRICS.values():
        values_R = metric.value(true_N, true_N, 2, np.array([[0, 0], [1, 0]], dtype=np.float32))
        assert np.isnan(values_R[0])
        assert values_R[1] == 1


def test_row_order_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    true_N, predicted_N = draw(rng, 300)
    order = rng.permutation(300)
    for metric in METRICS.values():
        shuffled = metric.value(true_N[order], predicted_N[order], NUM_LABELS)
        assert shuffled == metric.value(true_N, predicted_N, NUM_LABELS)


def test_accuracy_chance_is_the_best_constant_answer() -> None:
    true_N = np.repeat([0, 1, 2], [5, 9, 6])
    best = max(accuracy_score(true_N, np.full(20, label)) for label in range(3))
    assert METRICS["accuracy"].chance([5, 9, 6], 20) == pytest.approx(best, abs=1e-12)
    assert METRICS["accuracy"].chance([5, 9, 6], 40) == pytest.approx(9 / 40), "half of the rows have unknown labels"


def test_macro_f1_chance_is_what_a_guess_in_proportion_gets() -> None:
    rng = np.random.default_rng(3)
    true_N = rng.permutation(np.repeat([0, 1, 3], [50_000, 30_000, 20_000]))
    guessed = f1_score(true_N, rng.permutation(true_N), average="macro")
    uniform = f1_score(true_N, rng.choice([0, 1, 3], size=true_N.size), average="macro")
    assert METRICS["macro-f1"].chance([50_000, 30_000, 0, 20_000], 100_000) == pytest.approx(guessed, abs=0.01)
    assert uniform < METRICS["macro-f1"].chance([50_000, 30_000, 0, 20_000], 100_000)


def test_scorer_gives_each_candidate_its_own_column() -> None:
    rng = np.random.default_rng(4)
    true_N, a_N = draw(rng, 30)
    b_N = np.roll(a_N, 1)
    weights_RN = rng.integers(0, 3, size=(6, 30)).astype(np.float32)
    scorer = Scorer(metric=METRICS["macro-f1"], true_N=true_N, num_labels=NUM_LABELS)
    values_RK = scorer.values([a_N, b_N], weights_RN)
    for column, predicted_N in enumerate((a_N, b_N)):
        expected = scorer.metric.value(true_N, predicted_N, NUM_LABELS, weights_RN)
        np.testing.assert_array_equal(values_RK[:, column], expected)
    assert scorer.value(a_N) == scorer.metric.value(true_N, a_N, NUM_LABELS)


def test_scorer_counts_groups_as_units() -> None:
    true_N = np.array([0, 1, 0, 1])
    rows = Scorer(metric=METRICS["accuracy"], true_N=true_N, num_labels=2)
    grouped = Scorer(metric=METRICS["accuracy"], true_N=true_N, num_labels=2, groups_N=np.array([7, 7, 3, 9]))
    assert (rows.num_units, rows.is_binomial) == (4, True)
    assert (grouped.num_units, grouped.is_binomial) == (3, False)
