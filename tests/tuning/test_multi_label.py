"""Several labels a row: from the file to the report, and what was saved answers as it did."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

import tunewright as tw
from tests import tiny
from tests.cli.test_bad_input import refused
from tests.commands import Call, write_table
from tunewright.adapters import folder
from tunewright.errors import AdapterError
from tunewright.serve.cache import Cache
from tunewright.serve.tasks import Served
from tunewright.training.loss import binary_cross_entropy
from tunewright.tuning.progress import Silent
from tunewright.types import label_set

TOPICS = ("food", "music", "travel")
METHODS = ("majority", "zero-shot", "few-shot", "linear-probe", "soft-prompt", "lora")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def said(rng: np.random.Generator, topics: list[str]) -> str:
    words = [str(rng.choice(tiny.GROUPS[topic])) for topic in topics for _ in range(2)]
    return " ".join(rng.permutation([*words, *rng.choice(tiny.FILLERS, size=4)]).tolist())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(2)
    sets = [[topic for topic in TOPICS if rng.random() < 0.4] for _ in range(80)]
    rows = [(said(rng, each), "; ".join(each)) for each in sets]
    return write_table(tmp_path_factory.mktemp("sets") / "sets.csv", ("text", "topics"), rows)


@pytest.fixture(scope="module")
def run(data: Path, tiny_folder: Callable[[str], Path]) -> tw.Run:
    answered = data.read_text(encoding="utf-8").replace("topics", "predicted", 1)
    today = data.parent / "today.csv"
    today.write_text(answered, encoding="utf-8")
    return tw.compare(
        str(data), task="multi-label", label="topics", label_separator=";", model=str(tiny_folder("bert")), trials=3,
        seeds=1, methods=f"{','.join(METHODS)},nearest-target", predictions={"today": str(today)},
        out=str(data.parent / "run"), listener=Silent(),
    )  # fmt: skip


def test_every_method_answers_with_sets(run: tw.Run) -> None:
    by_id = {candidate.id: candidate for candidate in run.comparison.candidates}
    assert {name: c.status for name, c in by_id.items()} == {
        **dict.fromkeys((*METHODS, "today"), "ok"),
        "nearest-target": "skipped",
    }
    assert by_id["nearest-target"].reason == "it does not answer with several labels"
    assert by_id["majority"].is_floor
    assert (run.comparison.task.kind, run.comparison.task.labels) == ("multi-label", TOPICS)
    page = run.report.read_text(encoding="utf-8")
    assert "each label is judged by itself" in page


def test_figures_are_scikit_learns(run: tw.Run) -> None:
    truth = [label_set(row["label"]) for row in lines(run.folder / "test.jsonl")]
    for candidate in run.comparison.candidates:
        if candidate.test is None:
            continue
        given = lines(run.folder / "predictions" / candidate.id / "seed-0.jsonl")
        is_in = [
            np.array([[topic in each for topic in TOPICS] for each in sets])
            for sets in (truth, [label_set(row["label"]) for row in given])
        ]
        value = f1_score(*is_in, average="micro", zero_division=0)
        assert candidate.test.value == pytest.approx(value, abs=1e-12)
    constant = {row["label"] for row in lines(run.folder / "predictions" / "majority" / "seed-0.jsonl")}
    assert len(constant) == 1


@pytest.mark.parametrize("name", METHODS)
def test_what_was_saved_answers_alike(run: tw.Run, name: str) -> None:
    """In another order and alone; labels are those whose probability is above the threshold's."""
    rows, given = lines(run.folder / "test.jsonl"), lines(run.folder / "predictions" / name / "seed-0.jsonl")
    predictor, adapter = run[name], folder.load(run.adapter_folder(name))
    again = predictor.predict([row["text"] for row in reversed(rows)])[::-1]
    assert [each.label for each in again] == [row["label"] for row in given]
    np.testing.assert_allclose([p.probabilities for p in again], [row["probabilities"] for row in given], atol=2e-5)
    assert predictor.predict([rows[0]["text"]])[0].label == given[0]["label"]
    assert adapter.thresholds is not None
    least_C = adapter.thresholds.logits_C.sigmoid().numpy()
    for row in given:
        above = [topic for topic, p, least in zip(TOPICS, row["probabilities"], least_C, strict=True) if p > least]
        assert row["label"] == "|".join(above)


def test_the_command_line_reads_and_writes_sets(
    run: tw.Run, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call, adapter = Call(monkeypatch=monkeypatch, capsys=capsys), run.adapter_folder("linear-probe")
    assert call("evaluate", adapter, data, "--metric", "accuracy").out.startswith("accuracy 0.")
    assert call("evaluate", adapter, data).out.startswith("multi-label-micro-f1 0.")
    assert call("predict", adapter, data).out.startswith("text,topics,predicted,p_food,p_music,p_travel\n")
    assert "unknown metric 'macro-f1'" in refused(
        call, "evaluate", adapter, data, "--metric", "macro-f1", where=data.parent
    )


def test_settings_without_use_are_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    out = refused(call, "compare", data, "--label-separator", ";", where=data.parent)
    assert "`label_separator` has no use with --task classify" in out
    assert "Or add --task multi-label" in out


def test_the_server_says_that_it_cannot(run: tw.Run) -> None:
    cache = Cache(limit_bytes=1, max_bases=2, on_loaded=lambda: None)
    with pytest.raises(AdapterError, match="answers with several labels, which is not served"):
        cache.load(Served(task="sets", version=1, folder=str(run.adapter_folder("linear-probe"))))


def test_the_loss_is_torchs_own() -> None:
    logits_BC, sets_BC = tiny.normal(0, 5, 3), (tiny.normal(1, 5, 3) > 0).float()
    found = binary_cross_entropy(logits_BC, sets_BC)
    expected = nn.BCEWithLogitsLoss(reduction="none")(logits_BC, sets_BC).sum(1).mean()
    torch.testing.assert_close(found.total / found.count, expected, rtol=0, atol=1e-6)
