"""The decision about methods from folds: against a naive loop over scikit-learn's folds, and the sentences it says."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold
from statsmodels.stats.multitest import multipletests

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.errors import RunError
from tunewright.evaluation.cross_validation import FoldEntry, decide_folds, fold_estimate, fold_values
from tunewright.evaluation.metrics import IntArray, Scorer, StatsArray
from tunewright.evaluation.reason import Verdict

REPEATS, FOLDS, N = 2, 5, 200


def scorer_of(true_N: IntArray, metric: str = "accuracy") -> Scorer:
    return label_scorer(metric, true_N, 3)


def judged(true_N: IntArray, predicted_RN: IntArray, metric: str = "accuracy") -> StatsArray:
    """Statistics of the answers of each repeat."""
    return np.stack([of(scorer_of(true_N, metric), predicted_N) for predicted_N in predicted_RN])


def folds_of(true_N: IntArray) -> IntArray:
    fold_RN = np.zeros((REPEATS, true_N.size), dtype=np.int64)
    for repeat in range(REPEATS):
        splits = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat).split(true_N, true_N)
        for fold, (_, test) in enumerate(splits):
            fold_RN[repeat, test] = fold
    return fold_RN


def entry(name: str, stats_RNM: StatsArray, price: float, *, is_floor: bool = False) -> FoldEntry:
    return FoldEntry(
        id=name,
        method=name,
        family="fine-tuning",
        backbone="base",
        stats_RNM=stats_RNM,
        price=price,
        is_floor=is_floor,
    )


def answers(rng: np.random.Generator, true_N: IntArray, share: float) -> IntArray:
    """Right on this share of the rows, each repeat on its own."""
    return np.where(rng.random((REPEATS, true_N.size)) < share, true_N, (true_N + 1) % 3)


def truth(rng: np.random.Generator) -> IntArray:
    return rng.choice(3, size=N, p=[0.5, 0.3, 0.2]).astype(np.int64)


@pytest.mark.parametrize("metric", ["accuracy", "macro-f1"])
def test_fold_values_are_the_naive_loop(metric: str) -> None:
    rng = np.random.default_rng(0)
    true_N = truth(rng)
    fold_RN, predicted_RN = folds_of(true_N), answers(rng, true_N, 0.8)
    expected = []
    for repeat in range(REPEATS):
        for fold in range(FOLDS):
            rows = np.flatnonzero(fold_RN[repeat] == fold)
            y, x = true_N[rows], predicted_RN[repeat, rows]
            expected.append(
                accuracy_score(y, x) if metric == "accuracy" else f1_score(y, x, average="macro", zero_division=0)
            )
    assert fold_values(judged(true_N, predicted_RN, metric), fold_RN, scorer_of(true_N, metric)) == pytest.approx(
        expected, abs=1e-9
    )


def test_pairs_are_the_corrected_t_under_holm() -> None:
    """Variance factor 1/10 + 1/4, nine degrees of freedom, by hand for every pair."""
    rng = np.random.default_rng(1)
    true_N = truth(rng)
    fold_RN, scorer = folds_of(true_N), scorer_of(true_N)
    shares = {"a": 0.6, "b": 0.8, "c": 0.75}
    entries = [
        entry(name, judged(true_N, answers(rng, true_N, share)), price)
        for price, (name, share) in enumerate(shares.items())
    ]
    _, pairs = decide_folds(entries[::-1], scorer, fold_RN, rng, num_replicates=50)
    p_values = []
    for (a, b), pair in zip(combinations(entries, 2), pairs, strict=True):
        d_J = fold_values(a.stats_RNM, fold_RN, scorer) - fold_values(b.stats_RNM, fold_RN, scorer)
        error = np.sqrt((1 / 10 + 1 / 4) * d_J.var(ddof=1))
        low, high = stats.t.interval(0.95, 9, loc=d_J.mean(), scale=error)
        assert (pair.a, pair.b) == (a.id, b.id)
        assert (pair.difference, pair.low, pair.high) == pytest.approx((d_J.mean(), low, high), abs=1e-9)
        p_values.append(2 * stats.t.sf(abs(d_J.mean()) / error, 9))
    assert [pair.p_value for pair in pairs] == pytest.approx(p_values, abs=1e-9)
    assert [pair.p_adjusted for pair in pairs] == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_estimate_is_the_mean_with_the_t_interval() -> None:
    rng = np.random.default_rng(2)
    true_N = truth(rng)
    fold_RN, predicted_RN = folds_of(true_N), answers(rng, true_N, 0.8)
    values_J = fold_values(judged(true_N, predicted_RN), fold_RN, scorer_of(true_N))
    error = np.sqrt((1 / 10 + 1 / 4) * values_J.var(ddof=1))
    found = fold_estimate(judged(true_N, predicted_RN), fold_RN, scorer_of(true_N))
    low, high = stats.t.interval(0.95, 9, loc=values_J.mean(), scale=error)
    assert (found.value, found.low, found.high) == pytest.approx((values_J.mean(), low, high), abs=1e-9)
    assert found.n == N
    right_RN = np.broadcast_to(true_N, (REPEATS, N))
    perfect = fold_estimate(judged(true_N, right_RN), fold_RN, scorer_of(true_N))
    assert (perfect.value, perfect.high) == (1.0, 1.0)


def test_cheaper_within_the_margin_is_said_of_methods() -> None:
    rng = np.random.default_rng(3)
    true_N = truth(rng)
    fold_RN, best_RN = folds_of(true_N), answers(rng, true_N, 0.9)
    cheap_RN = best_RN.copy()
    cheap_RN[:, 0] = (true_N[0] + 1) % 3
    best_RN[:, 0] = true_N[0]
    floor_RN = np.zeros_like(best_RN)
    entries = [
        entry("dear", judged(true_N, best_RN), 2),
        entry("cheap", judged(true_N, cheap_RN), 1),
        entry("floor", judged(true_N, floor_RN), 0, is_floor=True),
    ]
    decision, _ = decide_folds(entries, scorer_of(true_N), fold_RN, rng, margin_points=3.0, num_replicates=100)
    assert (decision.best, decision.recommended, decision.verdict) == ("dear", "cheap", Verdict.CHEAPER)
    assert decision.reason.startswith("The method cheap is recommended: accuracy ")
    assert "on 200 rows, each answered by a model trained on the other 4 of 5 parts" in decision.reason
    assert decision.reason.endswith("the model that is kept is trained on all rows and was itself not tested.")
    assert decision.stability is not None
    strict, _ = decide_folds(entries, scorer_of(true_N), fold_RN, rng, margin_points=1.0, num_replicates=100)
    assert strict.recommended == "dear"


def test_the_same_answers_are_not_shown_to_be_close_by_few_rows() -> None:
    """No fold differs: the slack is that of 200 rows without a disagreement, 1.3 points."""
    rng = np.random.default_rng(4)
    true_N = truth(rng)
    best_RN = answers(rng, true_N, 0.8)
    worse_RN = np.where(np.arange(N) < 1, (true_N + 1) % 3, best_RN)
    best_RN = np.where(np.arange(N) < 1, true_N, best_RN)
    entries = [entry("cheap", judged(true_N, worse_RN), 1), entry("dear", judged(true_N, best_RN), 2)]
    decision, (pair,) = decide_folds(entries, scorer_of(true_N), folds_of(true_N), rng, num_replicates=50)
    assert decision.recommended == "dear"
    assert pair.p_adjusted > 0.05


def test_nothing_works_and_no_candidate() -> None:
    rng = np.random.default_rng(5)
    true_N = truth(rng)
    floor_RN = np.zeros((REPEATS, N), dtype=np.int64)
    guess_RN = rng.integers(3, size=(REPEATS, N))
    entries = [
        entry("majority", judged(true_N, floor_RN), 0, is_floor=True),
        entry("guess", judged(true_N, guess_RN), 1),
    ]
    decision, _ = decide_folds(entries, scorer_of(true_N), folds_of(true_N), rng, num_replicates=50)
    assert (decision.recommended, decision.verdict) == ("majority", Verdict.NOTHING_WORKS)
    with pytest.raises(RunError, match="no candidate was finished"):
        decide_folds([], scorer_of(true_N), folds_of(true_N), rng)


def test_folds_that_agree_by_chance_are_no_surer_than_their_rows() -> None:
    """Half right in every fold against all right in every fold: no spread over folds, and yet a shown difference."""
    true_N = np.tile([0, 1], 50)
    fold_RN = np.repeat(np.arange(5), 20)[None]
    scorer = label_scorer("accuracy", true_N, 2)
    answers = {"floor": judged(true_N, np.zeros_like(true_N)[None]), "all-right": judged(true_N, true_N[None])}
    entries = [
        FoldEntry(id=name, method=name, family="no training", backbone="", stats_RNM=stats_RNM, price=k, is_floor=not k)
        for k, (name, stats_RNM) in enumerate(answers.items())
    ]
    decision, (pair,) = decide_folds(entries, scorer, fold_RN, np.random.default_rng(0))
    error = np.std(true_N == 0) / 10  # of a difference that is 1 in half of the rows
    assert pair.difference == -0.5
    assert pair.low == pytest.approx(-0.5 - stats.t.ppf(0.975, 4) * error)
    assert pair.p_value == pytest.approx(2 * stats.t.sf(0.5 / error, 4))
    assert decision.recommended == "all-right"
    floor = fold_estimate(answers["floor"], fold_RN, scorer)
    assert (floor.value, floor.high) == pytest.approx((0.5, 0.5 + stats.t.ppf(0.975, 4) * error))
