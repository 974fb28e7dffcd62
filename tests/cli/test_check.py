"""`tunewright check` on finished runs: exit codes, what is said, and what is refused."""

import json
import math
import shutil
import statistics
from pathlib import Path

import pytest
from scipy import stats

from tests.commands import Call
from tunewright.files import read_json, read_lines, write_json, write_text
from tunewright.runs import record


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))


def recommended(run: Path) -> str:
    return str(read_json(run / "comparison.json")["decision"]["recommended"])


def give_answers(run: Path, candidate: str, *, right: bool) -> None:
    """Overwrites what a candidate's seeds answered: all right, or all wrong."""
    truth = {row["id"]: row["label"] for row in read_lines(run / "test.jsonl")}
    labels = sorted(set(truth.values()))
    others = {label: labels[k - 1] for k, label in enumerate(labels)}
    for file in (run / "predictions" / candidate).glob("seed-?.jsonl"):
        answers = [{"id": row, "label": label if right else others[label]} for row, label in truth.items()]
        write_text(file, "".join(json.dumps(answer) + "\n" for answer in answers))


def test_least_value(call: Call, copy: Path) -> None:
    """Nine rows, all right: shown to be above a half, not told apart from .9; all wrong: shown to be below."""
    who = recommended(copy)
    give_answers(copy, who, right=True)
    passed = call("check", copy, "--min", "accuracy=0.5")
    assert passed.code == 0
    assert passed.out.startswith(f"passed: {who}: accuracy 1.0000 (one-sided 95% bounds 0.")
    unclear = call("check", copy, "--min", "accuracy=0.9")
    assert unclear.code == 3
    assert "not told apart from 0.9 by" in unclear.out
    give_answers(copy, who, right=False)
    assert call("check", copy, "--min", "accuracy=0.9").code == 1


def test_a_failure_outweighs_a_doubt_and_a_pass(call: Call, copy: Path) -> None:
    give_answers(copy, recommended(copy), right=True)
    done = call("check", copy, "--min", "accuracy=0.3", "--min", "macro-f1=0.2", "--min", "accuracy=0.95")
    assert done.code == 3
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["passed", "passed", "undecided"]


def test_against_an_old_run(call: Call, copy: Path, finished_run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(finished_run, tmp_path / "old"))
    give_answers(copy, recommended(copy), right=False)
    give_answers(old, recommended(old), right=True)
    assert call("check", copy, "--not-worse-than", old).code == 1
    better = call("check", old, "--not-worse-than", copy)
    assert better.code == 0
    assert "accuracy +100.00 points" in better.out
    same = call("check", old, "--not-worse-than", old)
    assert same.code == 3, "nine rows do not show that nothing is lost"
    assert call("check", old, "--not-worse-than", old, "--margin", "60").code == 0


def test_another_candidate(call: Call, copy: Path) -> None:
    give_answers(copy, "majority", right=True)
    assert "majority: accuracy 1.0000" in call("check", copy, "--min", "accuracy=0.5", "--candidate", "majority").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to check. Give --min METRIC=VALUE or --not-worse-than OLD_RUN."),
        (["--min", "acuracy=0.9"], "unknown metric 'acuracy'. Did you mean 'accuracy'?"),
        (["--min", "accuracy=90"], "`--min accuracy` must be a number from 0 to 1. Got '90'."),
        (["--min", "accuracy"], "`--min accuracy` must be a number from 0 to 1. Got ''."),
        (["--min", "accuracy=0.9", "--margin", "2"], "`margin` has no effect without --not-worse-than."),
        (["--min", "accuracy=0.9", "--margin", "-2"], "`margin` must be a number from 0 to 100. Got '-2'."),
        (["--min", "accuracy=0.9", "--candidate", "lorra"], "unknown candidate 'lorra'. Did you mean 'lora'?"),
    ],
)
def test_refused(call: Call, finished_run: Path, arguments: list[str], said: str) -> None:
    done = call("check", finished_run, *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_other_rows_are_refused(call: Call, copy: Path, finished_run: Path) -> None:
    rows = read_lines(copy / "test.jsonl")
    rows[0]["text"] += "!"
    write_text(copy / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    done = call("check", copy, "--not-worse-than", finished_run)
    assert done.code == 2
    assert "have different test rows. Give both the same --test file." in done.err


def test_rows_are_the_same_with_their_reasoning_and_messages(copy: Path, finished_run: Path) -> None:
    """Which are no question and the form of the text: versions added to a registry without them keep their hash."""
    before = record.read(finished_run).test_sha256
    rows = [row | {"reasoning": "so", "messages": [["user", row["text"]]]} for row in read_lines(copy / "test.jsonl")]
    write_text(copy / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = record.read(copy)
    assert {row.reasoning for row in found.rows} == {"so"}
    assert found.test_sha256 == before


def put_in_folds(run: Path) -> list[list[str]]:
    """Makes a run look as if judged in three folds; the rows of each."""
    content = read_json(run / "comparison.json")
    content["protocol"] |= {"kind": "folds", "folds": 3}
    write_json(run / "comparison.json", content)
    ids = [row["id"] for row in read_lines(run / "test.jsonl")]
    folds = [ids[k::3] for k in range(3)]
    data = read_json(run / "data.json")
    write_json(run / "data.json", data | {"folds": {f"r0-f{k}": {"test": rows} for k, rows in enumerate(folds)}})
    return folds


@pytest.mark.parametrize("chosen", [False, True])
def test_a_minimum_in_folds_is_of_the_method(chosen: bool, call: Call, copy: Path) -> None:
    """One-sided bounds of the corrected resampled t (Nadeau and Bengio 2003) with two degrees of freedom."""
    folds, who = put_in_folds(copy), recommended(copy)
    give_answers(copy, who, right=True)
    file = next((copy / "predictions" / who).glob("seed-0.jsonl"))
    labels = {line["id"]: line["label"] for line in read_lines(file)}
    others = sorted(set(labels.values()))
    wrong = {folds[0][0], folds[1][0], folds[1][1]}
    answers = {row: others[others.index(label) - 1] if row in wrong else label for row, label in labels.items()}
    write_text(
        file, "".join(json.dumps({"id": row, "label": answers[row], "probabilities": [1.0]}) + "\n" for row in labels)
    )
    values = [sum(row not in wrong for row in rows) / len(rows) for rows in folds]
    mean, n = sum(values) / 3, len(labels)
    over_rows = math.sqrt(len(wrong) / n * (1 - len(wrong) / n) / n)
    error = max(over_rows, math.sqrt((1 / 3 + 1 / 2) * statistics.variance(values)))
    choice = len(list((copy / "predictions").iterdir())) if chosen else 1
    half = stats.t.ppf(1 - 0.05 / choice, 2) * error
    done = call("check", copy, "--min", "accuracy=0.9", *(() if chosen else ("--candidate", who)))
    assert done.code == 3
    assert (
        f"accuracy {mean:.4f} (one-sided 95% bounds {max(0, mean - half):.4f} and {min(1, mean + half):.4f}" in done.out
    )


def test_folds_that_are_not_there_are_named(call: Call, copy: Path) -> None:
    folds = put_in_folds(copy)
    data = read_json(copy / "data.json")
    del data["folds"]["r0-f1"]
    write_json(copy / "data.json", data)
    done = call("check", copy, "--min", "accuracy=0.9")
    assert (done.code, done.out) == (2, "")
    assert f"data.json has no fold of {folds[1][0]}. Repeat the run or restore the file." in done.err


def test_folds_are_no_artefacts(call: Call, copy: Path, finished_run: Path) -> None:
    """Answers of several models are not paired as if one had given them, and the gate says whose they are."""
    put_in_folds(copy)
    done = call("check", copy, "--not-worse-than", finished_run)
    assert (done.code, done.out) == (2, "")
    assert f"{copy} was judged in folds, by several models. Give two runs with --folds 1." in done.err
    assert "itself not tested" in call("check", copy, "--min", "accuracy=0").out
    assert "itself not tested" not in call("check", finished_run, "--min", "accuracy=0").out
    assert "Not compared row by row: one was judged in folds" in call("report", finished_run, copy).out


def test_no_run_and_missing_answers_are_refused(call: Call, copy: Path, tmp_path: Path) -> None:
    assert call("check", tmp_path / "nowhere", "--min", "accuracy=0.9").code == 2
    who = recommended(copy)
    for file in (copy / "predictions" / who).glob("seed-?.jsonl"):
        write_text(file, "".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[1:]))
    done = call("check", copy, "--min", "accuracy=0.9")
    assert done.code == 2
    assert f"{who} of {copy} has no answer to" in done.err
    content = read_json(copy / "comparison.json")
    write_json(copy / "comparison.json", content | {"decision": None})
    assert "recommends no candidate. Name one with --candidate." in call("check", copy, "--min", "accuracy=0.9").err
