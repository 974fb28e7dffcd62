"""`comparison.json`: schema 1 key for key, there and back, and what is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tunewright.errors import RunError
from tunewright.runs import comparison as schema

CONTENT: dict[str, Any] = {
    "schema_version": 1,
    "task": {
        "name": "tickets", "kind": "classify", "metric": "accuracy", "labels": ["no", "yes"], "chance": 0.5,
        "n_train": 70, "n_dev": 10, "n_test": 20,
    },
    "backbones": [
        {"id": "minilm", "name": "MiniLM", "kind": "encoder", "parameters": 22, "sha256": "ab", "dtype": "bf16"}
    ],
    "candidates": [
        {
            "id": "lora", "method": "lora", "family": "fine-tuning", "backbone": "minilm", "status": "ok",
            "reason": None, "params": {"rank": 8, "lr": 0.001, "bias": False, "targets": "all"},
            "parts": ["lora", "head"], "trials": 4,
            "seeds": [
                {"seed": 0, "dev": 0.9, "test": 0.8, "shipped": True, "trial": None},
                {"seed": 1, "dev": None, "test": None, "shipped": False, "trial": 2},
            ],
            "dev": {"value": 0.9, "low": 0.6, "high": 0.98, "n": 10},
            "test": {"value": 0.8, "low": 0.58, "high": 0.92, "n": 20},
            "cost": {
                "tune_s": 1.5, "train_s": 0.5, "peak_memory_bytes": 10, "adapter_bytes": 20, "trainable_parameters": 30,
                "extra_tokens_per_request": 0.0, "latency_ms": 2.5, "price": 0.001, "predict_s": 0.2, "tokens": 900,
                "latency": [{"batch": 1, "p50_ms": 2.5, "p95_ms": 3.5}], "ownership": 12.5,
                "requests": {
                    "sent": 9, "known": 3, "retried": 1, "input_tokens": 900, "cached_tokens": 100, "output_tokens": 9,
                    "price": 0.002,
                },
            },
            "calibration": {
                "temperature": 1.5, "error_before": 0.1, "error": 0.05,
                "bins": [{"confidence": 0.7, "accuracy": {"value": 0.8, "low": 0.5, "high": 0.9, "n": 10}}],
                "threshold": 0.6,
                "curve": [{"threshold": 0.6, "coverage": 0.8, "risk": 0.1}], "mean_error_cost": 0.3,
            },
            "slices": [{"rule": "lang=de", "value": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 6}}],
            "gaps": [{"rule": "lang=de", "difference": -0.3, "low": -0.6, "high": 0.0}],
            "flips": [
                {"terms": ["he", "she"], "rows": 7, "flipped": {"value": 0.1, "low": 0.0, "high": 0.4, "n": 7}}
            ],
            "retention": {"base": 2.5, "attached": 0.1, "detached": 0.0, "tokens": 900, "reason": None},
            "remarks": ["3 of 9 queries could not be run"],
            "illegal_share": 0.25,
            "unmet": ["latency_p95_ms<=3: it has 3.5"],
        },
        {
            "id": "prefix", "method": "prefix", "family": "soft prompts", "backbone": "minilm", "status": "skipped",
            "reason": "this base drops it", "params": {}, "parts": [], "trials": 0, "seeds": [],
            "dev": None, "test": None,
            "cost": {
                "tune_s": None, "train_s": None, "peak_memory_bytes": None, "adapter_bytes": None,
                "trainable_parameters": None, "extra_tokens_per_request": None, "latency_ms": None, "price": None,
                "predict_s": None, "tokens": None, "latency": [], "ownership": None,
                "requests": None,
            },
            "calibration": None, "slices": [], "gaps": [], "flips": [], "retention": None, "remarks": [],
            "illegal_share": None,
            "unmet": [],
        },
    ],
    "pairs": [
        {
            "a": "a", "b": "b", "difference": 0.1, "low": -0.1, "high": 0.3, "p_value": 0.04, "p_adjusted": 0.08,
            "methods": {
                "difference": 0.05, "low": -0.2, "high": 0.3, "p_value": 0.4, "p_adjusted": 0.8, "seeds": 3,
            },
        },
        {
            "a": "a", "b": "c", "difference": 0.1, "low": -0.1, "high": 0.3, "p_value": 0.04, "p_adjusted": 0.08,
            "methods": None,
        },
    ],
    "decision": {
        "best": "a", "recommended": "b", "margin": 1.0, "prices": {"months": 12.0},
        "not_separated": [
            {"id": "b", "difference": -0.1, "rows_needed": 900},
            {"id": "c", "difference": 0.0, "rows_needed": None},
        ],
        "stability": 0.7, "corrected_value": None, "minimum_detectable_difference": 0.2, "verdict": "v", "reason": "r",
        "requirements": ["latency_p95_ms<=3"], "nearest_misses": ["b lacks 0.5 ms"],
    },
    "test_reads": 1,
    "provenance": {
        "command": "tunewright compare", "version": "0.1.0", "versions": {"torch": "2"}, "seed": 0,
        "started": "2026-01-01T00:00:00Z", "data_sha256": "cd",
    },
    "protocol": {"kind": "folds", "folds": 5, "repeats": 2, "reason": "too few rows"},
    "effort": [{"family": "fine-tuning", "trials": 4, "seconds": 1.5, "price": 0.1, "best": [None, 0.9]}],
    "ledger": {
        "wall_s": 9.0, "tuning_s": 5.0, "refits_s": 2.0, "test_s": 1.0, "cpu_s": 15.0, "gpu_s": None,
        "peak_memory_bytes": 5, "tokens": 900, "stored_bytes": 20, "price": 0.1, "requests": None,
        "budget_s": 10.0, "max_cost": None,
        "not_done": ["2 refits"],
    },
    "checks": [
        {"code": "few-rows", "passed": False, "value": 20.0, "sentence": "20 rows.", "touches": ["lora"]}
    ],
}  # fmt: skip


def changed(path: list[str | int], value: Any) -> dict[str, Any]:
    """A copy of the content with one place set."""
    content = copy.deepcopy(CONTENT)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def test_there_and_back_is_the_same_json() -> None:
    assert json.dumps(schema.to_json(schema.from_json(CONTENT))) == json.dumps(CONTENT)


def test_records_are_typed() -> None:
    comparison = schema.from_json(CONTENT)
    assert comparison.task.labels == ("no", "yes")
    assert comparison.candidates[0].test is not None
    assert comparison.candidates[0].test.high == 0.92
    assert comparison.candidates[1].test is None
    assert comparison.candidates[0].params == {"rank": 8, "lr": 0.001, "bias": False, "targets": "all"}
    assert type(comparison.candidates[0].params["bias"]) is bool
    assert comparison.decision is not None
    assert comparison.decision.not_separated[1].rows_needed is None


def test_save_and_load(tmp_path: Path) -> None:
    comparison = schema.from_json(CONTENT)
    schema.save(comparison, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text()) == CONTENT
    assert schema.load(tmp_path) == comparison


def test_unknown_keys_are_ignored_everywhere() -> None:
    expected = schema.from_json(CONTENT)
    for path in (["new"], ["task", "new"], ["candidates", 0, "cost", "new"], ["decision", "not_separated", 0, "new"]):
        assert schema.from_json(changed([*path], {"anything": 1})) == expected


def test_a_whole_number_may_stand_for_a_float() -> None:
    comparison = schema.from_json(changed(["task", "chance"], 1))
    assert type(comparison.task.chance) is float


def test_no_decision_where_nothing_was_finished() -> None:
    assert schema.from_json(changed(["decision"], None)).decision is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            changed(["schema_version"], 2),
            r"`schema_version` of comparison.json is 2. Allowed: up to 1. Update tunewright",
        ),
        (changed(["task", "n_test"], "20"), r"comparison.json.task.n_test must be a valid integer. Got '20'"),
        (changed(["task", "n_test"], True), r"comparison.json.task.n_test must be a valid integer. Got True"),
        (
            changed(["candidates", 1, "status"], "lost"),
            r"candidates\[1\].status must be 'ok', 'skipped' or 'failed'. Got 'lost'",
        ),
        (changed(["pairs", 0, "p_value"], None), r"pairs\[0\].p_value must be a valid number. Got None"),
        (changed(["candidates", 0, "test"], 0.8), r"candidates\[0\].test must be an object. Got 0.8"),
        (changed(["candidates"], {}), r"candidates must be a valid array. Got \{\}"),
        ({"schema_version": 1}, r"comparison.json lacks task, backbones, candidates, pairs"),
        ([], r"comparison.json must be an object. Got \[\]"),
    ],
)
def test_what_cannot_be_read_is_named(content: Any, message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        schema.from_json(content)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no comparison.json in"):
        schema.load(tmp_path)


def test_nan_is_not_written(tmp_path: Path) -> None:
    comparison = schema.from_json(changed(["task", "chance"], float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        schema.save(comparison, tmp_path)
    assert list(tmp_path.iterdir()) == []
