"""Metrics against scikit-learn, resample by resample."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.evaluation.metrics import METRICS, UNKNOWN_LABEL, CountArray, FloatArray, IntArray

NAMES = ("accuracy", "macro-f1", "mcc")
NUM_LABELS = 5


def oracle(name: str, true_N: IntArray, predicted_N: IntArray) -> float:
    if name == "accuracy":
        return float(accuracy_score(true_N, predicted_N))
    if name == "mcc":
        if not true_N.size:
            return math.nan
        # scikit-learn warns where a single label is left; its value there is 0.
        return 0.0 if len({*true_N.tolist(), *predicted_N.tolist()}) < 2 else matthews_corrcoef(true_N, predicted_N)
    labels = sorted((set(true_N.tolist()) | set(predicted_N.tolist())) - {UNKNOWN_LABEL})
    return float(f1_score(true_N, predicted_N, labels=labels, average="macro", zero_division=0))


def value(metric: str, true_N: IntArray, predicted_N: IntArray, num_labels: int = NUM_LABELS) -> float:
    scorer = label_scorer(metric, true_N, num_labels)
    return scorer.value(of(scorer, predicted_N))


def values(metric: str, true_N: IntArray, predicted_N: IntArray, weights_RN: CountArray) -> FloatArray:
    scorer = label_scorer(metric, true_N, NUM_LABELS)
    return scorer.metric.values(of(scorer, predicted_N), weights_RN)


def chance(metric: str, counts: list[int], num_rows: int) -> float:
    found = METRICS[metric].chance
    assert found is not None
    return found(counts, num_rows)


def draw(rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
    """Skewed labels, one of them absent from the truth, some rows unknown, answers right more often than not."""
    true_N = rng.choice([UNKNOWN_LABEL, 0, 1, 2, 3], size=n, p=[0.1, 0.5, 0.25, 0.1, 0.05])
    guess_N = rng.integers(NUM_LABELS, size=n)
    is_copied_N = (rng.random(n) < 0.6) & (true_N >= 0)
    return true_N, np.where(is_copied_N, true_N, guess_N)


@pytest.mark.parametrize("metric", NAMES)
@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_value_is_scikit_learns(metric: str, n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        true_N, predicted_N = draw(rng, n)
        assert value(metric, true_N, predicted_N) == pytest.approx(oracle(metric, true_N, predicted_N), abs=1e-12)


@pytest.mark.parametrize("metric", NAMES)
def test_each_resample_is_scikit_learns_on_its_rows(metric: str) -> None:
    rng = np.random.default_rng(1)
    true_N, predicted_N = draw(rng, 40)
    weights_RN = rng.integers(0, 4, size=(50, 40)) * rng.integers(0, 2, size=(50, 40))
    expected = [
        oracle(metric, np.repeat(true_N, weights_N), np.repeat(predicted_N, weights_N)) for weights_N in weights_RN
    ]
    got_R = values(metric, true_N, predicted_N, weights_RN.astype(np.float32))
    np.testing.assert_allclose(got_R, expected, rtol=0, atol=1e-12)
    assert len(set(expected)) > 10


def test_unknown_true_label_is_wrong_and_a_false_positive() -> None:
    true_N, predicted_N = np.array([0, 1, UNKNOWN_LABEL]), np.array([0, 1, 1])
    assert value("accuracy", true_N, predicted_N, 2) == pytest.approx(2 / 3, abs=1e-12)
    assert value("macro-f1", true_N, predicted_N, 2) == pytest.approx((1 + 2 / 3) / 2, abs=1e-12)


def test_a_resample_without_rows_has_no_value() -> None:
    true_N = np.array([0, 1])
    for metric in NAMES:
        values_R = values(metric, true_N, true_N, np.array([[0, 0], [1, 0]], dtype=np.float32))
        assert np.isnan(values_R[0])
        assert values_R[1] == (0 if metric == "mcc" else 1)  # of a single class


def test_row_order_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    true_N, predicted_N = draw(rng, 300)
    order = rng.permutation(300)
    for metric in NAMES:
        assert value(metric, true_N[order], predicted_N[order]) == value(metric, true_N, predicted_N)


def test_accuracy_chance_is_the_best_constant_answer() -> None:
    true_N = np.repeat([0, 1, 2], [5, 9, 6])
    best = max(accuracy_score(true_N, np.full(20, label)) for label in range(3))
    assert chance("accuracy", [5, 9, 6], 20) == pytest.approx(best, abs=1e-12)
    assert chance("accuracy", [5, 9, 6], 40) == pytest.approx(9 / 40), "half of the rows have unknown labels"


def test_macro_f1_chance_is_what_a_guess_in_proportion_gets() -> None:
    rng = np.random.default_rng(3)
    true_N = rng.permutation(np.repeat([0, 1, 3], [50_000, 30_000, 20_000]))
    guessed = f1_score(true_N, rng.permutation(true_N), average="macro")
    uniform = f1_score(true_N, rng.choice([0, 1, 3], size=true_N.size), average="macro")
    assert chance("macro-f1", [50_000, 30_000, 0, 20_000], 100_000) == pytest.approx(guessed, abs=0.01)
    assert uniform < chance("macro-f1", [50_000, 30_000, 0, 20_000], 100_000)


def test_scorer_gives_each_candidate_its_own_column() -> None:
    rng = np.random.default_rng(4)
    true_N, a_N = draw(rng, 30)
    b_N = np.roll(a_N, 1)
    weights_RN = rng.integers(0, 3, size=(6, 30)).astype(np.float32)
    scorer = label_scorer("macro-f1", true_N, NUM_LABELS)
    values_RK = scorer.values([of(scorer, a_N), of(scorer, b_N)], weights_RN)
    for column, predicted_N in enumerate((a_N, b_N)):
        np.testing.assert_array_equal(values_RK[:, column], values("macro-f1", true_N, predicted_N, weights_RN))
    assert scorer.value(of(scorer, a_N)) == value("macro-f1", true_N, a_N)


def test_scorer_counts_groups_as_units() -> None:
    true_N = np.array([0, 1, 0, 1])
    rows = label_scorer("accuracy", true_N, 2)
    grouped = label_scorer("accuracy", true_N, 2, np.array([7, 7, 3, 9]))
    assert (rows.num_units, rows.is_binomial) == (4, True)
    assert (grouped.num_units, grouped.is_binomial) == (3, False)
