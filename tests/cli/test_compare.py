"""The verb `compare`: settings from a YAML file and the command line, and what it warns about."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.commands import Call, write_table, write_topics, write_yaml
from tunewright.cli.summary import said_of_probabilities, said_of_slices
from tunewright.runs.comparison import Candidate
from tunewright.runs.measurements import Calibration, Coverage, Gap, Slice
from tunewright.types import Estimate


@pytest.fixture
def model(tiny_folder: Callable[[str], Path]) -> str:
    return str(tiny_folder("bert"))


def test_yaml_with_everything_and_the_command_line_on_top(call: Call, model: str, tmp_path: Path) -> None:
    """Every field is in the file; the command line changes two of them."""
    columns = ("id", "message", "kind")
    topics = [("food", "bread"), ("travel", "train"), ("music", "song")]
    tables = {}
    for split, count in (("data", 12), ("dev", 3), ("test", 6)):
        rows = [(str(k), f"the {topics[k % 3][1]} {split} {k}", topics[k % 3][0]) for k in range(count)]
        tables[split] = str(write_table(tmp_path / f"{split}.csv", columns, rows))
    words = write_yaml(tmp_path / "words.yaml", {"food": "eating", "travel": "going places", "music": "songs"})
    settings = {
        **tables,
        "text": "message",
        "text_pair": "id",
        "label": "kind",
        "task": "classify",
        "label_separator": None,
        "choices": [],
        "database": None,
        "documents": None,
        "reasoning": None,
        "input": None,
        "target": None,
        "template": None,
        "descriptions": str(words),
        "rows": 9,
        "model": [model],
        "methods": ["linear-probe", "majority"],
        "trials": 4,
        "budget": "30m",
        "seeds": 3,
        "seed": 5,
        "metric": "macro-f1",
        "margin": 2,
        "max_cost": 7.5,
        "prices": str(write_yaml(tmp_path / "prices.yaml", {"usd_per_hour": 0.2})),
        "requests_per_day": 10.0,
        "months": 6.0,
        "require": ["bytes<=5MB"],
        "predictions": [],
        "folds": 1,
        "repeats": 1,
        "slice": ["len>16"],
        "swap": str(write_yaml(tmp_path / "swap.yaml", [["bread", "song"]])),
        "error_costs": str(write_yaml(tmp_path / "costs.yaml", {"food": {"travel": 5}})),
        "pruning": False,
        "max_tokens": 16,
        "start_from": None,
        "keep_state": True,
        "retention": None,
        "out": str(tmp_path / "elsewhere"),
    }
    config = write_yaml(tmp_path / "run.yaml", settings)
    out = tmp_path / "run"
    done = call("compare", "--config", config, "--trials", "1", "--seeds", "1", "--out", out)
    assert done.code == 0, done
    assert not (tmp_path / "elsewhere").exists()
    kept = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    expected = settings | {"trials": 1, "seeds": 1, "budget": 1800.0}
    del expected["out"]
    assert kept == expected
    result = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [c["id"] for c in result["candidates"]] == ["majority", "linear-probe"]
    assert (result["task"]["n_train"], result["task"]["n_dev"], result["task"]["n_test"]) == (9, 3, 6)
    assert result["task"]["metric"] == "macro-f1"
    assert result["decision"]["margin"] == 2
    assert all([s["seed"] for s in c["seeds"]] == [0] for c in result["candidates"])
    assert "macro-f1 on 6 test rows" in done.out
    assert result["decision"]["reason"] in done.out


def test_warnings_are_said_and_kept(call: Call, model: str, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv", 30)
    first, second = data.read_text(encoding="utf-8").splitlines()[1:3]
    with data.open("a", encoding="utf-8") as file:
        file.write(f"{'bread and ' * 60},food\n{'the train ' * 60},travel\n")
    test = tmp_path / "t.csv"
    # Twins differ in case and punctuation only.
    twins = f"{first.upper().rsplit(',', 1)[0]}!,food\n{second}\n"
    test.write_text(f"text,label\n{twins}a new choir,music\nan old painting,art\na film,cinema\n", encoding="utf-8")
    out = tmp_path / "run"
    given = ["--model", model, "--methods", "majority,linear-probe", "--trials", "2", "--seeds", "1"]
    done = call("compare", data, "--test", test, *given, "--out", out)
    assert done.code == 0, done
    said = [line for line in done.err.splitlines() if " trial " not in line and " seed " not in line]
    cut = next(line for line in said if "longer than" in line)
    assert cut.startswith(f"2 of 37 texts are longer than 64 tokens of {Path(model).name} and were cut (first: train:3")
    assert any("2 rows stand in two of the given splits (first: test:1 = train:1)" in line for line in said)
    assert any("2 test rows have labels absent from train ('art', 'cinema')" in line for line in said)
    notices = {n["code"]: n for n in json.loads((out / "data.json").read_text(encoding="utf-8"))["notices"]}
    assert notices["duplicates-across-splits"]["ids"] == ["test:1", "test:2"]
    assert notices["unseen-labels-in-test"]["ids"] == ["test:4", "test:5"]
    assert notices["unseen-labels-in-test"]["count"] == 2
    assert notices["cut-texts"]["ids"] == ["train:31", "train:32"]
    log = (out / "log.txt").read_text(encoding="utf-8")
    assert all(line in log for line in said)
    result = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    checks = {check["code"]: check for check in result["checks"]}
    for code, value in (
        ("duplicates-across-splits", 2.0), ("class-missing-in-train", 2.0), ("cut-texts", 100 * 2 / 37),
    ):  # fmt: skip
        assert (checks[code]["passed"], checks[code]["value"]) == (False, value)
        assert f"  {code}: {checks[code]['sentence']}" in done.out
    for candidate in result["candidates"]:
        answers = (out / "predictions" / candidate["id"] / "seed-0.jsonl").read_text(encoding="utf-8").splitlines()
        true = ["food", "travel", "music", "art", "cinema"]
        right = sum(json.loads(a)["label"] == label for a, label in zip(answers, true, strict=True))
        assert candidate["test"]["value"] == right / 5  # the two unseen labels are wrong by necessity
        assert candidate["test"]["value"] <= 3 / 5


def test_summary_fits_a_terminal(call: Call, model: str, tmp_path: Path) -> None:
    """No number of the table is cut at 80 columns."""
    data = write_topics(tmp_path / "d.csv", 30)
    given = [
        "--model",
        model,
        "--methods",
        "gradual-unfreezing,majority",
        "--trials",
        "1",
        "--seeds",
        "1",
        "--folds",
        "1",
    ]
    done = dataclasses.replace(call, columns=80)("compare", data, *given, "--out", tmp_path / "run")
    assert done.code == 0, done
    assert "\u2026" not in done.out
    assert "gradual-unfreezing" in done.out


def test_probabilities_and_slices_are_said() -> None:
    """Where there is something to say; a gap whose interval holds nought is not called one."""
    bare = Candidate(id="a", method="a", family="no training", backbone="b", status="ok")
    assert (said_of_probabilities(bare, "accuracy"), said_of_slices(bare)) == ("", "")
    curve = tuple(Coverage(threshold=t, coverage=c, risk=r) for t, c, r in ((0.2, 1, 0.3), (0.7, 0.6, 0.1)))
    plain = Calibration(temperature=1.0, error_before=0.05, error=0.05, curve=curve)
    assert said_of_probabilities(dataclasses.replace(bare, calibration=plain), "accuracy") == ""
    found = dataclasses.replace(plain, temperature=2.0, error=0.01, threshold=0.7, mean_error_cost=0.25)
    assert said_of_probabilities(dataclasses.replace(bare, calibration=found), "accuracy") == (
        "Probabilities: off by 1.0 points on average (5.0 before calibration); answering only what is at least 70% "
        "sure leaves 40% of the rows to somebody else, and 10.0% of the others are answered wrongly instead of "
        "30.0% of all; the answers of least expected cost cost 0.25 each (decided on accuracy)."
    )
    slices = tuple(
        Slice(rule=rule, value=Estimate(value=value, low=value - 0.1, high=value + 0.1, n=40))
        for rule, value in (("lang=de", 0.8), ("len>9", 0.7), ("len<=9", 0.85))
    )
    small = Gap(rule="lang=de", difference=-0.02, low=-0.1, high=0.1)
    gaps = (small, Gap(rule="len>9", difference=-0.15, low=-0.25, high=-0.05))
    sliced = dataclasses.replace(bare, slices=slices, gaps=gaps)
    assert said_of_slices(sliced) == (
        "Worst slice: len>9, 70.0% (60.0 to 80.0%, n = 40); -15.0 points against the rest (-25.0 to -5.0, widened "
        "because the worst was picked)."
    )
    assert said_of_slices(dataclasses.replace(sliced, gaps=gaps[:1])).endswith(
        "worst was picked), so not shown to be worse."
    )
