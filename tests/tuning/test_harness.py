"""A whole comparison on a tiny model: what is in its folder, and that the numbers are those of what is shipped."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score
from torch import nn

import tunewright as tw
from tests.commands import environment, write_topics
from tunewright.adapters.parts import Lora
from tunewright.backbones.low_rank import TokensOf, low_rank_updates
from tunewright.errors import ConfigError, RunError
from tunewright.methods.table import METHODS
from tunewright.runs import comparison
from tunewright.runs import folder as run_folder
from tunewright.tuning.progress import Step
from tunewright.tuning.stage import candidate_id

WHOLE_COPIES = ("full", "gradual-unfreezing")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    return found


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_is_documented(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        "run.yaml",
        "data.json",
        "environment.json",
        "trials.jsonl",
        "finalists.jsonl",
        "adapters",
        "test.jsonl",
        "predictions",
        "comparison.json",
        "elapsed.json",
        "log.txt",
        "report.html",
        "report.md",
    }
    assert run_folder.__doc__ is not None
    assert all(f"    {name}" in run_folder.__doc__ for name in names)
    assert not [path for path in finished_run.rglob("*") if path.name.startswith(".")]


def test_every_trial_and_refit_is_a_line(finished_run: Path) -> None:
    trials, refits = lines(finished_run / "trials.jsonl"), lines(finished_run / "finalists.jsonl")
    assert Counter(t["family"] for t in trials) == {"no training": 4, "soft prompts": 3, "fine-tuning": 3}
    tried = {t["candidate"] for t in trials}
    assert {(r["candidate"], r["seed"]) for r in refits} == {(name, seed) for name in tried for seed in (0, 1)}
    assert len(refits) == 2 * len(tried)
    by_candidate = {c["id"]: c for c in result(finished_run)["candidates"]}
    assert set(by_candidate) == {name for name, m in METHODS.items() if "classify" in m.kinds and m.needs is None}
    for name, candidate in by_candidate.items():
        assert candidate["trials"] == sum(t["candidate"] == name for t in trials)
        assert candidate["status"] == ("ok" if name in tried else "skipped")
        assert (candidate["reason"] is None) == (name in tried)


def test_checks_have_the_figures_of_this_run(finished_run: Path) -> None:
    checks = {check["code"]: check for check in result(finished_run)["checks"]}
    tuned = Counter(t["family"] for t in lines(finished_run / "trials.jsonl") if t["params"])
    assert set(tuned) == {"no training", "soft prompts", "fine-tuning"}
    assert checks["unequal-effort"]["value"] == min(tuned.values()) / max(tuned.values()) == 1
    assert checks["not-reproducible"] | {"sentence": ""} == {
        "code": "not-reproducible", "passed": True, "value": 0.0, "sentence": "", "touches": [],
    }  # fmt: skip
    assert checks["test-reused"]["value"] == result(finished_run)["test_reads"]
    assert not checks["dev-reused"]["passed"]  # 6 dev rows
    assert checks["cut-texts"]["value"] == 0


def test_one_whole_copy_of_the_base_is_kept(finished_run: Path) -> None:
    """The adapter of each refit is on disk; of those that are copies of the base only the shipped one."""
    for candidate in result(finished_run)["candidates"]:
        if candidate["status"] != "ok":
            continue
        folders = {path.name for path in (finished_run / "adapters" / candidate["id"]).iterdir()}
        shipped = [f"seed-{s['seed']}" for s in candidate["seeds"] if s["shipped"]]
        assert len(shipped) == 1
        assert folders == (set(shipped) if candidate["id"] in WHOLE_COPIES else {"seed-0", "seed-1"})


def test_what_ships_is_the_best_on_dev(finished_run: Path) -> None:
    losses = {(r["candidate"], r["seed"]): r["loss"] for r in lines(finished_run / "finalists.jsonl")}
    for candidate in result(finished_run)["candidates"]:
        ranked = sorted(candidate["seeds"], key=lambda s: (-s["dev"], losses[candidate["id"], s["seed"]], s["seed"]))
        assert [s["shipped"] for s in ranked] == [True, False][: len(ranked)]


def test_splits_and_answers_are_complete_and_in_order(finished_run: Path) -> None:
    data = json.loads((finished_run / "data.json").read_text(encoding="utf-8"))
    ids = data["splits"]
    assert {split: len(rows) for split, rows in ids.items()} == {"train": 33, "dev": 6, "test": 9}
    assert len({row for rows in ids.values() for row in rows}) == 48
    test = lines(finished_run / "test.jsonl")
    with (finished_run.parents[1] / "topics.csv").open(encoding="utf-8") as file:
        source = list(csv.DictReader(file))
    assert [row["id"] for row in test] == ids["test"]
    for row in test:
        given = source[int(row["id"].split(":")[1]) - 1]
        assert (row["text"], row["label"]) == (given["text"], given["label"])
    for candidate in result(finished_run)["candidates"]:
        for seed in candidate["seeds"]:
            answers = finished_run / "predictions" / candidate["id"] / f"seed-{seed['seed']}.jsonl"
            assert [a["id"] for a in lines(answers)] == ids["test"]
            right = [a["label"] == row["label"] for a, row in zip(lines(answers), test, strict=True)]
            assert seed["test"] == sum(right) / 9
            dev = answers.with_name(f"seed-{seed['seed']}.dev.jsonl")
            assert dev.exists() == seed["shipped"]
            if seed["shipped"]:
                assert [a["id"] for a in lines(dev)] == ids["dev"]
                own = [source[int(a["id"].split(":")[1]) - 1]["label"] for a in lines(dev)]
                value = accuracy_score(own, [a["label"] for a in lines(dev)])
                assert candidate["dev"]["value"] == pytest.approx(value, abs=1e-12)
                # The score that chose the epoch is the score of what was saved.
                assert seed["dev"] == pytest.approx(value, abs=1e-12)


AGAIN = """
import json, sys
from pathlib import Path
from tunewright.api import Run
from tunewright.files import read_lines
from tunewright.types import Example

run = Run(Path(sys.argv[1]))
rows = [Example(**row) for row in read_lines(run.folder / "test.jsonl")]
for name in run:
    predictor = run[name]
    found = predictor.predict(rows)
    value = predictor.evaluate(rows).value
    print(json.dumps([name, value, [[p.id, p.label, *p.probabilities] for p in found]]))
"""


def test_a_fresh_process_gets_the_same_answers_from_what_is_shipped(finished_run: Path) -> None:
    command = [sys.executable, "-c", AGAIN, str(finished_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    again = {name: (value, answers) for name, value, answers in map(json.loads, done.stdout.splitlines())}
    finished = [c for c in result(finished_run)["candidates"] if c["status"] == "ok"]
    assert set(again) == {c["id"] for c in finished}
    for candidate in finished:
        value, answers = again[candidate["id"]]
        seed = next(s["seed"] for s in candidate["seeds"] if s["shipped"])
        stored = lines(finished_run / "predictions" / candidate["id"] / f"seed-{seed}.jsonl")
        assert [[a["id"], a["label"]] for a in stored] == [answer[:2] for answer in answers]
        for answer, kept in zip(answers, stored, strict=True):
            assert answer[2:] == pytest.approx(kept["probabilities"], abs=1e-6)
        assert value == candidate["test"]["value"]


def test_the_record_says_where_it_comes_from(finished_run: Path) -> None:
    found = result(finished_run)
    data = json.loads((finished_run / "data.json").read_text(encoding="utf-8"))
    assert found["schema_version"] == 1
    assert found["test_reads"] == 1
    assert found["provenance"]["data_sha256"] == data["sha256"]
    assert found["provenance"]["started"] == data["started"]
    assert found["provenance"]["command"].startswith("tw.compare ")
    settings = yaml.safe_load((finished_run / "run.yaml").read_text(encoding="utf-8"))
    assert (settings["trials"], settings["seeds"], settings["seed"]) == (3, 2, 0)
    (base,) = found["backbones"]
    adapter = json.loads((finished_run / "adapters" / "lora" / "seed-0" / "adapter.json").read_text(encoding="utf-8"))
    assert base["sha256"] == adapter["base"]["sha256"]
    finished = [c["id"] for c in found["candidates"] if c["status"] == "ok"]
    assert {frozenset((p["a"], p["b"])) for p in found["pairs"]} == set(map(frozenset, combinations(finished, 2)))
    assert len(found["pairs"]) == len(finished) * (len(finished) - 1) / 2
    assert json.loads(json.dumps(comparison.to_json(comparison.load(finished_run)))) == found


# --- the Python interface ---------------------------------------------------------------------------------------------


def test_a_run_is_a_mapping_of_candidates(finished_run: Path) -> None:
    run = tw.Run(finished_run)
    assert list(run) == [c["id"] for c in result(finished_run)["candidates"] if c["status"] == "ok"]
    assert len(run) == len(list(run))
    assert "lora" in run
    assert run.decision.recommended in run
    assert run.decision.recommended == result(finished_run)["decision"]["recommended"]
    assert run.report.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    with pytest.raises(RunError, match=r"unknown candidate 'laro'\. Did you mean 'lora'\?"):
        run["laro"]


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no comparison\.json in"):
        tw.Run(tmp_path)


class Heard:
    """Keeps what a listener is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[Step] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def step(self, step: Step) -> None:
        self.steps.append(step)


def test_a_second_run_is_the_same_and_counts_its_read_of_the_test_rows(
    finished_run: Path, tiny_folder: Callable[[str], Path]
) -> None:
    """Same data, settings and seed in another folder of the same parent: same trials, same answers; test read twice."""
    heard = Heard()
    data, out = finished_run.parents[1] / "topics.csv", finished_run.parent / "second"
    given: dict[str, Any] = {"model": str(tiny_folder("bert")), "trials": 3, "seeds": 2, "folds": 1}
    run = tw.compare(str(data), **given, out=str(out), listener=heard)
    first, second = result(finished_run), result(out)
    assert (first["test_reads"], second["test_reads"]) == (1, 2)
    assert run.comparison.test_reads == 2
    for name in ("task", "backbones", "pairs", "decision"):
        assert first[name] == second[name], name
    measured = ("seconds", "peak_memory_bytes")
    for one, other in zip(lines(finished_run / "trials.jsonl"), lines(out / "trials.jsonl"), strict=True):
        assert {k: v for k, v in one.items() if k not in measured} == {
            k: v for k, v in other.items() if k not in measured
        }
    for path in (finished_run / "predictions").rglob("*.jsonl"):
        assert path.read_bytes() == (out / path.relative_to(finished_run)).read_bytes()
    log = (out / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in log] == heard.notes
    assert {step.phase for step in heard.steps} == {"search", "refit", "test"}
    for step in heard.steps:
        assert step.total is not None
        assert 0 <= step.done < step.total
    assert {step.total for step in heard.steps if step.phase == "search"} == {10}


def test_two_bases(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv", 30)
    bases = [str(tiny_folder("bert")), str(tiny_folder("mpnet"))]
    run = tw.compare(
        str(data),
        model=bases,
        methods="majority,prefix,linear-probe",
        trials=2,
        seeds=1,
        folds=1,
        out=str(tmp_path / "run"),
    )
    found = {c.id: c for c in run.comparison.candidates}
    names = [Path(base).name for base in bases]
    assert set(found) == {f"{m}@{n}" for m in ("majority", "prefix", "linear-probe") for n in names}
    assert candidate_id("lora", bases[0], 2) == f"lora@{names[0]}"
    assert candidate_id("lora", bases[0], 1) == "lora"
    skipped = found[f"prefix@{names[1]}"]
    assert skipped.status == "skipped"
    assert skipped.reason is not None
    assert "computes attention on its own" in skipped.reason
    assert found[f"linear-probe@{names[1]}"].backbone == bases[1]
    assert run[f"linear-probe@{names[1]}"].adapter.base.name == bases[1]
    hashes = [b.sha256 for b in run.comparison.backbones]
    assert len(set(hashes)) == 2


def test_a_candidate_that_does_not_fit_in_memory_is_one_failure(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are compared; the reason stands in the result."""
    data = write_topics(tmp_path / "d.csv", 30)

    def too_large(
        linears: Mapping[str, nn.Linear], loras: Sequence[Lora | None], tokens_of: TokensOf | None
    ) -> AbstractContextManager[None]:
        if any(lora is not None for lora in loras):
            raise torch.OutOfMemoryError("out of memory")
        return low_rank_updates(linears, loras, tokens_of)

    monkeypatch.setattr("tunewright.backbones.backbone.low_rank_updates", too_large)
    given: dict[str, Any] = {
        "model": str(tiny_folder("bert")),
        "methods": "majority,lora",
        "trials": 3,
        "seeds": 1,
        "folds": 1,
    }
    run = tw.compare(str(data), **given, out=str(tmp_path / "run"))
    found = {c.id: c for c in run.comparison.candidates}
    assert (found["lora"].status, found["majority"].status) == ("failed", "ok")
    assert found["lora"].reason == "no trial reached a dev score: out of memory, even one row at a time"
    assert found["lora"].trials == 2


def test_other_descriptions_and_bases_are_not_resumed(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    data, labels = write_topics(tmp_path / "d.csv", 30), tmp_path / "labels.yaml"
    base = Path(shutil.copytree(tiny_folder("bert"), tmp_path / "base"))
    out = tmp_path / "run"
    labels.write_text("food: what one eats\ntravel: going far\nmusic: what one hears\n", encoding="utf-8")
    given: dict[str, Any] = {
        "model": str(base),
        "methods": "majority",
        "trials": 1,
        "seeds": 1,
        "folds": 1,
        "descriptions": str(labels),
    }
    tw.compare(str(data), **given, out=str(out))
    labels.write_text("food: going far\ntravel: what one eats\nmusic: what one hears\n", encoding="utf-8")
    with pytest.raises(RunError, match="labels or descriptions changed since the run began"):
        tw.compare(out=str(out), resume=True)
    labels.write_text("food: what one eats\ntravel: going far\nmusic: what one hears\n", encoding="utf-8")
    shutil.rmtree(base)
    shutil.copytree(tiny_folder("electra"), base)
    with pytest.raises(RunError, match=r"a model of .* changed since the run began"):
        tw.compare(out=str(out), resume=True)


def test_a_broken_neighbour_does_not_stop_a_run(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv", 30)
    broken = tmp_path / "runs" / "broken"
    (broken / "predictions").mkdir(parents=True)
    (broken / "data.json").write_text("{", encoding="utf-8")
    given: dict[str, Any] = {
        "model": str(tiny_folder("bert")),
        "methods": "majority",
        "trials": 1,
        "seeds": 1,
        "folds": 1,
    }
    run = tw.compare(str(data), **given, out=str(tmp_path / "runs" / "mine"))
    assert run.comparison.test_reads == 1


def test_rows_limit_the_training_rows_only(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv", 60)
    run = tw.compare(
        str(data),
        model=str(tiny_folder("bert")),
        methods=["majority", "few-shot"],
        rows=9,
        trials=1,
        seeds=1,
        folds=1,
        out=str(tmp_path / "run"),
    )
    task = run.comparison.task
    assert (task.n_train, task.n_dev, task.n_test) == (9, 6, 12)
    assert task.chance == pytest.approx(1 / 3)


def test_settings_of_the_python_call_are_checked_as_those_of_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'trails'\. Did you mean 'trials'\?"):
        tw.compare("d.csv", trails=3)
