"""What stands beside the metric in a whole comparison, computed again from the files of its folder."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tunewright as tw
from tests import tiny
from tests.commands import write_table, write_topics, write_yaml
from tunewright.adapters import folder
from tunewright.data.swaps import swap
from tunewright.evaluation.calibration import calibration_error, fit_temperature
from tunewright.runs import record
from tunewright.runs.comparison import Candidate

METHODS = ("majority", "zero-shot", "linear-probe")
COSTS = {"food": {"music": 7.0}, "travel": {"travel": 0.5, "food": 0.0}}
TERMS = "- [bread, train]\n- [song, map]\n- [xylophone, tuba]\n"
NUM_DEV = 150
"""So many that a temperature is shown."""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def settings(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    where = tmp_path_factory.mktemp("candidates")
    rng = np.random.default_rng(3)
    examples = tiny.examples(240)
    rows = [(e.text, str(e.label), str(rng.choice(["de", "en", "fr"])), str(k)) for k, e in enumerate(examples)]
    (where / "swap.yaml").write_text(TERMS, encoding="utf-8")
    return {
        "data": str(write_table(where / "d.csv", ("text", "label", "lang", "n"), rows)),
        "dev": str(write_topics(where / "dev.csv", NUM_DEV, seed=8)),  # without the columns of the slices
        "model": str(tiny_folder("bert")),
        "methods": METHODS,
        "trials": 2,
        "seeds": 2,
        "slice": ["lang", "len>30", "n<=120"],
        "swap": str(where / "swap.yaml"),
        "error_costs": str(write_yaml(where / "costs.yaml", COSTS)),
        "out": str(where / "run"),
    }


@pytest.fixture(scope="module")
def run(settings: dict[str, Any]) -> tw.Run:
    return tw.compare(**settings)


@pytest.fixture(params=METHODS)
def candidate(request: pytest.FixtureRequest, run: tw.Run) -> Candidate:
    return next(c for c in run.comparison.candidates if c.id == request.param)


def answers(run: tw.Run, candidate: Candidate, split: str = "") -> list[dict[str, Any]]:
    return lines(run.folder / "predictions" / candidate.id / f"seed-{candidate.shipped_seed}{split}.jsonl")


def test_the_temperature_is_that_of_the_dev_answers(run: tw.Run, candidate: Candidate) -> None:
    """Fitted again on the logits that the stored probabilities were made from."""
    assert candidate.calibration is not None
    adapter = folder.load(run.adapter_folder(candidate.id))
    assert candidate.calibration.temperature == adapter.temperature
    dev = answers(run, candidate, ".dev")
    logits_NC = np.log([row["probabilities"] for row in dev]) * adapter.temperature
    true_N = np.array([adapter.labels.index(str(e.label)) for e in tiny.examples(NUM_DEV, seed=8)])
    assert fit_temperature(logits_NC, true_N) == pytest.approx(adapter.temperature, rel=1e-3)
    assert (adapter.temperature == 1) == (candidate.id != "zero-shot")


def test_what_is_stored_is_what_is_predicted(run: tw.Run, candidate: Candidate) -> None:
    rows = record.read(run.folder).rows
    for stored, fresh in zip(answers(run, candidate), run[candidate.id].predict(rows), strict=True):
        assert stored["label"] == fresh.label
        assert stored["probabilities"] == pytest.approx(fresh.probabilities, abs=1e-6)


def cost(true: str, answer: str) -> float:
    return COSTS.get(true, {}).get(answer, float(true != answer))


def expected_costs(labels: Sequence[str], probabilities: Sequence[float]) -> dict[str, float]:
    """Answer -> what it costs on average."""
    shares = list(zip(probabilities, labels, strict=True))
    return {answer: sum(p * cost(true, answer) for p, true in shares) for answer in labels}


def test_calibration(run: tw.Run, candidate: Candidate) -> None:
    found, rows, stored = candidate.calibration, record.read(run.folder).rows, answers(run, candidate)
    assert found is not None
    right_N = np.array([row.label == given["label"] for row, given in zip(rows, stored, strict=True)])
    probabilities_NC = np.array([given["probabilities"] for given in stored])
    assert found.error == pytest.approx(calibration_error(probabilities_NC.max(1), right_N), abs=1e-12)
    raw_NC = probabilities_NC**found.temperature
    raw_NC /= raw_NC.sum(1, keepdims=True)
    assert found.error_before == pytest.approx(calibration_error(raw_NC.max(1), right_N), abs=1e-9)
    assert candidate.test is not None
    assert found.curve[0].coverage == 1
    assert found.curve[0].risk == pytest.approx(1 - candidate.test.value)
    spent = []
    for row, given in zip(rows, stored, strict=True):
        costs = expected_costs(run.comparison.task.labels, given["probabilities"])
        spent.append(cost(str(row.label), min(costs, key=costs.__getitem__)))
    assert found.mean_error_cost == pytest.approx(sum(spent) / len(spent), abs=1e-9)


def test_slices(run: tw.Run, candidate: Candidate) -> None:
    rows = record.read(run.folder).rows
    right = [row.label == given["label"] for row, given in zip(rows, answers(run, candidate), strict=True)]
    inside = {f"lang={name}": [row.fields["lang"] == name for row in rows] for name in ("de", "en", "fr")}
    inside |= {"len>30": [len(row.text) > 30 for row in rows], "len<=30": [len(row.text) <= 30 for row in rows]}
    counts = [int(row.fields["n"]) for row in rows]
    inside |= {"n<=120": [n <= 120 for n in counts], "n>120": [n > 120 for n in counts]}
    assert {each.rule for each in candidate.slices} == set(inside)
    for each in candidate.slices:
        hits = [hit for hit, is_in in zip(right, inside[each.rule], strict=True) if is_in]
        assert (each.value.n, each.value.value) == (len(hits), sum(hits) / len(hits))
    assert len(candidate.gaps) == 3
    for gap in candidate.gaps:
        sides = list(zip(right, inside[gap.rule], strict=True))
        one, other = ([hit for hit, is_in in sides if is_in == side] for side in (True, False))
        assert gap.difference == pytest.approx(sum(one) / len(one) - sum(other) / len(other), abs=1e-12)
        assert gap.low < gap.difference < gap.high


def test_flips(run: tw.Run, candidate: Candidate) -> None:
    """Asked again, one text at a time."""
    rows, predictor = record.read(run.folder).rows, run[candidate.id]
    before = {given["id"]: given["label"] for given in answers(run, candidate)}
    assert [each.terms for each in candidate.flips] == [("bread", "train"), ("song", "map")]
    for each in candidate.flips:
        held = [row for row in rows if set(row.text.split()) & set(each.terms)]
        after = [predictor.predict([swap(row.text, (each.terms[0], each.terms[1]))])[0].label for row in held]
        changed = sum(before[row.id] != label for row, label in zip(held, after, strict=True))
        assert (each.rows, each.flipped.n, each.flipped.value) == (len(held), len(held), changed / len(held))
    assert any(each.flipped.value > 0 for each in candidate.flips) == (candidate.id != "majority")
    notices = record.read(run.folder).notices
    assert "No test row holds xylophone/tuba: swapping these terms says nothing." in [n.message for n in notices]


def test_a_resumed_run_does_not_ask_again(run: tw.Run, settings: dict[str, Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "run"))
    (copy / "comparison.json").unlink()
    stored = sorted(copy.rglob("predictions/**/*.jsonl"))
    assert len([path for path in stored if path.name.endswith(".swapped.jsonl")]) == len(METHODS)
    before = [path.stat().st_mtime_ns for path in stored]
    again = tw.compare(**{**settings, "out": str(copy)}, resume=True)
    assert [path.stat().st_mtime_ns for path in stored] == before
    for one, other in zip(again.comparison.candidates, run.comparison.candidates, strict=True):
        for name in ("calibration", "slices", "gaps", "flips"):
            assert getattr(one, name) == getattr(other, name)
