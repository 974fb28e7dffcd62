"""A run folder with everything in it, made without the code under test."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
