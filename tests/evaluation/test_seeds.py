"""Claims about methods: against a naive computation, and how often they are wrong."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.evaluation.bootstrap import resample_counts
from tunewright.evaluation.metrics import IntArray, Scorer, StatsArray
from tunewright.evaluation.seeds import compare_methods
from tunewright.runs.comparison import MethodDifference, Pair

SHARES = {"a": (0.9, 0.7, 0.8), "b": (0.6, 0.75)}


def pair(a: str, b: str) -> Pair:
    return Pair(a=a, b=b, difference=0.0, low=0.0, high=0.0, p_value=1.0, p_adjusted=1.0)


def scorer(n: int) -> Scorer:
    return label_scorer("accuracy", np.zeros(n, dtype=np.int64), 2)


def draw(rng: np.random.Generator, n: int, shares: list[float]) -> list[IntArray]:
    """Answers of one method's seeds, each right for its share of the rows."""
    return [(rng.random(n) >= share).astype(np.int64) for share in shares]


def judged(scorer: Scorer, answers: dict[str, list[IntArray]]) -> dict[str, list[StatsArray]]:
    """Statistics of the answers of each method's seeds."""
    return {name: [of(scorer, seed_N) for seed_N in seeds] for name, seeds in answers.items()}


def test_against_formulas() -> None:
    """The error over rows is that of a mean of independent rows; the rest is the t interval by hand; Holm over both."""
    rng, n = np.random.default_rng(0), 500
    answers = {"a": draw(rng, n, [0.9, 0.85, 0.88]), "b": draw(rng, n, [0.8, 0.82, 0.81]), "c": draw(rng, n, [0.8] * 3)}
    found = compare_methods(
        [pair("a", "b"), pair("b", "c")], judged(scorer(n), answers), scorer(n), rng, num_resamples=20_000
    )
    p_values = []
    for each in found:
        assert each.methods is not None
        right = {k: np.array([1 - seed for seed in answers[k]]) for k in (each.a, each.b)}
        by_seed = right[each.a].mean(axis=1) - right[each.b].mean(axis=1)
        by_row = (right[each.a] - right[each.b]).mean(axis=0)
        error = np.sqrt(by_seed.var(ddof=1) / 3 + by_row.var() / n)
        assert each.methods.difference == pytest.approx(by_seed.mean(), abs=1e-12)
        half = stats.t.ppf(0.975, 2) * error
        assert (each.methods.low, each.methods.high) == pytest.approx(
            (by_seed.mean() - half, by_seed.mean() + half), abs=2e-3
        )
        p_values.append(2 * stats.t.sf(abs(by_seed.mean()) / error, 2))
        assert each.methods.p_value == pytest.approx(p_values[-1], rel=0.05)
        assert each.methods.seeds == 3
    assert found[0].methods is not None
    assert found[0].methods.p_adjusted == pytest.approx(min(1, 2 * p_values[0]), rel=0.05)


def test_other_metrics_have_their_error_from_resamples() -> None:
    """Macro-F1: the standard deviation of the mean of the seeds' differences over the very same resamples."""
    rng, n = np.random.default_rng(3), 80
    true_N = (np.arange(n) % 3 == 0).astype(np.int64)
    noisy = {name: [np.where(rng.random(n) < p, true_N, 1 - true_N) for p in ps] for name, ps in SHARES.items()}
    scorer = label_scorer("macro-f1", true_N, 2)
    (found,) = compare_methods(
        [pair("a", "b")], judged(scorer, noisy), scorer, np.random.default_rng(4), num_resamples=200
    )
    counts_RN = resample_counts(n, 200, np.random.default_rng(4)).astype(int)
    means = []
    for counts_N in counts_RN:
        rows = np.repeat(np.arange(n), counts_N)
        values = {k: [f1_score(true_N[rows], x_N[rows], average="macro") for x_N in xs] for k, xs in noisy.items()}
        means.append(np.mean(np.subtract(values["a"][:2], values["b"])))
    by_seed = [
        scorer.value(of(scorer, a)) - scorer.value(of(scorer, b))
        for a, b in zip(noisy["a"][:2], noisy["b"], strict=True)
    ]
    error = np.sqrt(np.var(by_seed, ddof=1) / 2 + np.var(means, ddof=1))
    assert found.methods is not None
    assert found.methods.p_value == pytest.approx(2 * stats.t.sf(abs(np.mean(by_seed)) / error, 1), rel=1e-6)
    assert stats.t.ppf(0.975, 1) * error > 1 + abs(np.mean(by_seed))  # so that the ends are those of the scale
    assert (found.methods.low, found.methods.high) == (-1.0, 1.0)
    assert found.methods.seeds == 2


def test_one_seed_says_nothing() -> None:
    """A pair without two seeds on both sides stays as it is; the smaller number of seeds counts."""
    rng, n = np.random.default_rng(1), 100
    answers = {"a": draw(rng, n, [0.9]), "b": draw(rng, n, [0.8] * 2), "c": draw(rng, n, [0.7] * 3)}
    found = compare_methods([pair("a", "b"), pair("b", "c")], judged(scorer(n), answers), scorer(n), rng)
    assert found[0] == pair("a", "b")
    assert isinstance(found[1].methods, MethodDifference)
    assert found[1].methods.seeds == 2
    assert compare_methods([pair("a", "b")], {"a": answers["a"], "b": answers["b"]}, scorer(n), rng)[0].methods is None


def test_equal_methods_are_seldom_told_apart() -> None:
    """Four methods of the same true value, seeds off by 2 points: any claim in at most 5% of comparisons."""
    rng, n, repeats = np.random.default_rng(2), 300, 150
    names = ["a", "b", "c", "d"]
    pairs = [pair(x, y) for k, x in enumerate(names) for y in names[k + 1 :]]
    wrong = 0
    for _ in range(repeats):
        answers = {name: draw(rng, n, (0.8 + rng.normal(0, 0.02, size=3)).tolist()) for name in names}
        found = compare_methods(pairs, judged(scorer(n), answers), scorer(n), rng, num_resamples=200)
        wrong += any(each.methods is not None and each.methods.p_adjusted < 0.05 for each in found)
    assert wrong <= stats.binom.ppf(0.999, repeats, 0.05)
