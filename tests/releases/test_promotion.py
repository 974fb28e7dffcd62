"""A challenger takes the live version's place only where the rows of its own comparison show that it may."""

import json
import shutil
from pathlib import Path

import pytest
from statsmodels.stats import contingency_tables

from tunewright.adapters import folder
from tunewright.errors import RegistryError
from tunewright.evaluation.gate import Outcome
from tunewright.files import read_json, read_lines, write_json, write_text
from tunewright.releases import promotion
from tunewright.releases.entries import Feedback, ShadowPair
from tunewright.releases.state import State
from tunewright.runs.folder import adapter_folder
from tunewright.runs.shipped import recommended


class Registry:
    """A task with a live version; challengers are copies of its run with other answers and another adapter."""

    def __init__(self, run: Path, tmp_path: Path) -> None:
        self.tmp_path, self.live_run = tmp_path, Path(shutil.copytree(run, tmp_path / "live"))
        self.who = str(read_json(run / "comparison.json")["decision"]["recommended"])
        self.truth = {row["id"]: row["label"] for row in read_lines(run / "test.jsonl")}
        self.state = State.open(str(tmp_path / "state.db"))
        self.answer(self.live_run, num_wrong=0)
        self.state.add("topics", recommended(self.live_run))
        promotion.promote(self.state, "topics", 1)

    def answer(self, run: Path, *, num_wrong: int) -> None:
        """Overwrites the recommended candidate's answers: the first so many wrong."""
        labels = sorted(set(self.truth.values()))
        other = {label: labels[k - 1] for k, label in enumerate(labels)}
        answers = [
            {"id": row, "label": other[label] if k < num_wrong else label}
            for k, (row, label) in enumerate(self.truth.items())
        ]
        for file in (run / "predictions" / self.who).glob("seed-?.jsonl"):
            write_text(file, "".join(json.dumps(answer) + "\n" for answer in answers))

    def challenger(self, name: str, *, num_wrong: int) -> Path:
        """Run folder of another adapter, judged on the same rows."""
        run = Path(shutil.copytree(self.live_run, self.tmp_path / name))
        self.answer(run, num_wrong=num_wrong)
        path = recommended(run)
        adapter = folder.load(path)
        folder.save(adapter.with_temperature(adapter.temperature * (1.5 + len(name))), path)
        return run


@pytest.fixture
def registry(finished_run: Path, tmp_path: Path) -> Registry:
    return Registry(finished_run, tmp_path)


def rewrite_test_rows(run: Path) -> None:
    rows = read_lines(run / "test.jsonl")
    rows[0]["text"] += "!"
    write_text(run / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def live_version(state: State) -> int:
    live = state.live("topics")
    assert live is not None
    return live.version


def test_the_run_is_found_and_its_figures_are_kept(registry: Registry, finished_run: Path) -> None:
    live = registry.state.live("topics")
    assert live is not None
    assert live.measured is not None
    written = read_json(finished_run / "comparison.json")
    test = next(c["test"] for c in written["candidates"] if c["id"] == registry.who)
    assert (live.measured.test.value, live.measured.test.n) == (test["value"], len(registry.truth))
    assert (live.measured.run, live.measured.candidate) == (str(registry.live_run), registry.who)


def test_a_challenger_that_may_lose_is_refused_and_told_by_how_much(registry: Registry) -> None:
    """The bound is that of the pairs: with all rows alike, n rows cannot exclude a loss of z^2 / (n + z^2)."""
    n = len(registry.truth)
    slack = 1.6448536269514722**2 / (n + 1.6448536269514722**2)
    registry.state.add("topics", recommended(registry.challenger("equal", num_wrong=0)))
    with pytest.raises(RegistryError, match=rf"topics@2 does not take the place of topics@1: .*{-100 * slack:.2f} and"):
        promotion.promote(registry.state, "topics", 2, margin=100 * slack - 0.01)
    assert live_version(registry.state) == 1
    done = promotion.promote(registry.state, "topics", 2, margin=100 * slack + 0.01)
    assert (done.forced, live_version(registry.state)) == (False, 2)


def test_a_worse_challenger_is_refused_without_force(registry: Registry) -> None:
    n = len(registry.truth)
    registry.state.add("topics", recommended(registry.challenger("worse", num_wrong=n)))
    with pytest.raises(RegistryError, match=r"-100\.00 points .*shown to lose more than 1 point.*use --force"):
        promotion.promote(registry.state, "topics", 2)
    done = promotion.promote(registry.state, "topics", 2, force=True, who="eve")
    assert done.forced
    assert "shown to lose more than 1 point" in done.reason
    assert registry.state.promotions("topics")[-1].forced
    assert contingency_tables.mcnemar([[0, n], [0, 0]], exact=True).pvalue < 0.05  # and an oracle agrees


def test_a_better_challenger_passes(registry: Registry) -> None:
    n = len(registry.truth)
    registry.state.add("topics", recommended(registry.challenger("worse", num_wrong=n)))
    promotion.promote(registry.state, "topics", 2, force=True)
    registry.state.add("topics", recommended(registry.challenger("better", num_wrong=0)))
    done = promotion.promote(registry.state, "topics", 3)
    assert not done.forced
    assert "+100.00 points" in done.reason


def test_without_a_comparison(registry: Registry) -> None:
    bare = Path(shutil.copytree(recommended(registry.challenger("bare", num_wrong=0)), registry.tmp_path / "alone"))
    assert registry.state.add("topics", bare).measured is None
    with pytest.raises(RegistryError, match="topics@2 comes from no comparison"):
        promotion.promote(registry.state, "topics", 2)
    promotion.promote(registry.state, "topics", 2, force=True)
    registry.state.add("topics", recommended(registry.challenger("new", num_wrong=0)))
    with pytest.raises(RegistryError, match="topics@2 comes from no comparison"):  # now the live one
        promotion.promote(registry.state, "topics", 3)


def test_what_is_shown_in_shadow_may_lose_as_much_as_the_rows(registry: Registry) -> None:
    """Always worse in shadow, which a margin of 1 refuses and one of 99 lets pass, that of the challenger's run."""
    run = registry.challenger("wider", num_wrong=0)
    comparison = read_json(run / "comparison.json")
    comparison["decision"]["margin"] = 99.0
    write_json(run / "comparison.json", comparison)
    registry.state.add("topics", recommended(run))
    pairs = [
        ShadowPair(request_id=str(k), task="topics", version=1, shadow=2, answer="a", shadow_answer="b")
        for k in range(60)
    ]
    registry.state.add_shadow_pairs(pairs)
    for pair in pairs:
        registry.state.add_feedback(Feedback(request_id=pair.request_id, task="topics", version=1, verdict="right"))
    with pytest.raises(RegistryError, match=r"in shadow right 100\.0 points less often"):
        promotion.promote(registry.state, "topics", 2, margin=1.0)
    assert not promotion.promote(registry.state, "topics", 2).forced


def test_an_adapter_found_in_the_run_that_is_named(registry: Registry) -> None:
    run = registry.challenger("moved", num_wrong=0)
    moved = Path(shutil.copytree(recommended(run), registry.tmp_path / "elsewhere"))
    added = registry.state.add("topics", moved, run)
    assert added.measured is not None
    assert added.measured.candidate == registry.who


def test_other_test_rows_cannot_be_compared(registry: Registry) -> None:
    run = registry.challenger("other", num_wrong=0)
    rewrite_test_rows(run)
    registry.state.add("topics", recommended(run))
    with pytest.raises(RegistryError, match="cannot be compared: its test rows are"):
        promotion.promote(registry.state, "topics", 2, margin=99)


def test_test_rows_that_changed_afterwards(registry: Registry) -> None:
    run = registry.challenger("changed", num_wrong=0)
    registry.state.add("topics", recommended(run))
    rewrite_test_rows(run)
    with pytest.raises(RegistryError, match="have changed since the version was added"):
        promotion.promote(registry.state, "topics", 2, margin=99)


def test_answers_that_are_gone(registry: Registry) -> None:
    run = registry.challenger("gone", num_wrong=0)
    registry.state.add("topics", recommended(run))
    shutil.rmtree(registry.live_run)
    with pytest.raises(RegistryError, match=r"no comparison\.json in"):
        promotion.promote(registry.state, "topics", 2, margin=99)
    assert live_version(registry.state) == 1


def test_answers_of_folds_are_no_single_model_s(registry: Registry) -> None:
    run = registry.challenger("folds", num_wrong=0)
    comparison = read_json(run / "comparison.json")
    comparison["protocol"] = {"kind": "folds", "folds": 5, "repeats": 1}
    write_json(run / "comparison.json", comparison)
    registry.state.add("topics", recommended(run))
    with pytest.raises(RegistryError, match="was judged in folds"):
        promotion.promote(registry.state, "topics", 2, margin=99)


def test_the_first_and_the_same_pass(registry: Registry) -> None:
    copy = Path(shutil.copytree(recommended(registry.live_run), registry.tmp_path / "copy"))
    assert promotion.judge(registry.state.version("topics", 1), None).outcome is Outcome.PASSED
    registry.state.add("topics", copy)
    assert promotion.promote(registry.state, "topics", 2).reason == "the same adapter as topics@1"


def test_rows_are_paired_by_id_not_by_place(registry: Registry) -> None:
    """Answers written in another order are the same answers."""
    run = registry.challenger("shuffled", num_wrong=1)
    shipped = adapter_folder(run, registry.who, 0).name
    judged = {}
    for reverse in (False, True):
        for file in (run / "predictions" / registry.who).glob("seed-?.jsonl"):
            lines = read_lines(file)
            write_text(file, "".join(json.dumps(line) + "\n" for line in (lines[::-1] if reverse else lines)))
        added = registry.state.add("topics", recommended(run))
        live = registry.state.live("topics")
        judged[reverse] = promotion.judge(added, live, 5.0)
    assert judged[False] == judged[True]
    assert shipped == "seed-0"
