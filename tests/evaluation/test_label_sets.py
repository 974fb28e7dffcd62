"""Sets of labels: F1 against scikit-learn, resample by resample, and thresholds against every one that could be."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tunewright.evaluation.label_sets import members, thresholds
from tunewright.evaluation.metrics import METRICS, Scorer

LABELS = ("a", "b", "c", "d")


def sets(is_in_NC: np.ndarray) -> list[str]:
    return ["|".join(label for label, has in zip(LABELS, row, strict=True) if has) for row in is_in_NC]


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and answers; `d` is never true, some sets are empty."""
    rng = np.random.default_rng(seed)
    true_NC = rng.random((n, 4)) < [0.6, 0.3, 0.1, 0.0]
    return true_NC, np.where(rng.random((n, 4)) < 0.7, true_NC, rng.random((n, 4)) < 0.3)


def oracle(name: str, true_NC: np.ndarray, given_NC: np.ndarray) -> float:
    if name == "accuracy":
        return float(accuracy_score(true_NC, given_NC))
    if name == "multi-label-micro-f1":
        return float(f1_score(true_NC, given_NC, average="micro", zero_division=0))
    occurring = np.flatnonzero(true_NC.any(0) | given_NC.any(0))
    return float(f1_score(true_NC, given_NC, labels=occurring, average="macro", zero_division=0))


@pytest.mark.parametrize("name", ["multi-label-micro-f1", "multi-label-macro-f1", "accuracy"])
def test_values_are_scikit_learns_on_each_resample(name: str) -> None:
    true_NC, given_NC = drawn(3, 30)
    scorer = Scorer(metric=METRICS[name], references=[(each,) for each in sets(true_NC)], labels=LABELS)
    stats_NM = scorer.stats(sets(given_NC))
    assert scorer.value(stats_NM) == pytest.approx(oracle(name, true_NC, given_NC), abs=1e-12)
    weights_RN = np.random.default_rng(1).integers(0, 3, size=(20, 30))
    rows = [np.repeat(np.arange(30), weights_N) for weights_N in weights_RN]
    expected = [oracle(name, true_NC[each], given_NC[each]) for each in rows]
    got_R = scorer.metric.values(stats_NM, weights_RN.astype(np.float32))
    np.testing.assert_allclose(got_R, expected, rtol=0, atol=1e-12)
    assert len(set(expected)) > 10
    assert np.isnan(scorer.metric.values(stats_NM, np.zeros((1, 30), dtype=np.float32))[0])


def test_strange_labels_count_as_left_out() -> None:
    assert members(["b|zebra", "", "a|d"], LABELS).tolist() == [
        [False, True, False, False], [False] * 4, [True, False, False, True],
    ]  # fmt: skip


@pytest.mark.parametrize("apart", [True, False])
def test_thresholds_are_the_best_of_all(apart: bool) -> None:
    """On these rows no other threshold gives a higher F1; logits that are equal stay on one side."""
    found_C = np.zeros(3)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true_NC = rng.random((12, 3)) < [0.5, 0.2, 0.4]
        logits_NC = np.round(rng.normal(size=(12, 3)) + true_NC, 1)
        found_C = thresholds(logits_NC, true_NC, apart=apart)
        columns = [slice(k, k + 1) for k in range(3)] if apart else [slice(None)]
        for column in columns:
            logits, true = logits_NC[:, column], true_NC[:, column]
            if not true.any():
                continue
            every = [f1(logits > t, true) for t in np.unique(logits) - 1e-6]
            assert f1(logits > found_C[column], true) == pytest.approx(max(every), abs=1e-12)
    assert apart or len(set(found_C.tolist())) == 1


def f1(given: np.ndarray, true: np.ndarray) -> float:
    return float(f1_score(true.ravel(), given.ravel(), zero_division=0))


def test_a_label_without_rows_gets_the_shared_threshold() -> None:
    logits_NC, true_NC = np.array([[3.0, 9.0], [1.0, 0.0]]), np.array([[True, False], [False, False]])
    shared = thresholds(logits_NC, true_NC, apart=False)
    assert thresholds(logits_NC, true_NC, apart=True).tolist() == [2.0, shared[1]]
