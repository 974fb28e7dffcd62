"""The gate: exact probabilities of its verdicts, by enumeration, and its limits."""

import numpy as np
import pytest
from scipy import stats

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.evaluation.gate import Outcome, Ruling, at_least, not_worse, worst
from tunewright.evaluation.metrics import Scorer, StatsArray


def scorer(n: int, metric: str = "accuracy") -> Scorer:
    return label_scorer(metric, np.zeros(n, dtype=np.int64), 2)


def answers(n: int, num_right: int) -> StatsArray:
    return of(scorer(n), (np.arange(n) >= num_right).astype(np.int64))


@pytest.mark.parametrize("minimum", [0.5, 0.8, 0.95])
def test_at_least_is_seldom_wrong(minimum: float) -> None:
    """Over all counts of right rows: at a true value at the minimum, either verdict comes in about 5% at most."""
    n, rng = 200, np.random.default_rng(0)
    found = [at_least(scorer(n), answers(n, k), minimum, rng).outcome for k in range(n + 1)]
    for outcome in (Outcome.PASSED, Outcome.FAILED):
        chance = sum(stats.binom.pmf(k, n, minimum) for k in range(n + 1) if found[k] is outcome)
        assert chance <= 0.07, "the score interval may exceed its level by little"
        assert chance >= 0.01, "a gate that never says it is no gate"
    assert found == sorted(found, key=[Outcome.FAILED, Outcome.UNDECIDED, Outcome.PASSED].index)


def test_the_luckiest_of_many_has_to_show_more() -> None:
    """Eight candidates exactly at the minimum: the best on these rows passes in about 5% at most, not in a third."""
    n, minimum, rng = 300, 0.9, np.random.default_rng(4)
    best = rng.binomial(n, minimum, size=(400, 8)).max(axis=1)
    found = {k: at_least(scorer(n), answers(n, k), minimum, rng, num_chosen_from=8) for k in set(best.tolist())}
    passed = sum(found[k].outcome is Outcome.PASSED for k in best.tolist())
    assert passed <= stats.binom.ppf(0.999, 400, 0.05)
    naive = sum(at_least(scorer(n), answers(n, k), minimum, rng).outcome is Outcome.PASSED for k in best.tolist())
    assert naive > 2 * passed


def test_at_least_tells_certain_cases() -> None:
    rng = np.random.default_rng(0)
    assert at_least(scorer(1000), answers(1000, 950), 0.9, rng).outcome is Outcome.PASSED
    assert at_least(scorer(1000), answers(1000, 850), 0.9, rng).outcome is Outcome.FAILED
    undecided = at_least(scorer(50), answers(50, 46), 0.9, rng)
    assert undecided.outcome is Outcome.UNDECIDED
    assert "not told apart from 0.9 by 50 rows" in undecided.reason


@pytest.mark.parametrize("metric", ["accuracy", "macro-f1"])
@pytest.mark.parametrize(("n", "outcome"), [(30, Outcome.UNDECIDED), (3000, Outcome.PASSED)])
def test_the_same_answers_pass_only_with_enough_rows(metric: str, n: int, outcome: Outcome) -> None:
    """Few rows without a disagreement do not show that there is none."""
    rng = np.random.default_rng(1)
    true_N = rng.integers(2, size=n)
    same = np.where(rng.random(n) < 0.9, true_N, 1 - true_N)
    judge = label_scorer(metric, true_N, 2)
    assert not_worse(judge, of(judge, same), of(judge, same), 0.01, rng).outcome is outcome


@pytest.mark.parametrize("metric", ["accuracy", "macro-f1"])
def test_not_worse_sees_a_loss(metric: str) -> None:
    rng = np.random.default_rng(2)
    true_N = rng.integers(2, size=2000)
    old = np.where(rng.random(2000) < 0.9, true_N, 1 - true_N)
    new = np.where(rng.random(2000) < 0.1, 1 - true_N, old)
    judge = label_scorer(metric, true_N, 2)
    assert not_worse(judge, of(judge, new), of(judge, old), 0.01, rng).outcome is Outcome.FAILED
    assert not_worse(judge, of(judge, old), of(judge, new), 0.01, rng).outcome is Outcome.PASSED


def test_not_worse_is_seldom_wrong() -> None:
    """With a true loss of just the margin, 'loses less' comes in about one of twenty draws."""
    rng, n, margin = np.random.default_rng(3), 400, 0.05
    passed = 0
    for _ in range(400):
        kind = rng.choice(3, size=n, p=[0.1, 0.05, 0.85])  # only old right; only new right; both
        new, old = (kind == 0).astype(np.int64), (kind == 1).astype(np.int64)
        passed += not_worse(scorer(n), of(scorer(n), new), of(scorer(n), old), margin, rng).outcome is Outcome.PASSED
    assert passed <= stats.binom.ppf(0.999, 400, 0.05)


def test_worst() -> None:
    rulings = {o: Ruling(outcome=o, reason="") for o in Outcome}
    assert worst(list(rulings.values())) is Outcome.FAILED
    assert worst([rulings[Outcome.PASSED], rulings[Outcome.UNDECIDED]]) is Outcome.UNDECIDED
    assert worst([rulings[Outcome.PASSED]]) is Outcome.PASSED
