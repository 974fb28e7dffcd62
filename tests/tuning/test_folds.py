"""A cross-validation on a tiny model: what is held out, reported and kept, and that a kill changes nothing."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import numpy as np
import pytest
from scipy import stats

import tunewright as tw
from tests import tiny
from tests.commands import comparison_of, write_table
from tunewright import files
from tunewright.adapters import folder
from tunewright.backbones.base import Row
from tunewright.backbones.encoder import Encoder
from tunewright.errors import RunError
from tunewright.runs import folder as run_folder
from tunewright.tuning.progress import Silent, Step

FOLDS, REPEATS = 3, 2
NAMES = [f"r{r}-f{f}" for r in range(REPEATS) for f in range(FOLDS)]
METHODS = ("majority", "few-shot", "linear-probe")


def write_rows(path: Path, *, shuffled: bool = False) -> Path:
    """48 texts that even this model tells apart: one word of their class again and again, among others."""
    rng = np.random.default_rng(3)
    labels = ["food", "travel", "music"] * 16
    known = {"food": ["bread"] * 6, "travel": ["train"] * 6, "music": ["song"] * 6}
    texts = [" ".join(rng.permutation(known[label] + rng.choice(tiny.FILLERS, 4).tolist())) for label in labels]
    return write_table(
        path, ("text", "label"), zip(texts, rng.permutation(labels) if shuffled else labels, strict=True)
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path]) -> dict[str, Any]:
    data = write_rows(tmp_path_factory.mktemp("folds") / "d.csv")
    effort = {"trials": 2, "seeds": 2, "folds": FOLDS, "repeats": REPEATS}
    return {"data": str(data), "model": str(tiny_folder("bert")), "methods": METHODS, **effort}


@pytest.fixture(scope="module")
def whole(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tw.compare(**given, out=str(tmp_path_factory.mktemp("whole") / "run"), listener=Silent()).folder


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def answers(run: Path, candidate: str, repeat: int) -> dict[str, str]:
    found = files.read_lines(run / "predictions" / candidate / f"seed-{repeat}.jsonl")
    assert len({line["id"] for line in found}) == len(found)
    return {line["id"]: line["label"] for line in found}


def truth(run: Path) -> dict[str, str]:
    return {row["id"]: row["label"] for row in files.read_lines(run / "test.jsonl")}


# --- what is held out -------------------------------------------------------------------------------------------------


def test_every_row_is_answered_once_in_each_repeat_by_a_fold_that_held_it_out(whole: Path) -> None:
    folds = content(whole / "data.json")["folds"]
    assert list(folds) == NAMES
    ids = list(truth(whole))
    assert len(ids) == 48
    for name, rows in folds.items():
        assert not set(rows["test"]) & {*rows["train"], *rows["dev"]}
        assert sorted(rows["train"] + rows["dev"] + rows["test"]) == sorted(ids), name
    for candidate in METHODS:
        for repeat in range(REPEATS):
            said: dict[str, str] = {}
            for fold in range(FOLDS):
                name = f"r{repeat}-f{fold}"
                lines = files.read_lines(whole / "folds" / name / "predictions" / candidate / "seed-0.jsonl")
                assert [line["id"] for line in lines] == folds[name]["test"]
                assert not said.keys() & {line["id"] for line in lines}
                said |= {line["id"]: line["label"] for line in lines}
            assert list(answers(whole, candidate, repeat).items()) == [(row, said[row]) for row in ids]


def test_the_model_of_a_fold_holds_its_training_rows_and_no_other(whole: Path) -> None:
    """As its pool of demonstrations shows, which is what it has learned from, row by row."""
    pool = folder.load(run_folder.adapter_folder(run_folder.fold_folder(whole, "r0-f0"), "few-shot", 0)).demonstrations
    assert pool is not None
    rows = {row["id"]: row["text"] for row in files.read_lines(whole / "test.jsonl")}
    parts = content(whole / "data.json")["folds"]["r0-f0"]
    assert sorted(pool.texts) == sorted(rows[row] for row in parts["train"])
    assert not set(pool.texts) & {rows[row] for row in (*parts["dev"], *parts["test"])}


def test_each_fold_is_searched_with_the_same_effort_on_its_own(whole: Path) -> None:
    seen = set()
    for name in NAMES:
        trials = files.read_lines(whole / "folds" / name / "trials.jsonl")
        refits = files.read_lines(whole / "folds" / name / "finalists.jsonl")
        assert [t["candidate"] for t in trials if t["params"]] == ["few-shot", "linear-probe"] * 2
        assert [(r["candidate"], r["seed"]) for r in refits] == [(candidate, 0) for candidate in METHODS]
        seen.add(json.dumps([t["params"] for t in trials]))
    assert len(seen) > 1  # the searches of the folds are independent


def test_features_of_the_base_are_computed_once(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every row, for all folds together."""
    seen: list[tuple[int, ...]] = []
    real = Encoder.features

    def watched(self: Encoder, rows: list[Row]) -> Any:
        seen.extend(row.encoding.ids for row in rows)
        return real(self, rows)

    monkeypatch.setattr(Encoder, "features", watched)
    tw.compare(**given | {"methods": "linear-probe"}, out=str(tmp_path / "run"), listener=Silent())
    timed = [ids for ids in seen if seen.count(ids) > 1]
    assert len(set(seen)) >= 48
    assert len(set(timed)) <= 10  # requests that are timed, one at a time


# --- what is reported -------------------------------------------------------------------------------------------------


def naive(run: Path, candidate: str) -> list[float]:
    """Accuracy of each fold of each repeat."""
    labels = truth(run)
    values = []
    for name, rows in content(run / "data.json")["folds"].items():
        said = answers(run, candidate, int(name[1]))
        values.append(fmean(said[row] == labels[row] for row in rows["test"]))
    return values


def naive_interval(values: list[float], least: float) -> tuple[float, float, float]:
    """Mean, and the interval of Nadeau and Bengio, with a standard error of at least that over rows."""
    mean, error = fmean(values), max(least, math.sqrt((1 / len(values) + 1 / (FOLDS - 1)) * variance(values)))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - half, mean + half


def row_error(whole: Path, name: str, other: str | None = None) -> float:
    """Standard error over rows of how often each is right, less how often the other is."""
    labels = truth(whole)
    scores = []
    for row in labels:
        found = 0.0
        for repeat in range(REPEATS):
            found += (answers(whole, name, repeat)[row] == labels[row]) / REPEATS
            found -= 0 if other is None else (answers(whole, other, repeat)[row] == labels[row]) / REPEATS
        scores.append(found)
    return float(np.std(scores)) / math.sqrt(len(scores))


def test_the_estimates_are_those_of_ten_naive_lines(whole: Path) -> None:
    found = tw.Run(whole).comparison
    assert [c.id for c in found.candidates] == list(METHODS)
    for candidate in found.candidates:
        mean, low, high = naive_interval(naive(whole, candidate.id), row_error(whole, candidate.id))
        assert candidate.test is not None
        assert candidate.test.value == pytest.approx(mean, abs=1e-12)
        assert candidate.test.low == pytest.approx(max(0.0, low), abs=1e-12)
        assert candidate.test.high == pytest.approx(min(1.0, high), abs=1e-12)
        assert candidate.test.n == 48
        for seed in candidate.seeds:
            said, labels = answers(whole, candidate.id, seed.seed), truth(whole)
            assert seed.test == pytest.approx(fmean(said[row] == labels[row] for row in labels), abs=1e-12)
            places = [whole / "folds" / f"r{seed.seed}-f{fold}" / "finalists.jsonl" for fold in range(FOLDS)]
            devs = [r["dev"] for p in places for r in files.read_lines(p) if r["candidate"] == candidate.id]
            assert seed.dev == pytest.approx(fmean(devs), abs=1e-12)
    for pair in found.pairs:
        values = [a - b for a, b in zip(naive(whole, pair.a), naive(whole, pair.b), strict=True)]
        assert (pair.difference, pair.low, pair.high) == pytest.approx(
            naive_interval(values, row_error(whole, pair.a, pair.b)), abs=1e-12
        )


def test_the_result_says_how_it_came_about(whole: Path) -> None:
    found = tw.Run(whole).comparison
    assert (found.protocol.kind, found.protocol.folds, found.protocol.repeats) == ("folds", FOLDS, REPEATS)
    assert found.protocol.reason is None  # the user asked for it
    assert found.task.n_test == 48
    assert found.task.n_train + found.task.n_dev == 48
    assert found.decision is not None
    assert "not tested" in found.decision.reason
    for candidate in found.candidates:
        assert candidate.dev is None
        assert [s.seed for s in candidate.seeds] == list(range(REPEATS))
        assert candidate.trials == sum(
            t["candidate"] == candidate.id
            for name in NAMES
            for t in files.read_lines(whole / "folds" / name / "trials.jsonl")
        )


def test_a_method_that_works_is_recommended(whole: Path) -> None:
    assert tw.Run(whole).decision.recommended == "few-shot"


def test_a_method_trained_on_shuffled_labels_is_not_shown_to_work(given: dict[str, Any], tmp_path: Path) -> None:
    """The same texts."""
    data = write_rows(tmp_path / "d.csv", shuffled=True)
    run = tw.compare(**given | {"data": str(data)}, out=str(tmp_path / "run"), listener=Silent())
    assert run.decision.verdict == "nothing learned is shown to work"


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_is_kept_was_trained_on_all_rows_and_says_that_it_was_not_tested(whole: Path) -> None:
    run = tw.Run(whole)
    kept = str(run.decision.recommended)
    assert list(run) == [kept]
    shipped = {c.id: [s.seed for s in c.seeds if s.shipped] for c in run.comparison.candidates}
    assert shipped == {name: [0] if name == kept else [] for name in METHODS}
    about = run[kept].adapter.about
    assert about["tested"] is False
    assert run.adapter_folder(kept) == whole / "adapters" / kept / "seed-0"
    refits = files.read_lines(whole / "folds" / "all" / "finalists.jsonl")
    best = max(refits, key=lambda r: (r["dev"], -r["loss"], -r["seed"]))
    assert (len(refits), about["seed"], about["dev"]) == (2, best["seed"], best["dev"])
    assert run[kept].adapter.sha256() == best["adapter_sha256"]
    tried = files.read_lines(whole / "folds" / "all" / "trials.jsonl")
    first = files.read_lines(whole / "folds" / "r0-f0" / "trials.jsonl")
    assert {t["candidate"] for t in tried} == {kept}
    assert len(tried) == sum(t["candidate"] == kept for t in first)


def test_no_other_candidate_can_be_asked(whole: Path) -> None:
    run = tw.Run(whole)
    other = next(name for name in METHODS if name != run.decision.recommended)
    assert other not in run
    with pytest.raises(RunError) as caught:
        run[other]
    assert str(caught.value) == (
        f"{other!r} was measured in folds, and no model of it was kept. Kept: {run.decision.recommended}. "
        "A cross-validation trains the recommended candidate alone on all rows; compare again with `folds=1` to have "
        "each of them."
    )
    with pytest.raises(RunError, match="unknown candidate 'laro'"):
        run["laro"]


def test_the_folder_holds_what_is_documented(whole: Path) -> None:
    assert run_folder.__doc__ is not None
    assert {path.name for path in whole.iterdir()} == {
        *("run.yaml", "data.json", "environment.json", "adapters", "test.jsonl", "predictions", "comparison.json"),
        *("elapsed.json", "log.txt", "report.html", "report.md", "folds"),
    }
    assert {path.name for path in (whole / "folds").iterdir()} == {*NAMES, "all"}
    for name in (*NAMES, "all"):
        expected = {"trials.jsonl", "finalists.jsonl"} | ({"predictions"} if name != "all" else set())
        expected |= {"adapters"} if name == "r0-f0" else set()
        assert {path.name for path in (whole / "folds" / name).iterdir()} == expected
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "adapters/" in page


# --- killed -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing in the code under test catches it."""


class KillsAt:
    """Ends the run at the k-th line or step it is told; or counts the lines, where there are fewer."""

    def __init__(self, line: int, step: int = 10**9) -> None:
        self.lines, self.steps = 0, 0
        self._line, self._step = line, step

    def note(self, _: str) -> None:
        self.lines += 1
        self._check()

    def step(self, _: Step) -> None:
        self.steps += 1
        self._check()

    def _check(self) -> None:
        if self.lines > self._line or self.steps > self._step:
            raise Killed


def lines(path: Path) -> list[dict[str, Any]]:
    measured = ("seconds", "peak_memory_bytes")
    return [{k: v for k, v in line.items() if k not in measured} for line in files.read_lines(path)]


def assert_same(run: Path, other: Path) -> None:
    """Everything but measured seconds and bytes of memory."""
    assert comparison_of(run) == comparison_of(other)
    names = [{p.relative_to(r) for p in r.rglob("*")} for r in (run, other)]
    assert names[0] == names[1]
    for path in other.rglob("*.jsonl"):
        assert lines(run / path.relative_to(other)) == lines(path), path
    for path in other.rglob("adapter.json"):
        assert content(run / path.relative_to(other))["sha256"] == content(path)["sha256"]


def test_killed_again_and_again(given: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    """In the folds and, more often, while the recommended one is trained on all rows."""
    counts = KillsAt(10**9)
    tw.compare(**given, out=str(tmp_path / "counted"), listener=counts)
    assert_same(tmp_path / "counted", whole)
    out, reached = tmp_path / "run", []
    with pytest.raises(Killed):  # in the midst of a trial of the second fold
        tw.compare(**given, out=str(out), listener=KillsAt(10**9, counts.steps // 4))
    while True:
        is_late = (out / "folds" / NAMES[-1] / "finalists.jsonl").exists()
        try:
            tw.compare(**given, out=str(out), listener=KillsAt(5 if is_late else counts.lines // 6), resume=True)
            break
        except Killed:
            reached.append(is_late)
    assert len(reached) >= 5
    assert sum(reached) >= 1
    assert_same(out, whole)


def test_killed_at_the_very_end(whole: Path, tmp_path: Path) -> None:
    """Before the answers were put together, and before adapters that are not needed any more were removed."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for name in ("comparison.json", "report.html"):
        (run / name).unlink()
    shutil.rmtree(run / "predictions")
    shutil.copytree(run / "adapters", run / "folds" / "all" / "adapters")
    shutil.copytree(run / "folds" / "r0-f0" / "adapters", run / "folds" / NAMES[-1] / "adapters")
    tw.compare(out=str(run), resume=True, listener=Silent())
    assert_same(run, whole)


@pytest.mark.slow
def test_a_budget_is_shared_among_the_folds_and_what_follows(given: dict[str, Any], tmp_path: Path) -> None:
    """Each of seven parts has a seventh, or more where those before it left some; the last ones are not starved."""
    limited = {**given, "trials": None, "budget": 100}
    run = tw.compare(**limited, out=str(tmp_path / "run"), listener=Silent())
    assert run.decision.recommended in run
    assert content(run.folder / "elapsed.json")["elapsed_s"] <= 105
    for name in NAMES:
        tried = files.read_lines(run.folder / "folds" / name / "trials.jsonl")
        assert sum(t["seconds"] for t in tried) <= 100 / len(NAMES)
        assert {t["candidate"] for t in tried} == set(METHODS)
