"""A run whose answers are texts: floors, files, figures and page, from the command line to the report."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

import tunewright as tw
from tests.cli.test_bad_input import refused
from tests.commands import Call, write_meanings, write_table
from tunewright.runs.comparison import Candidate
from tunewright.tuning.progress import Silent

FLOORS = ("copy-input", "nearest-target")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meanings(tmp_path_factory.mktemp("data") / "pubs.csv")


@pytest.fixture(scope="module")
def run(data: Path, tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tw.Run:
    """Floors, an encoder that cannot write, and answers from elsewhere."""
    folder = tmp_path_factory.mktemp("generate")
    with data.open(encoding="utf-8") as file:
        answers = {row["mr"]: row["ref"] for row in csv.DictReader(file)}
    today = write_table(folder / "today.csv", ("mr", "predicted"), list(answers.items()))
    return tw.compare(
        str(data), task="generate", input="mr", target="ref", model=str(tiny_folder("bert")), trials=1, seeds=2,
        methods="copy-input,nearest-target,lora,majority", predictions={"today": today}, slice=("len>30",),
        out=str(folder / "run"), listener=Silent(),
    )  # fmt: skip


@pytest.fixture
def by_id(run: tw.Run) -> dict[str, Candidate]:
    return {candidate.id: candidate for candidate in run.comparison.candidates}


def test_who_cannot_write_is_said(by_id: dict[str, Candidate]) -> None:
    assert {name: c.status for name, c in by_id.items()} == {
        "copy-input": "ok", "nearest-target": "ok", "today": "ok", "lora": "skipped", "majority": "skipped",
    }  # fmt: skip
    assert by_id["majority"].reason == "it chooses labels, not texts"


def test_each_input_is_judged_once_against_all_its_references(run: tw.Run) -> None:
    test = lines(run.folder / "test.jsonl")
    assert len({row["text"] for row in test}) == len(test) == run.comparison.task.n_test
    assert all(len(row["references"]) == 2 and row["target"] == row["references"][0] for row in test)
    split = json.loads((run.folder / "data.json").read_text())["splits"]
    assert split["train"]
    assert not {row["id"] for row in test} & set(split["train"])
    assert (run.comparison.task.kind, run.comparison.task.chance, run.comparison.task.labels) == ("generate", None, ())


def test_no_input_is_on_both_sides(run: tw.Run, data: Path) -> None:
    with data.open(encoding="utf-8") as file:
        inputs = [row["mr"] for row in csv.DictReader(file)]
    split = json.loads((run.folder / "data.json").read_text())["splits"]
    sides = [{inputs[int(row.rpartition(":")[2]) - 1] for row in split[name]} for name in ("train", "dev", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 30


def test_figures_are_rouge_scores(run: tw.Run, by_id: dict[str, Candidate]) -> None:
    test, scorer = lines(run.folder / "test.jsonl"), RougeScorer(["rougeL"])
    for name in (*FLOORS, "today"):
        answers = lines(run.folder / "predictions" / name / "seed-0.jsonl")
        assert [row["id"] for row in answers] == [row["id"] for row in test]
        assert all(row["label"] is None for row in answers)
        scores = [
            scorer.score_multi(row["references"], a["text"])["rougeL"].fmeasure
            for row, a in zip(test, answers, strict=True)
        ]
        found = by_id[name].test
        assert found is not None
        assert found.value == pytest.approx(sum(scores) / len(scores), abs=1e-9)
        assert found.low < found.value <= found.high or found.value == 1
    assert by_id["today"].test is not None
    assert by_id["today"].test.value == 1.0


def test_the_floors_answer_what_they_say(run: tw.Run) -> None:
    test = lines(run.folder / "test.jsonl")
    copied = lines(run.folder / "predictions" / "copy-input" / "seed-0.jsonl")
    assert [row["text"] for row in copied] == [row["text"] for row in test]
    nearest = run["nearest-target"].adapter.nearest_target
    assert nearest is not None
    assert {row["text"] for row in lines(run.folder / "predictions" / "nearest-target" / "seed-0.jsonl")} <= set(
        nearest.targets
    )
    assert not {row["text"] for row in test} & set(nearest.texts)


def test_floors_are_floors(run: tw.Run, by_id: dict[str, Candidate]) -> None:
    assert [by_id[name].is_floor for name in (*FLOORS, "today")] == [True, True, False]
    checks = {check.code: check for check in run.comparison.checks}
    assert checks["not-reproducible"].passed
    assert "is shown to be better than" in checks["not-above-floor"].sentence
    assert by_id["copy-input"].calibration is None
    assert [part.rule for part in by_id["copy-input"].slices] == ["len>30", "len<=30"]


def test_the_page_shows_texts_and_no_classes(run: tw.Run) -> None:
    page, short = run.report.read_text(encoding="utf-8"), run.report.with_suffix(".md").read_text(encoding="utf-8")
    assert "What they wrote" in page
    assert 'id="classes"' not in page
    assert 'id="calibration"' not in page
    assert "classes" not in short
    assert "chance" not in short
    for row in lines(run.folder / "test.jsonl")[:3]:
        assert row["references"][1] in page


def test_predict_and_evaluate(run: tw.Run, data: Path, call: Call) -> None:
    adapter = run.adapter_folder("copy-input")
    done = call("predict", adapter, data)
    rows = list(csv.DictReader(done.out.splitlines()))
    assert [row["predicted"] for row in rows] == [row["mr"] for row in rows]
    assert not [name for name in rows[0] if name.startswith("p_")]
    done = call("evaluate", adapter, data, "--metric", "bleu")
    with data.open(encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    inputs = list(dict.fromkeys(row["mr"] for row in pairs))
    references = [[[row["ref"] for row in pairs if row["mr"] == mr][k] for mr in inputs] for k in range(2)]
    expected = BLEU().corpus_score(inputs, references).score / 100
    assert done.out.startswith(f"bleu {expected:.4f} ")
    assert "n = 30" in done.out


def test_folds(data: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Every input is answered once, by floors that had not seen it."""
    run = tw.compare(
        str(data), task="generate", model=str(tiny_folder("bert")), trials=1, seeds=1, folds=3, metric="chrf",
        methods="copy-input,nearest-target", out=str(tmp_path / "run"), listener=Silent(),
    )  # fmt: skip
    assert run.comparison.task.n_test == 30
    answers = lines(run.folder / "predictions" / "nearest-target" / "seed-0.jsonl")
    test = lines(run.folder / "test.jsonl")
    assert [row["id"] for row in answers] == [row["id"] for row in test]
    for row, answer in zip(test, answers, strict=True):
        assert answer["text"] not in row["references"] or row["text"].split(",")[0] not in answer["text"]
    assert run.decision.reason.startswith("The method ")


def test_what_is_cut_is_told(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Targets beyond half of the context, and inputs beyond what these leave."""
    words = ("bread", "song", "train", "map", "rice", "choir", "salt", "road", "drum", "cake", "apple", "hotel")
    rows = [(f"{word} and the {other}", f"good {word}") for word in words for other in ("old", "new")]
    rows[3] = (rows[3][0], "some good " * 40)
    long = "the old and new " * 12
    rows[5] = (long, "good long")
    data = write_table(tmp_path / "d.csv", ("input", "target"), rows)
    run = tw.compare(
        str(data), task="generate", model=str(tiny_folder("llama")), trials=1, seeds=1, methods="copy-input,zero-shot",
        dev=str(write_table(tmp_path / "dev.csv", ("input", "target"), rows[:2])),
        test=str(write_table(tmp_path / "test.csv", ("input", "target"), rows[6:9])),
        out=str(tmp_path / "run"), listener=Silent(),
    )  # fmt: skip
    told = {each["code"]: each for each in json.loads((run.folder / "data.json").read_text())["notices"]}
    assert told["cut-targets"]["ids"] == ["train:4"]
    assert "1 of 24 training targets is longer than 32 tokens" in told["cut-targets"]["message"]
    assert told["cut-texts"]["ids"] == ["train:6"]
    assert re.search(r" is longer than 32 tokens of \S+ and was cut ", told["cut-texts"]["message"])


FAULTS: dict[str, tuple[list[str], list[str]]] = {
    "settings of labels": (
        ["--task", "generate", "--label", "ref", "--text", "mr", "--swap", "s.yaml"],
        ["`label` has no use with --task generate", "--target", "`text` has no use", "--input", "`swap` has no use"],
    ),
    "settings of texts": (["--target", "ref"], ["`target` has no use with --task classify", "Or add --task generate"]),
    "a metric of labels": (["--task", "generate", "--metric", "accuracy"], ["accuracy", "rouge-l, bleu, chrf"]),
    "no such task": (["--task", "translate"], ["`task` must be 'classify'", "'generate'", "'translate'"]),
    "no such column": (["--task", "generate", "--target", "reff"], ["'reff'", "Did you mean 'ref'"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_mistakes(name: str, data: Path, call: Call, tmp_path: Path) -> None:
    arguments, phrases = FAULTS[name]
    said = refused(call, "compare", data, *arguments, "--out", tmp_path / "run", where=tmp_path)
    assert [phrase for phrase in phrases if phrase not in said] == [], said


TABLES: dict[str, tuple[str, list[str]]] = {
    "missing targets": (
        "input,target\na b,x\nc d,\ne f,nan\n",
        ["missing targets in column 'target'", "2 of 3 rows", "row 2, 3"],
    ),
    "one target": ("input,target\na b,x\nc d,x\ne f,x\n", ["only one target", "'x'", "--target"]),
    "one input": (
        "input,target\na b,x\nA B!,y\na  b,z\n",
        ["3 rows but only 1 different input", "need 3", "--dev and --test"],
    ),
    "which is the target": (
        "input,left,right\na b,x y,u v\nc d,w,z\n",
        ["ambiguous target column", "'left', 'right'", "--target"],
    ),
    "empty input": ("input,target\n,x\nc d,y\n", ["missing texts in column 'input'"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_data_that_cannot_be_used(name: str, call: Call, tmp_path: Path) -> None:
    content, phrases = TABLES[name]
    (tmp_path / "d.csv").write_text(content)
    said = refused(call, "compare", tmp_path / "d.csv", "--task", "generate", "--out", tmp_path / "r", where=tmp_path)
    assert [phrase for phrase in phrases if phrase not in said] == [], said


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(monkeypatch=monkeypatch, capsys=capsys)
