"""The rule of the decision: cheapest shown to be close, else the best; and what it promises, in simulation."""

import json
import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.errors import RunError
from tunewright.evaluation.bootstrap import interval
from tunewright.evaluation.cost import Prices
from tunewright.evaluation.decision import Entry, choose, decide
from tunewright.evaluation.metrics import IntArray, Scorer
from tunewright.evaluation.reason import Verdict
from tunewright.runs.comparison import Decision, Pair
from tunewright.types import Estimate

NOT_ESTIMATED = Estimate(value=math.nan, low=math.nan, high=math.nan, n=0)


def entry(name: str, predicted_N: IntArray, price: float, *, is_floor: bool = False) -> Entry:
    """With the answers themselves; `judged` tells what they are worth."""
    return Entry(
        id=name,
        method=name,
        family="no training" if is_floor else "fine-tuning",
        backbone="base",
        stats_NM=predicted_N,
        price=price,
        test=NOT_ESTIMATED,
        is_floor=is_floor,
    )


def right_on(rows: range | list[int], n: int, wrong: int = 1) -> IntArray:
    """Answers to `n` rows of label 0 that are right on these rows alone."""
    predicted_N = np.full(n, wrong)
    predicted_N[list(rows)] = 0
    return predicted_N


def zeros(n: int, metric: str = "accuracy") -> Scorer:
    return label_scorer(metric, np.zeros(n, dtype=np.int64), 2)


def judged(candidates: list[Entry], scorer: Scorer) -> list[Entry]:
    """With the statistics of the answers."""
    return [replace(c, stats_NM=of(scorer, c.stats_NM)) for c in candidates]


def decided(candidates: list[Entry], scorer: Scorer, margin: float = 1.0) -> tuple[Decision, tuple[Pair, ...]]:
    candidates = judged(candidates, scorer)
    draws = [np.random.default_rng(1) for _ in candidates]
    tests = [interval(scorer, c.stats_NM, rng, num_resamples=500) for c, rng in zip(candidates, draws, strict=True)]
    estimated = [replace(c, test=test) for c, test in zip(candidates, tests, strict=True)]
    return decide(estimated, scorer, np.random.default_rng(0), margin_points=margin, num_resamples=500)


def test_cheapest_shown_to_be_close_is_recommended() -> None:
    n = 1_000
    candidates = [
        entry("majority", right_on(range(500), n), 0, is_floor=True),
        entry("probe", right_on(range(700), n), 1),
        entry("prefix", right_on([*range(898), 901], n), 2),
        entry("lora", right_on(range(900), n), 3),
        entry("full", right_on(range(899), n), 9),
    ]
    decision, _ = decided(candidates, zeros(n))
    assert (decision.best, decision.recommended) == ("lora", "prefix")
    assert decision.verdict == Verdict.CHEAPER
    assert [item.id for item in decision.not_separated] == ["prefix", "full"]
    assert "prefix is recommended: accuracy 89.9% on 1000 test rows" in decision.reason
    assert "lose less than 1 point against the highest measured, lora with 90.0%" in decision.reason
    assert "0.67 times its price" in decision.reason
    assert "equal" not in decision.reason


def test_unknown_price_is_the_dearest_and_no_ratio() -> None:
    n = 1_000
    probe, today = right_on([*range(898), 901], n), right_on(range(900), n)
    decision, _ = decided([entry("today", today, math.inf), entry("probe", probe, 1)], zeros(n))
    assert (decision.best, decision.recommended) == ("today", "probe")
    assert decision.reason.endswith("; the price of today is not known and was taken as the dearest.")
    assert "times its price" not in decision.reason
    best, _ = decided([entry("today", right_on(range(950), n), math.inf), entry("probe", probe, 1)], zeros(n))
    assert best.recommended == "today"
    # As cheap as any for what is known: yet of two that are alike the one with a price is taken.
    twin, _ = decided([entry("today", probe, math.inf), entry("probe", probe, 1)], zeros(n))
    assert (twin.best, twin.recommended) == ("probe", "probe")


def test_few_rows_do_not_show_closeness_even_without_a_disagreement() -> None:
    n = 100
    candidates = [entry("cheap", right_on(range(80), n), 1), entry("dear", right_on(range(81), n), 2)]
    decision, _ = decided(candidates, zeros(n))
    assert decision.recommended == decision.best == "dear"
    assert decision.verdict == Verdict.BEST_NOT_SHOWN
    assert "not shown to be better than cheap" in decision.reason
    wider, _ = decided(candidates, zeros(n), margin=6.0)
    assert (wider.recommended, wider.margin) == ("cheap", 6.0)


def test_best_shown_to_be_better_than_all() -> None:
    n = 300
    candidates = [
        entry(name, right_on(range(right), n), price) for name, right, price in (("a", 150, 1), ("b", 250, 2))
    ]
    decision, (pair,) = decided(candidates, zeros(n))
    assert (decision.recommended, decision.verdict, decision.not_separated) == ("b", Verdict.BEST_SHOWN, ())
    assert decision.stability == 1
    assert (pair.a, pair.b) == ("a", "b")
    assert pair.difference == pytest.approx(-1 / 3, abs=1e-12)
    assert pair.low < -1 / 3 < pair.high < 0


def test_nothing_better_than_the_floor() -> None:
    """The floor is not shown to be close to the best either: the margin's rule goes on to choose."""
    rng = np.random.default_rng(1)
    n = 200
    answers = {f"m{k}": (rng.random(n) > 0.52).astype(np.int64) for k in range(1, 5)}
    candidates = [entry("majority", right_on(range(100), n), 0, is_floor=True)]
    candidates += [entry(name, x_N, price) for price, (name, x_N) in enumerate(answers.items(), 1)]
    decision, _ = decided(candidates, zeros(n))
    assert decision.verdict == "nothing learned is shown to work"
    assert decision.recommended == decision.best == min(answers, key=lambda name: answers[name].sum())
    assert decision.minimum_detectable_difference is not None
    assert "it is the highest measured, but nothing learned is shown to work: majority with 50.0%" in decision.reason
    assert "may be chance" in decision.reason


def test_the_floor_is_recommended_where_it_is_highest_or_shown_to_be_close() -> None:
    n = 2_000
    floor, lower = entry("majority", right_on(range(1_000), n), 0, is_floor=True), right_on(range(900), n)
    highest, _ = decided([floor, entry("a", lower, 1)], zeros(n))
    assert (highest.recommended, highest.verdict) == ("majority", Verdict.NOTHING_WORKS)
    assert "no other candidate did better" in highest.reason
    close, _ = decided([floor, entry("a", right_on(range(1_002), n), 1)], zeros(n))
    assert (close.recommended, close.best, close.verdict) == ("majority", "a", Verdict.NOTHING_WORKS)
    assert "no candidate is shown to be better than it" in close.reason


def test_a_cheaper_one_near_the_best_where_nothing_works() -> None:
    n = 1_000
    right = {"majority": range(500), "cheap": range(480, 1_000), "dear": range(479, 1_000)}
    entries = [entry(name, right_on(rows, n), k, is_floor=k == 0) for k, (name, rows) in enumerate(right.items())]
    decision, _ = decided(entries, zeros(n))
    assert (decision.recommended, decision.best, decision.verdict) == ("cheap", "dear", Verdict.NOTHING_WORKS)
    assert "majority with 50.0% is the floor, the highest, dear with 52.1%, is 2.1 points" in decision.reason


def test_only_one_candidate() -> None:
    decision, pairs = decided([entry("only", right_on(range(9), 10), 1)], zeros(10))
    assert (decision.recommended, decision.verdict, pairs) == ("only", Verdict.ONLY_ONE, ())
    assert (decision.stability, decision.minimum_detectable_difference) == (1, None)


def test_no_candidate_is_the_users_to_mend() -> None:
    with pytest.raises(RunError, match=r"no candidate was finished.*--budget"):
        decided([], zeros(10))


@pytest.mark.parametrize("metric", ["accuracy", "macro-f1"])
def test_order_of_candidates_does_not_matter(metric: str) -> None:
    rng = np.random.default_rng(2)
    true_N = rng.integers(2, size=150)
    scorer = label_scorer(metric, true_N, 2)
    candidates = [entry("floor", np.zeros(150, dtype=np.int64), 0, is_floor=True)]
    for name, accuracy, price in (("a", 0.8, 1), ("b", 0.82, 2), ("twin", 0.85, 2)):
        candidates.append(entry(name, np.where(rng.random(150) < accuracy, true_N, 1 - true_N), price))
    expected = decided(candidates, scorer)
    assert all(decided(list(order), scorer) == expected for order in permutations(candidates))


def test_ties_go_to_the_cheaper_and_then_to_the_name() -> None:
    n = 1_000
    same_N = right_on(range(800), n)
    decision, _ = decided([entry("b", same_N, 2), entry("z", same_N, 1), entry("c", same_N, 1)], zeros(n))
    assert (decision.best, decision.recommended) == ("c", "c")
    assert {item.rows_needed for item in decision.not_separated} == {None}
    assert decision.minimum_detectable_difference is None


def test_of_one_price_the_better_goes_first() -> None:
    n = 1_000
    candidates = [entry("a", right_on(range(899), n), 1), entry("b", right_on(range(900), n), 1)]
    decision, _ = decided(candidates, zeros(n), margin=5)
    assert (decision.best, decision.recommended) == ("b", "b")


def test_pairs_are_exact_mcnemar_adjusted_by_max_t() -> None:
    rng = np.random.default_rng(3)
    n = 120
    answers = {
        name: (rng.random(n) > p).astype(np.int64) for name, p in (("a", 0.6), ("b", 0.75), ("c", 0.8), ("d", 0.9))
    }
    candidates = [entry(name, x_N, price) for price, (name, x_N) in enumerate(answers.items())]
    _, pairs = decided(candidates, zeros(n))
    assert [(pair.a, pair.b) for pair in pairs] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
    ]
    expected = []
    for pair in pairs:
        wins = int(((answers[pair.a] == 0) & (answers[pair.b] != 0)).sum())
        losses = int(((answers[pair.a] != 0) & (answers[pair.b] == 0)).sum())
        assert pair.difference == pytest.approx((wins - losses) / n, abs=1e-12)
        expected.append(stats.binomtest(wins, wins + losses).pvalue)
    assert [pair.p_value for pair in pairs] == pytest.approx(expected, abs=1e-12)
    adjusted = [pair.p_adjusted for pair in pairs]
    d_PN = np.array([(answers[pair.a] == 0).astype(int) - (answers[pair.b] == 0) for pair in pairs])
    null_RP = np.abs(rng.choice([-1, 1], size=(20_000, n)) @ d_PN.T) / np.sqrt((d_PN**2).sum(axis=1))
    observed_P = np.abs(d_PN.sum(axis=1)) / np.sqrt((d_PN**2).sum(axis=1))
    largest = int(observed_P.argmax())
    assert adjusted[largest] == pytest.approx(np.mean(null_RP.max(axis=1) >= observed_P[largest]), abs=0.02)
    assert all(pair.p_adjusted >= pair.p_value for pair in pairs)


def test_choose_is_the_naive_rule() -> None:
    rng = np.random.default_rng(4)
    values_RK, slack_KK = rng.random((200, 4)), rng.uniform(0, 0.3, size=(4, 4))
    got_R = choose(values_RK, slack_KK, 0.1)
    for values_K, got in zip(values_RK, got_R, strict=True):
        best = int(values_K.argmax())
        close = [k for k in range(4) if k == best or values_K[k] - values_K[best] - slack_KK[k, best] > -0.1]
        assert got == close[0]
    assert set(got_R.tolist()) == {0, 1, 2, 3}


def test_decision_records_the_prices_and_is_json() -> None:
    candidates = [entry("a", right_on(range(5), 10), 1)]
    prices = Prices(usd_per_petaflop=1.5)
    decision, _ = decide(
        judged(candidates, zeros(10)), zeros(10), np.random.default_rng(0), num_resamples=100, prices=prices
    )
    assert decision.prices == {
        "usd_per_petaflop": 1.5, "usd_per_gigabyte_month": 3.0, "requests_per_month": 100_000, "months": 12,
        "usd_per_hour": 0.08,
    }  # fmt: skip
    assert type(decision.verdict) is str
    assert json.loads(json.dumps(decision.verdict)) == "there is only one candidate"


ACCURACIES = (0.70, 0.79, 0.815, 0.829, 0.838, 0.829)


def correlated(rng: np.random.Generator, n: int) -> list[IntArray]:
    """Answers to rows of label 0 by candidates of these accuracies: hard rows are hard for all (correlation .5)."""
    hardness_N = rng.normal(size=n)
    noise_KN = rng.normal(size=(len(ACCURACIES), n))
    thresholds_K = np.asarray(stats.norm.ppf(ACCURACIES))
    latent_KN = np.sqrt(0.5) * hardness_N + np.sqrt(0.5) * noise_KN
    return list((latent_KN > thresholds_K[:, None]).astype(np.int64))


def cheapest_not_worse(decision: Decision, pairs: tuple[Pair, ...]) -> int:
    """What `not significantly worse, so take the cheapest` would choose."""
    differs = {
        pair.a if pair.b == decision.best else pair.b
        for pair in pairs
        if pair.p_adjusted < 0.05 and decision.best in (pair.a, pair.b)
    }
    return min(k for k in range(len(ACCURACIES)) if str(k) not in differs)


def test_regret_is_small() -> None:
    """On 300 rows the rule loses under 1 point on average, the cheapest not significantly worse over 2."""
    rng = np.random.default_rng(5)
    ours, theirs = [], []
    for _ in range(80):
        candidates = [entry(str(k), x_N, k) for k, x_N in enumerate(correlated(rng, 300))]
        decision, pairs = decide(judged(candidates, zeros(300)), zeros(300), rng, num_resamples=200)
        assert decision.recommended is not None
        ours.append(max(ACCURACIES) - ACCURACIES[int(decision.recommended)])
        theirs.append(max(ACCURACIES) - ACCURACIES[cheapest_not_worse(decision, pairs)])
    assert np.mean(ours) < 0.01
    assert np.mean(theirs) > 0.02


def test_corrected_value_is_at_most_the_measured_one() -> None:
    """Half the replicates take the dearer and better one; what the cheaper is worth does not rise by that."""
    n = 1_000
    candidates = [entry("cheap", right_on(range(900), n), 1), entry("dear", right_on(range(920), n), 2)]
    decision, _ = decided(candidates, zeros(n), margin=3.0)
    assert decision.recommended == "cheap"
    assert decision.stability is not None
    assert 0.3 < decision.stability < 0.9
    assert decision.corrected_value == 0.9


def test_twins_are_seldom_called_different() -> None:
    """Two candidates of one accuracy: at most 5% of 200 comparisons, and two standard errors, separate them."""
    rng = np.random.default_rng(7)
    separated = 0
    for _ in range(200):
        answers = (rng.random((2, 150)) > 0.8).astype(np.int64)
        candidates = [entry(str(k), x_N, k) for k, x_N in enumerate(answers)]
        _, (pair,) = decide(judged(candidates, zeros(150)), zeros(150), rng, num_resamples=100)
        separated += pair.p_adjusted < 0.05
    assert separated <= 200 * 0.05 + 2 * np.sqrt(200 * 0.05 * 0.95)
