"""Counts over answers, against scikit-learn and against rows worked out by hand."""

import numpy as np
import pytest
from sklearn import metrics

from tunewright.report.answers import Share, class_scores, confusion, disagreements, mistakes
from tunewright.types import Example

LABELS = ("a", "b", "c", "never")


def rows_of(truths: list[str]) -> list[Example]:
    return [Example(id=f"t:{k}", text=f"text {k}", label=label) for k, label in enumerate(truths)]


@pytest.fixture
def drawn() -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(3)
    truths, answers = (rng.choice(LABELS[:3], 60, p=p).tolist() for p in ((0.6, 0.3, 0.1), (0.2, 0.3, 0.5)))
    return truths, answers


def test_confusion_is_that_of_scikit_learn(drawn: tuple[list[str], list[str]]) -> None:
    truths, answers = drawn
    rows = rows_of(truths)
    matrix = confusion(rows, {row.id: answer for row, answer in zip(rows, answers, strict=True)}, LABELS)
    assert matrix == metrics.confusion_matrix(truths, answers, labels=list(LABELS)).tolist()


def test_class_scores_are_those_of_scikit_learn(drawn: tuple[list[str], list[str]]) -> None:
    truths, answers = drawn
    scores = class_scores(metrics.confusion_matrix(truths, answers, labels=list(LABELS)).tolist(), LABELS)
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        truths, answers, labels=list(LABELS), zero_division=np.nan
    )
    assert [score.label for score in scores] == list(LABELS)
    assert [score.recall.n for score in scores] == support.tolist()
    assert [score.precision.value for score in scores[:3]] == pytest.approx(precision[:3].tolist(), abs=1e-12)
    assert [score.recall.value for score in scores[:3]] == pytest.approx(recall[:3].tolist(), abs=1e-12)
    assert scores[3].recall == Share(hits=0, n=0)
    assert scores[3].recall.value is None


def test_rows_without_an_answer_or_a_known_label_are_left_out() -> None:
    rows = [*rows_of(["a", "b", "a"]), Example(id="u", text="x", label=None), Example(id="v", text="x", label="other")]
    assert confusion(rows, {"t:0": "b", "t:1": "b", "u": "a", "v": "a"}, ("a", "b")) == [[0, 1], [0, 1]]


def test_mistakes_are_the_cells_off_the_diagonal_most_frequent_first() -> None:
    matrix = [[9, 1, 4], [0, 9, 4], [2, 0, 9]]
    assert mistakes(matrix, ("a", "b", "c"), limit=3) == [("a", "c", 4), ("b", "c", 4), ("c", "a", 2)]


def test_disagreements_come_with_most_pairs_first() -> None:
    rows = rows_of(["a", "b", "c", "a"])
    given = {"one": "aaac", "two": "abac", "three": "abbc", "four": "abca"}
    answers = {name: {f"t:{k}": label for k, label in enumerate(labels)} for name, labels in given.items()}
    found = disagreements(rows, answers)
    assert [(item.row.id, item.pairs) for item in found] == [("t:2", 5), ("t:1", 3), ("t:3", 3)]
    assert found[0].answers == (("a", ("one", "two")), ("b", ("three",)), ("c", ("four",)))
    assert found[1].answers == (("b", ("two", "three", "four")), ("a", ("one",)))
    assert disagreements(rows, answers, limit=1) == found[:1]


def test_a_candidate_without_an_answer_has_no_part_in_it() -> None:
    rows = rows_of(["a"])
    assert disagreements(rows, {"one": {"t:0": "a"}, "two": {}}) == []
    assert disagreements([], {}) == []
