"""What a decision must not claim, in simulation: what learned nothing works, or a method is better than itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.evaluation.bootstrap import interval
from tunewright.evaluation.decision import Entry, decide
from tunewright.evaluation.metrics import IntArray
from tunewright.evaluation.reason import Verdict
from tunewright.evaluation.seeds import compare_methods
from tunewright.types import Estimate

NOT_ESTIMATED = Estimate(value=0.0, low=0.0, high=1.0, n=1)


def entry(name: str, predicted_N: IntArray, price: float, *, is_floor: bool = False) -> Entry:
    """With the answers themselves, or what they are worth; `verdict_on` judges answers."""
    return Entry(
        id=name,
        method=name,
        family="fine-tuning",
        backbone="base",
        stats_NM=predicted_N,
        price=price,
        test=NOT_ESTIMATED,
        is_floor=is_floor,
    )


def verdict_on(entries: list[Entry], true_N: IntArray, metric: str, rng: np.random.Generator) -> str:
    scorer = label_scorer(metric, true_N, 2)
    judged = [replace(e, stats_NM=of(scorer, e.stats_NM)) for e in entries]
    estimated = [replace(e, test=interval(scorer, e.stats_NM, rng, num_resamples=50)) for e in judged]
    decision, _ = decide(estimated, scorer, rng, num_resamples=199, num_replicates=1)
    return decision.verdict


def test_methods_trained_on_shuffled_labels_do_not_beat_the_majority() -> None:
    """Three real models of features that carry nothing, 200 data sets: at most 5% are said to work, and its error."""
    rng, wrong, draws = np.random.default_rng(0), 0, 200
    for _ in range(draws):
        label_N = (rng.random(260) < 0.4).astype(np.int64)
        text_NF = rng.normal(size=(260, 5)) + label_N[:, None]
        shuffled_N = rng.permutation(label_N)
        entries = [entry("majority", np.zeros(160, dtype=np.int64), 0, is_floor=True)]
        for price, part in enumerate((slice(0, 2), slice(2, 4), slice(0, 5)), 1):
            fitted = LogisticRegression().fit(text_NF[:100, part], shuffled_N[:100])
            entries.append(entry(f"m{price}", fitted.predict(text_NF[100:, part]), price))
        wrong += verdict_on(entries, shuffled_N[100:], "accuracy", rng) != Verdict.NOTHING_WORKS
    assert wrong <= stats.binom.ppf(0.977, draws, 0.05)


def test_answers_beside_the_question_do_not_beat_the_majority_in_macro_f1() -> None:
    """The majority has the lowest F1 there is; guesses do beat it, and are said to, so the floor here guesses too."""
    rng, wrong, draws = np.random.default_rng(1), 0, 100
    for _ in range(draws):
        true_N, guess_KN = rng.integers(2, size=150), rng.integers(2, size=(3, 150))
        entries = [entry(str(k), x_N, k, is_floor=k == 0) for k, x_N in enumerate(guess_KN)]
        wrong += verdict_on(entries, true_N, "macro-f1", rng) != Verdict.NOTHING_WORKS
    assert wrong <= stats.binom.ppf(0.977, draws, 0.05)


@pytest.mark.parametrize("num_rows", [60, 300])
def test_one_method_entered_twice_is_seldom_called_better(num_rows: int) -> None:
    """Two seeds of one method, whose answers agree on most rows; and twice three seeds, for what is said of methods."""
    rng, artefacts, methods, draws = np.random.default_rng(2), 0, 0, 200
    scorer = label_scorer("accuracy", np.zeros(num_rows, dtype=np.int64), 2)
    for _ in range(draws):
        hardness_N = rng.normal(size=num_rows)
        seeds_SN = (hardness_N + 0.5 * rng.normal(size=(6, num_rows)) > 0.9).astype(np.int64)
        seeds = [of(scorer, seed_N) for seed_N in seeds_SN]
        entries = [entry("first", seeds[0], 1), entry("second", seeds[3], 1)]
        decision, pairs = decide(entries, scorer, rng, num_resamples=99, num_replicates=1)
        (pair,) = compare_methods(pairs, {"first": seeds[:3], "second": seeds[3:]}, scorer, rng)
        artefacts += decision.verdict == Verdict.BEST_SHOWN
        methods += pair.methods is not None and pair.methods.p_adjusted < 0.05
    assert max(artefacts, methods) <= stats.binom.ppf(0.977, draws, 0.05)
    assert artefacts > 0
