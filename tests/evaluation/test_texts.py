"""Metrics of texts against sacrebleu and rouge_score, on the rows and on every resample of them."""

import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tunewright.errors import ConfigError
from tunewright.evaluation.metrics import METRICS, References, Scorer, row_scorer
from tunewright.evaluation.named import find_metric
from tunewright.evaluation.texts import longest_common
from tunewright.types import Example

WORDS = ("the", "a", "cheap", "pub", "near", "river", "The", "Mill,", "serves", "food.", "kid-friendly", "3", "of", "5")


def drawn(n: int, seed: int) -> tuple[list[str], References]:
    """Answers that share words with one to four references; a few empty, a few exactly right."""
    rng = random.Random(seed)

    def sentence(low: int = 3) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, 14)))

    references = [tuple(sentence() for _ in range(rng.randint(1, 4))) for _ in range(n)]
    answers = [rng.choice(right) if rng.random() < 0.3 else sentence(0) for right in references]
    return [a if k % 7 else "" for k, a in enumerate(answers, 1)], references


def padded(references: References) -> list[list[str | None]]:
    """As sacrebleu takes them: one list for each place, None where a row has fewer."""
    most = max(map(len, references))
    return [[right[k] if k < len(right) else None for right in references] for k in range(most)]


def by_sacrebleu(kind: Callable[[], BLEU | CHRF]) -> Callable[[list[str], References], float]:
    return lambda answers, references: float(kind().corpus_score(answers, cast(Any, padded(references))).score) / 100


def by_rouge(answers: list[str], references: References) -> float:
    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score_multi(right, a)["rougeL"].fmeasure for a, right in zip(answers, references, strict=True)]
    return float(np.mean(scores))


def by_tokens(answers: list[str], references: References) -> float:
    """By hand: counts of each word, the smaller of the two."""

    def f1(one: str, other: str) -> float:
        a, b = ["".join(c if c.isalnum() else " " for c in text.lower()).split() for text in (one, other)]
        common = sum(min(a.count(word), b.count(word)) for word in set(a))
        return 0.0 if common == 0 else 2 / (len(a) / common + len(b) / common)

    return float(np.mean([max(f1(a, each) for each in right) for a, right in zip(answers, references, strict=True)]))


def by_equality(answers: list[str], references: References) -> float:
    return float(np.mean([a in right for a, right in zip(answers, references, strict=True)]))


ORACLES: dict[str, Callable[[list[str], References], float]] = {
    "bleu": by_sacrebleu(BLEU),
    "chrf": by_sacrebleu(CHRF),
    "rouge-l": by_rouge,
    "token-f1": by_tokens,
    "exact-match": by_equality,
}

ELSEWHERE = {"numeric", "sql-execution"}
"""Tested in files of their own."""

every_metric = pytest.mark.parametrize("name", ORACLES)


def scorer_of(name: str, references: References) -> Scorer:
    return Scorer(metric=METRICS[name], references=references)


def test_every_metric_of_texts_has_its_oracle() -> None:
    assert set(ORACLES) == {metric.name for metric in METRICS.values() if "generate" in metric.kinds} - ELSEWHERE


@every_metric
@pytest.mark.parametrize("n", [1, 2, 9, 60])
def test_value_is_the_oracles(name: str, n: int) -> None:
    for seed in range(5):
        answers, references = drawn(n, seed)
        scorer = scorer_of(name, references)
        assert scorer.value(scorer.stats(answers)) == pytest.approx(ORACLES[name](answers, references), abs=1e-6)


@every_metric
def test_each_resample_is_the_oracles_on_its_rows(name: str) -> None:
    answers, references = drawn(30, seed=7)
    rng = np.random.default_rng(0)
    weights_RN = rng.integers(0, 3, size=(15, 30))
    scorer = scorer_of(name, references)
    values_RK = scorer.values([scorer.stats(answers)], weights_RN.astype(np.float32))
    expected = []
    for weights_N in weights_RN:
        rows = np.repeat(np.arange(30), weights_N).tolist()
        expected.append(ORACLES[name]([answers[k] for k in rows], [references[k] for k in rows]))
    np.testing.assert_allclose(values_RK[:, 0], expected, rtol=0, atol=1e-6)
    assert len({round(value, 9) for value in expected}) > 5


@every_metric
def test_nothing_in_common_and_nothing_at_all(name: str) -> None:
    references = [("red blue green yellow black",)] * 2
    scorer = scorer_of(name, references)
    assert scorer.value(scorer.stats(["", "qqqq zzzz"])) == pytest.approx(0.0, abs=1e-9)
    assert scorer.value(scorer.stats([references[0][0]] * 2)) == pytest.approx(1.0, abs=1e-9)
    assert np.isnan(scorer.values([scorer.stats(["", ""])], np.zeros((1, 2), np.float32))[0, 0])


def test_words_of_other_scripts_count() -> None:
    """rouge_score would find no words at all."""
    scorer = scorer_of("rouge-l", [("Привет, большой мир",)])
    assert scorer.value(scorer.stats(["большой мир"])) == pytest.approx(0.8)
    assert RougeScorer(["rougeL"]).score("Привет, большой мир", "большой мир")["rougeL"].fmeasure == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcde"), max_size=80))
def test_longest_common_is_that_of_the_table(one: list[str], other: list[str]) -> None:
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    assert longest_common(one, other) == table[-1, -1]


def test_rows_are_judged_by_their_references_or_their_label() -> None:
    rows = [Example(id="1", text="t", label="x"), Example(id="2", text="t", label="y")]
    assert row_scorer(METRICS["accuracy"], ("x", "y"), rows).references == [("x",), ("y",)]
    texts = [Example(id="1", text="t", target="b", references=("a", "b"))]
    assert row_scorer(METRICS["rouge-l"], (), texts).references == [("a", "b")]


def test_a_metric_of_other_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"metric.*accuracy.*rouge-l, bleu, chrf, token-f1, exact-match"):
        find_metric("accuracy", "generate")
    with pytest.raises(ConfigError, match=r"metric.*bleu.*accuracy, macro-f1"):
        find_metric("bleu", "classify")
