"""A run folder with everything in it, made without the code under test."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewright.report.build import build_report

LABELS = ("refund", "delivery", "damaged item", "invoice", "account", "cancel", "change address", "praise")

HOSTILE = (
    '<script>alert("x")</script>\n\'"><img src=http://evil.example/x.png onerror=alert(1)> '
    "{{ 7*7 }} \\u202e \u202e\u00e9\U0001f600 "
)

# method, family, true accuracy, price, adapter bytes, trainable parameters, extra tokens, seconds of training
METHODS: tuple[tuple[str, str, float, float, int, int, float, float], ...] = (
    ("majority", "no training", 0.0, 0.0, 210, 0, 0.0, 0.002),
    ("zero-shot", "no training", 0.62, 0.000132, 5_120, 0, 0.0, 0.9),
    ("few-shot", "no training", 0.74, 0.000618, 1_310_720, 0, 0.0, 1.4),
    ("soft-prompt", "soft prompts", 0.84, 0.000201, 33_792, 10_752, 20.0, 41.0),
    ("prefix", "soft prompts", 0.85, 0.000164, 190_464, 49_160, 0.0, 38.2),
    ("linear-probe", "fine-tuning", 0.81, 0.000133, 12_480, 3_080, 0.0, 1.1),
    ("lora", "fine-tuning", 0.88, 0.000171, 1_204_224, 298_760, 0.0, 52.7),
    ("full", "fine-tuning", 0.885, 0.003271, 90_868_376, 22_716_296, 0.0, 148.0),
    ("gradual-unfreezing", "fine-tuning", 0.0, 0.0, 0, 0, 0.0, 0.0),
)
SKIPPED = {"gradual-unfreezing": "48 training rows are too few for four stages <b>& more</b>"}

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run folder: `make_run(labels=..., n_test=..., methods=..., hostile=...)`."""

    def make(
        *,
        labels: Sequence[str] = LABELS,
        n_test: int = 240,
        methods: Sequence[str] = tuple(method[0] for method in METHODS),
        hostile: bool = False,
        name: str = "run",
    ) -> Path:
        return write_run(tmp_path / name, labels=labels, n_test=n_test, methods=methods, hostile=hostile)

    return make


@pytest.fixture(scope="session")
def rich_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that fills every record, with its report: an outside system, folds, slices, checks, a ledger."""
    folder = tmp_path_factory.mktemp("report") / "rich"
    methods = [method[0] for method in METHODS]
    run = enrich(write_run(folder, labels=LABELS, n_test=240, methods=methods, hostile=False))
    build_report(run)
    return run


def result(run: Path) -> dict[str, Any]:
    """`comparison.json` of a run folder."""
    content: dict[str, Any] = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    return content


def change(run: Path, **parts: Any) -> None:
    """Replaces keys of `comparison.json`."""
    _write(run / "comparison.json", result(run) | parts)


def enrich(run: Path) -> Path:
    """Adds all that schema 1 may hold beside its first keys."""
    content = result(run)
    rows = [json.loads(line) for line in (run / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    rng = np.random.default_rng(3)
    ok = [candidate for candidate in content["candidates"] if candidate["status"] == "ok"]
    for number, candidate in enumerate(ok):
        _enrich_candidate(candidate, number, rng)
    outside = _outside(rows, ok[1]["test"], content["task"]["labels"], rng, run)
    content["candidates"].append(outside)
    for pair in content["pairs"]:
        error = (pair["high"] - pair["low"]) / 3
        pair["methods"] = {
            "difference": pair["difference"] * 0.9, "low": pair["difference"] * 0.9 - 2 * error, "p_value": 0.03,
            "high": pair["difference"] * 0.9 + 2 * error, "p_adjusted": 0.04 if pair["p_adjusted"] < 0.001 else 0.4,
            "seeds": 3,
        }  # fmt: skip
    content["pairs"] += [
        {"a": "today", "b": c["id"], "difference": outside["test"]["value"] - c["test"]["value"], "low": -0.3,
         "high": 0.2, "p_value": 0.2, "p_adjusted": 0.9, "methods": None} for c in ok
    ]  # fmt: skip
    content["decision"]["requirements"] = ["quality>=0.85", "latency_p95_ms<=20", "bytes<=5MB"]
    content["decision"]["prices"]["months"] = 12.0
    return _write_rich(run, content)


def _write_rich(run: Path, content: dict[str, Any]) -> Path:
    content["protocol"] = {"kind": "folds", "folds": 5, "repeats": 2,
                           "reason": "240 test rows could not separate 5 points."}  # fmt: skip
    content["effort"] = [
        {"family": family, "trials": 6, "seconds": 61.5, "price": 0.0123, "best": [None, *best]}
        for family, best in (
            ("no training", [0.6, 0.71, 0.71, 0.71, 0.72]),
            ("soft prompts", [0.5, 0.77, 0.8, 0.83, 0.86]),
            ("fine-tuning", [0.81, 0.81, 0.87, 0.88, 0.88]),
        )
    ]
    content["ledger"] = {
        "wall_s": 611.0, "tuning_s": 401.5, "refits_s": 150.25, "test_s": 31.0, "cpu_s": 1180.0, "gpu_s": 12.0,
        "peak_memory_bytes": 2_412_000_000, "tokens": 8_210_000, "stored_bytes": 94_000_000, "price": 0.0371,
        "budget_s": 600.0, "max_cost": 5.0, "not_done": ["gradual-unfreezing: 2 trials", "full: seed 2"],
    }  # fmt: skip
    content["checks"] = [
        {"code": "test-too-small", "passed": False, "value": 240.0, "touches": [],
         "sentence": "240 test rows cannot separate the top two: about 2,140 would."},
        {"code": "unstable-across-seeds", "passed": False, "value": 0.061, "touches": ["soft-prompt"],
         "sentence": "soft-prompt differs by 6.1 points between seeds <i>of the same setting</i>."},
        {"code": "duplicates-across-splits", "passed": True, "value": 0.0, "touches": [],
         "sentence": "No text of test is in train or dev."},
    ]  # fmt: skip
    _write(run / "comparison.json", content)
    return run


def _enrich_candidate(candidate: dict[str, Any], number: int, rng: np.random.Generator) -> None:
    name, value = candidate["id"], candidate["test"]["value"]
    slow = 4.0 + 3 * number
    candidate["cost"] |= {
        "predict_s": 1.5, "tokens": 120_000 * number, "ownership": 0.4 + 11.0 * number,
        "latency": [{"batch": 1, "p50_ms": slow, "p95_ms": 1.3 * slow},
                    {"batch": 32, "p50_ms": 9 * slow, "p95_ms": 11 * slow}],
    }  # fmt: skip
    if name == "full":
        candidate["unmet"] = ["bytes 90.9 MB, at most 5 MB"]
    if name == "majority":
        return
    coverage = [1.0 - 0.1 * k for k in range(10)]
    candidate["calibration"] = {
        "temperature": 1.7, "error_before": 0.112, "error": 0.034, "threshold": 0.5, "mean_error_cost": 0.21 + number,
        "bins": [{"confidence": c, "accuracy": _estimate(c - 0.05, 80)} for c in (0.45, 0.7, 0.9)],
        "curve": [{"threshold": 1 - c, "coverage": c, "risk": (1 - value) * c * c} for c in coverage],
    }  # fmt: skip
    candidate["slices"] = [
        {"rule": rule, "value": _estimate(float(np.clip(value - 0.1 * rng.random(), 0, 1)), n)}
        for rule, n in (("lang=de", 61), ("lang=en", 179), ("len>200", 34))
    ]
    candidate["gaps"] = [{"rule": "len>200", "difference": -0.09, "low": -0.17, "high": -0.01}]
    candidate["flips"] = [{"terms": ["he", "she"], "rows": 41, "flipped": _estimate(0.049, 41)}]


def _outside(
    rows: Sequence[dict[str, Any]], like: dict[str, Any], labels: Sequence[str], rng: np.random.Generator, run: Path
) -> dict[str, Any]:
    """Today's system: answers and nothing else."""
    right = rng.random(len(rows)) < like["value"]
    answers = [
        row["label"] if hit else labels[int(rng.integers(len(labels)))] for row, hit in zip(rows, right, strict=True)
    ]
    lines = [{"id": row["id"], "label": answer, "probabilities": []} for row, answer in zip(rows, answers, strict=True)]
    _write_lines(run / "predictions" / "today" / "seed-0.jsonl", lines)
    value = float(np.mean([row["label"] == answer for row, answer in zip(rows, answers, strict=True)]))
    return {
        "id": "today", "method": "today", "family": "outside", "backbone": "", "status": "ok", "reason": None,
        "params": {}, "parts": [], "trials": 0, "dev": None, "test": _estimate(value, len(rows)), "cost": {},
        "seeds": [{"seed": 0, "dev": None, "test": value, "shipped": True}],
    }  # fmt: skip


def write_run(folder: Path, *, labels: Sequence[str], n_test: int, methods: Sequence[str], hostile: bool) -> Path:
    rng = np.random.default_rng(7)
    labels = (HOSTILE, *labels[1:]) if hostile else labels
    rows = [_row(rng, number, labels, hostile=hostile) for number in range(1, n_test + 1)]
    truth = np.array([labels.index(row["label"]) for row in rows])
    hardness = rng.random(n_test)
    candidates: list[dict[str, Any]] = []
    right: dict[str, np.ndarray] = {}
    for method in METHODS:
        if method[0] not in methods:
            continue
        if method[0] in SKIPPED:
            candidates.append(_skipped(method))
            continue
        answers = [
            _answers(rng, method, truth, hardness, len(labels)) for _ in range(1 if method[0] == "majority" else 3)
        ]
        candidates.append(_candidate(rng, method, [float((answer == truth).mean()) for answer in answers], n_test))
        shipped = next(seed["seed"] for seed in candidates[-1]["seeds"] if seed["shipped"])
        right[method[0]] = answers[shipped] == truth
        for seed, answer in enumerate(answers):
            _write_lines(
                folder / "predictions" / method[0] / f"seed-{seed}.jsonl",
                [_prediction(row["id"], labels, k) for row, k in zip(rows, answer, strict=True)],
            )
    _write_lines(folder / "test.jsonl", rows)
    _write_lines(folder / "trials.jsonl", _trials(rng, [c for c in candidates if c["status"] == "ok"]))
    _write(folder / "data.json", _data(n_test, hostile=hostile))
    _write(folder / "environment.json", {"python": "3.12.1", "machine": "2 cores, 8 GB", "device": "cpu"})
    (folder / "run.yaml").write_text("data: tickets.csv\n", encoding="utf-8")
    _write(
        folder / "comparison.json",
        _comparison(labels, n_test, candidates, right, float(np.bincount(truth).max() / n_test)),
    )
    return folder


def _row(rng: np.random.Generator, number: int, labels: Sequence[str], *, hostile: bool) -> dict[str, Any]:
    weights = 1 / np.arange(1, len(labels) + 1) ** 0.4
    label = labels[int(rng.choice(len(labels), p=weights / weights.sum()))]
    openings = (
        "Hello, I ordered this two weeks ago and",
        "hi!! pls help,",
        "Guten Tag,",
        "To whom it may concern:",
        "Hola,",
    )
    endings = (
        "it still has not come.",
        "the bill shows the amount twice.",
        "I cannot log in any more since the update.",
    )
    text = f"{openings[int(rng.integers(5))]} {endings[int(rng.integers(3))]} My order is {int(rng.integers(10**6))}."
    if number % 7 == 0:
        text += " I have written three times already, called the hotline twice, and nobody could tell me anything." * 3
    if hostile:
        text = HOSTILE + text + ("x" * 20_000 if number % 5 == 0 else "")
    return {"id": f"tickets:{number}", "text": text, "text_pair": None, "label": label}


def _answers(
    rng: np.random.Generator, method: Any, truth: np.ndarray, hardness: np.ndarray, num_labels: int
) -> np.ndarray:
    if method[0] == "majority":
        return np.full_like(truth, np.bincount(truth).argmax())
    difficulty = 0.8 * hardness + 0.2 * rng.random(truth.size)
    wrong = difficulty > np.quantile(difficulty, method[2] - 0.03 * rng.random())
    shifted = (truth + 1 + (rng.random(truth.size) ** 3 * (num_labels - 1)).astype(int)) % num_labels
    return np.where(wrong, shifted, truth)


def _prediction(row_id: str, labels: Sequence[str], k: int) -> dict[str, Any]:
    return {"id": row_id, "label": labels[k], "probabilities": [float(j == k) for j in range(len(labels))]}


def _estimate(value: float, n: int) -> dict[str, Any]:
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.01) / n)
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}


def _candidate(rng: np.random.Generator, method: Any, tests: Sequence[float], n_test: int) -> dict[str, Any]:
    name, family, _, price, num_bytes, parameters, tokens, train_s = method
    devs = [float(np.clip(test + rng.normal(0, 0.01), 0, 1)) for test in tests]
    best = int(np.argmax(devs))
    return {
        "id": name,
        "method": name,
        "family": family,
        "backbone": "embedded",
        "status": "ok",
        "reason": None,
        "params": {} if name == "majority" else {"learning_rate": 0.012, "length": 20},
        "parts": ["calibration" if name == "majority" else "head"],
        "trials": 1 if name == "majority" else 4 + int(rng.integers(5)),
        "seeds": [{"seed": k, "dev": devs[k], "test": tests[k], "shipped": k == best} for k in range(len(tests))],
        "dev": _estimate(devs[best], 120),
        "test": _estimate(tests[best], n_test),
        "cost": {
            "tune_s": train_s * 6.3,
            "train_s": train_s,
            "peak_memory_bytes": int(4e8 + 1e7 * train_s),
            "adapter_bytes": num_bytes,
            "trainable_parameters": parameters,
            "extra_tokens_per_request": tokens,
            "latency_ms": 0.01 if name == "majority" else float(6 + tokens / 9),
            "price": price,
        },
    }


def _skipped(method: Any) -> dict[str, Any]:
    name, family = method[:2]
    return {
        "id": name,
        "method": name,
        "family": family,
        "backbone": "embedded",
        "status": "skipped",
        "reason": SKIPPED[name],
        "params": {},
        "parts": [],
        "trials": 0,
        "seeds": [],
        "dev": None,
        "test": None,
        "cost": {},
    }


def _pairs(right: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    names = list(right)
    found = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            gap = right[a].astype(float) - right[b]
            mean, error = float(gap.mean()), max(float(gap.std() / math.sqrt(gap.size)), 1e-9)
            p = math.erfc(abs(mean) / error / math.sqrt(2))
            found.append(
                {
                    "a": a,
                    "b": b,
                    "difference": mean,
                    "low": mean - 1.96 * error,
                    "high": mean + 1.96 * error,
                    "p_value": p,
                    "p_adjusted": min(1.0, p * len(names) * (len(names) - 1) / 2),
                }
            )
    return found


def _trials(rng: np.random.Generator, candidates: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for candidate in candidates:
        for number in range(candidate["trials"]):
            status = (
                "complete" if number == 0 else str(rng.choice(["complete", "complete", "complete", "pruned", "failed"]))
            )
            value = (
                None if status == "failed" else float(np.clip(candidate["dev"]["value"] - rng.random() * 0.2, 0.05, 1))
            )
            lines.append(
                {
                    "candidate": candidate["id"],
                    "method": candidate["method"],
                    "family": candidate["family"],
                    "backbone": "embedded",
                    "trial": number,
                    "params": {},
                    "status": status,
                    "dev": [{"epoch": 1, "value": value}],
                    "value": value,
                    "seconds": 3.5 + number,
                    "epochs": 2,
                    "reason": None,
                }
            )
    return lines


def _data(n_test: int, *, hostile: bool) -> dict[str, Any]:
    ids = [f"tickets:{k}" for k in (3, 17, 40, 41, 90, 91, 92)]
    message = "7 texts are near duplicates of another; twins were kept on one side." + (HOSTILE if hostile else "")
    return {
        "sha256": "9f" * 32,
        "columns": {"text": "message", "label": "intent"},
        "notices": [
            {"code": "near-duplicates", "message": message, "count": 7, "ids": ids},
            {"code": "long-texts", "message": "2 texts are longer than the model reads.", "count": 2, "ids": ids[:2]},
        ],
        "splits": {"train": 420, "dev": 120, "test": n_test},
    }


def _comparison(
    labels: Sequence[str],
    n_test: int,
    candidates: Sequence[dict[str, Any]],
    right: dict[str, np.ndarray],
    chance: float,
) -> dict[str, Any]:
    ok = [candidate for candidate in candidates if candidate["status"] == "ok"]
    best = max(ok, key=lambda candidate: candidate["test"]["value"])["id"]
    unsettled = [name for name in ("prefix", "full", "lora") if name in right and name != best]
    chosen = "lora" if "lora" in right else best
    return {
        "schema_version": 1,
        "task": {
            "name": "tickets",
            "kind": "classify",
            "metric": "accuracy",
            "labels": list(labels),
            "chance": chance,
            "n_train": 420,
            "n_dev": 120,
            "n_test": n_test,
        },
        "backbones": [{"id": "embedded", "name": "all-MiniLM-L6-v2", "kind": "encoder", "parameters": 22_713_216,
                       "sha256": "ab" * 32, "dtype": "float32"}],
        "candidates": list(candidates),
        "pairs": _pairs(right),
        "decision": {
            "best": best,
            "recommended": chosen,
            "margin": 1.0,
            "prices": {"usd_per_petaflop": 0.22, "usd_per_gigabyte_month": 3.0, "requests_per_month": 1e5},
            "not_separated": [{"id": name, "difference": -0.0125, "rows_needed": 2140} for name in unsettled],
            "stability": 0.71,
            "corrected_value": 0.861,
            "minimum_detectable_difference": 0.047,
            "verdict": "a cheaper candidate is shown to be within the margin",
            "reason": f"{chosen} is recommended: it is shown to lose less than 1 point against {best}.",
        },
        "test_reads": 2,
        "provenance": {"command": "tunewright compare tickets.csv --seed 7", "version": "0.1.0", "seed": 7,
                       "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "started": "2026-01-02T03:04:05Z",
                       "data_sha256": "9f" * 32},
    }  # fmt: skip


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_lines(path: Path, lines: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
