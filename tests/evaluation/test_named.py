"""Metrics that the user brings, and what may be taken from a folder."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tunewright.errors import ConfigError, RunError
from tunewright.evaluation import bootstrap
from tunewright.evaluation.metrics import METRICS, Scorer
from tunewright.evaluation.named import find_metric, is_stored, stored_metric

CODE = """
IMPORTED = True

def close(answer: str, references: tuple[str, ...]) -> float:
    return max(len(set(answer) & set(each)) / max(1, len(set(answer) | set(each))) for each in references)

def wrong(answer, references):
    return 7

def no_number(answer, references):
    return "good"

def breaks(answer, references):
    return 1 / 0
"""


@pytest.fixture(autouse=True)
def _own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_measure.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_measure", raising=False)


def test_a_function_judges_row_by_row() -> None:
    metric = find_metric("own_measure:close", "generate")
    scorer = Scorer(metric=metric, references=[("abc", "xyz"), ("ab",), ("q",)])
    stats_NM = scorer.stats(["xyz", "abcd", "a"])
    np.testing.assert_allclose(stats_NM[:, 0], [1, 0.5, 0], atol=1e-12)
    assert scorer.value(stats_NM) == pytest.approx(0.5, abs=1e-12)
    weights_RN = np.array([[2, 1, 0], [0, 0, 3]], dtype=np.float32)
    np.testing.assert_allclose(metric.values(stats_NM, weights_RN), [2.5 / 3, 0], atol=1e-7)
    assert not scorer.is_binomial
    assert 0 <= bootstrap.interval(scorer, stats_NM, np.random.default_rng(0)).low <= 0.5


def test_labels_are_judged_too() -> None:
    scorer = Scorer(metric=find_metric("own_measure:close", "classify"), references=[("ab",)], labels=("ab", "a"))
    assert scorer.stats(["a"]).tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_measure:absent", r"own_measure has no function 'absent'"),
        ("own_measure:IMPORTED", r"no function 'IMPORTED'"),
        ("no_such_module_here:f", r"'no_such_module_here' cannot be imported"),
        ("own_measure", r"unknown metric 'own_measure'.*module:function"),
        (":f", r"unknown metric"),
    ],
)
def test_what_is_no_function_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        find_metric(name, "generate")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", r"must return a number from 0 to 1. Got 7 for the answer 'a'"),
        ("no_number", r"must return a number from 0 to 1. Got 'good'"),
        ("breaks", r"failed on the answer 'a' \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_function_that_fails_is_told(name: str, said: str) -> None:
    scorer = Scorer(metric=find_metric(f"own_measure:{name}", "generate"), references=[("a",)])
    with pytest.raises(ConfigError, match=said):
        scorer.stats(["a"])


def test_nothing_is_imported_for_a_name_in_a_folder() -> None:
    for name in ("own_measure:close", "sql-execution"):
        assert not is_stored(name)
        with pytest.raises(RunError, match=r"not taken from a folder"):
            stored_metric(name)
    assert "own_measure" not in sys.modules
    assert stored_metric("bleu") is METRICS["bleu"]


def test_an_entry_point_is_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "own_measure-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-measure\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tunewright.metrics]\ncloseness = own_measure:close\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    metric = find_metric("closeness", "generate")
    assert metric.name == "closeness"
    assert Scorer(metric=metric, references=[("ab",)]).stats(["a"]).tolist() == [[0.5]]
