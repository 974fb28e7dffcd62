"""The verb `evaluate`: a metric with its interval on labelled rows."""

import csv
import re
from pathlib import Path

import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from tests.commands import Call, Done, write_topics
from tunewright.api import Run


@pytest.fixture(scope="session")
def adapter(finished_run: Path) -> Path:
    return Run(finished_run).adapter_folder("lora")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_topics(tmp_path / "new.csv", 40, seed=3)


def answered(finished_run: Path, data: Path) -> tuple[list[str], list[str]]:
    """True and predicted labels."""
    with data.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = Run(finished_run)["lora"].predict([row["text"] for row in rows])
    return [row["label"] for row in rows], [p.answer for p in found]


def numbers(done: Done) -> tuple[str, list[float]]:
    """Metric, then value, low, high and n of the printed line."""
    assert done.code == 0, done
    match = re.match(r"(\S+) ([\d.]+) \(95% interval ([\d.]+) to ([\d.]+), n = (\d+)\)", done.out)
    assert match is not None, done.out
    return match[1], [float(match[k]) for k in range(2, 6)]


def test_accuracy(call: Call, adapter: Path, finished_run: Path, data: Path) -> None:
    name, (value, low, high, n) = numbers(call("evaluate", adapter, data))
    true, predicted = answered(finished_run, data)
    assert name == "accuracy"
    assert value == pytest.approx(accuracy_score(true, predicted), abs=5e-5)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    wilson = binomtest(right, 40).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=5e-5)
    assert n == 40


def test_macro_f1(call: Call, adapter: Path, finished_run: Path, data: Path) -> None:
    name, (value, low, high, n) = numbers(call("evaluate", adapter, data, "--metric", "macro-f1"))
    true, predicted = answered(finished_run, data)
    assert name == "macro-f1"
    assert value == pytest.approx(f1_score(true, predicted, average="macro"), abs=5e-5)
    assert low <= value <= high
    assert n == 40


def test_unknown_labels_count_as_wrong(call: Call, adapter: Path, finished_run: Path, data: Path) -> None:
    true, predicted = answered(finished_run, data)
    with data.open("a", encoding="utf-8") as file:
        file.write("an old painting,art\n" * 10)
    done = call("evaluate", adapter, data)
    _, (value, _, _, n) = numbers(done)
    assert value == pytest.approx(sum(t == p for t, p in zip(true, predicted, strict=True)) / 50, abs=5e-5)
    assert n == 50
    assert "10 rows have labels the adapter does not know; they count as wrong" in done.out


def test_columns_of_other_names(call: Call, adapter: Path, data: Path) -> None:
    expected = call("evaluate", adapter, data)
    data.write_text(data.read_text(encoding="utf-8").replace("text,label", "what,kind"), encoding="utf-8")
    named = call("evaluate", adapter, data, "--text", "what", "--label", "kind")
    found = call("evaluate", adapter, data, "--label", "kind")
    assert named == expected
    assert found.out == expected.out
    assert re.search(r"^note: Columns: text = `what` \(by rule: .*\), label = `kind` \(as given\)\.$", found.err)
