"""The verb `predict`: the user's rows come back with label and probabilities."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.commands import Call, write_table, write_topics
from tunewright.api import Run
from tunewright.types import Prediction

LABELS = ("food", "music", "travel")


@pytest.fixture(scope="session")
def adapter(finished_run: Path) -> Path:
    return Run(finished_run).adapter_folder("lora")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_topics(tmp_path / "new.csv", 20, seed=9)


@pytest.fixture
def expected(finished_run: Path, data: Path) -> list[Prediction]:
    """What the Python interface answers; more than one label is among it, so that an order can be seen."""
    with data.open(encoding="utf-8") as file:
        found = Run(finished_run)["lora"].predict([row["text"] for row in csv.DictReader(file)])
    assert len({p.label for p in found}) > 1
    assert len({p.probabilities for p in found}) == 20
    return found


def check(rows: list[dict[str, str]], data: Path, expected: list[Prediction]) -> None:
    """Own columns first and as they were, then the answers, row by row."""
    with data.open(encoding="utf-8") as file:
        given = list(csv.DictReader(file))
    assert [{key: row[key] for key in ("text", "label")} for row in rows] == given
    assert list(rows[0]) == ["text", "label", "predicted", *(f"p_{label}" for label in LABELS)]
    assert [row["predicted"] for row in rows] == [p.label for p in expected]
    for row, prediction in zip(rows, expected, strict=True):
        found = [float(row[f"p_{label}"]) for label in LABELS]
        assert found == pytest.approx(prediction.probabilities, abs=1e-6)
        assert LABELS[max(range(3), key=lambda k: found[k])] == row["predicted"]


def test_csv_on_the_terminal(call: Call, adapter: Path, data: Path, expected: list[Prediction]) -> None:
    done = call("predict", adapter, data)
    assert done.code == 0, done
    assert done.err == ""
    check(list(csv.DictReader(io.StringIO(done.out))), data, expected)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_files(ending: str, call: Call, adapter: Path, data: Path, expected: list[Prediction], tmp_path: Path) -> None:
    out = tmp_path / f"answers{ending}"
    done = call("predict", adapter, data, "--out", out)
    assert (done.code, done.out) == (0, ""), done
    text = out.read_text(encoding="utf-8")
    if ending == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if ending == ".tsv" else ","))
    check(rows, data, expected)


def test_columns_of_the_same_name_stay(call: Call, adapter: Path, tmp_path: Path) -> None:
    data = write_table(tmp_path / "d.csv", ("text", "predicted", "p_food"), [("the old bread", "mine", "0.25")])
    done = call("predict", adapter, data)
    row = next(csv.DictReader(io.StringIO(done.out)))
    assert (row["predicted"], row["p_food"]) == ("mine", "0.25")
    assert row["predicted_"] in LABELS
    assert 0 <= float(row["p_food_"]) <= 1
    assert done.err == "note: the file already has 'p_food', 'predicted'; the new ones are 'p_food_', 'predicted_'\n"


@pytest.mark.parametrize("num_cut", [1, 2])
def test_texts_that_are_too_long_are_counted(num_cut: int, call: Call, adapter: Path, tmp_path: Path) -> None:
    rows = [("bread", "food"), ("the train " * (60 if num_cut == 2 else 1), "travel"), ("a song " * 200, "music")]
    data = write_table(tmp_path / "d.csv", ("text", "label"), rows)
    done = call("predict", adapter, data)
    assert done.code == 0, done
    said = {
        1: "1 of 3 texts is longer than the model takes and was cut (first: d:3)",
        2: "2 of 3 texts are longer than the model takes and were cut (first: d:2, d:3)",
    }
    assert done.err == f"warning: {said[num_cut]}\n"
    assert len(done.out.splitlines()) == 4
    scored = call("evaluate", adapter, data)
    assert (scored.code, scored.err) == (0, done.err)


def test_column_of_another_name(call: Call, adapter: Path, data: Path) -> None:
    """Only the text is looked for: no column need be a label."""
    expected = call("predict", adapter, data)
    data.write_text(data.read_text(encoding="utf-8").replace("text,label", "message,n"), encoding="utf-8")
    answers = expected.out.replace("text,label", "message,n")
    named = call("predict", adapter, data, "--text", "message")
    assert (named.out, named.err) == (answers, "")
    found = call("predict", adapter, data)
    assert (found.out, found.err) == (answers, "note: Columns: text = `message` (by name).\n")


def test_own_values_keep_their_types(call: Call, adapter: Path, tmp_path: Path) -> None:
    rows = [{"n": 1, "x": 0.5, "ok": True, "tags": ["é", {"a": None}], "text": "the old bread"}, {"text": "a train"}]
    data = tmp_path / "d.jsonl"
    data.write_text("\n\n".join(map(json.dumps, [rows[0], {"text": " "}, rows[1]])), encoding="utf-8-sig")
    done = call("predict", adapter, data)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [{key: row[key] for key in row if not key.startswith("p")} for row in found] == rows
    assert all(row["predicted"] in LABELS for row in found)
    assert done.err == "note: 1 row is empty in all columns and left out.\n"
