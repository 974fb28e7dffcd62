"""Each check: where it fails, where it passes, and its number by other means."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.scoring import label_scorer
from tests.scoring import stats as of
from tunewright.evaluation.bootstrap import interval
from tunewright.evaluation.checks import CHECKS, Facts, expected_maximum, run_checks
from tunewright.evaluation.decision import Entry, decide
from tunewright.evaluation.metrics import IntArray
from tunewright.evaluation.statistics import minimum_detectable_difference, wilson
from tunewright.runs.comparison import Candidate, Check, Comparison, Protocol, Provenance, SeedResult, TaskSummary
from tunewright.types import Notice

N_TEST, N_DEV = 1_000, 2_000
RIGHT = {"majority": 500, "probe": 700, "lora": 850}
"""Test rows that each has right, of which the first so many: two candidates never disagree more than they must."""

ROOT = Path(__file__).parents[2]


def answers(right: int, n: int = N_TEST) -> IntArray:
    """To rows of label 0."""
    return (np.arange(n) >= right).astype(np.int64)


def candidate(name: str, right: int, n: int = N_TEST, **changes: Any) -> Candidate:
    dev, value = wilson(N_DEV * right // n, N_DEV), right / n
    found = Candidate(
        id=name,
        method=name,
        family="no training" if name == "majority" else "fine-tuning",
        backbone="base",
        status="ok",
        parts=("calibration",) if name == "majority" else ("head",),
        trials=3,
        seeds=tuple(SeedResult(seed=k, dev=dev.value, test=value, shipped=k == 1) for k in range(2)),
        dev=dev,
        test=wilson(right, n),
    )
    return replace(found, **changes)


def facts(*candidates: Candidate, n: int = N_TEST, **changes: Any) -> Facts:
    """A comparison with nothing wrong, but for the changes; answers are those of `answers`."""
    candidates = candidates or tuple(candidate(name, right, n) for name, right in RIGHT.items())
    scorer = label_scorer("accuracy", np.zeros(n, dtype=np.int64), 2)
    rng = np.random.default_rng(0)
    entries = [
        Entry(
            id=c.id, method=c.method, family=c.family, backbone=c.backbone, price=price, is_floor=c.is_floor,
            stats_NM=(given := of(scorer, answers(round(c.test.value * n), n))), test=interval(scorer, given, rng),
        )
        for price, c in enumerate(candidates)
        if c.test is not None
    ]  # fmt: skip
    decision, pairs = decide(entries, scorer, rng, num_resamples=200)
    comparison = Comparison(
        task=TaskSummary(
            name="t", kind="classify", metric="accuracy", labels=("a", "b"), chance=0.5, n_train=7_000, n_dev=N_DEV,
            n_test=n,
        ),
        backbones=(), candidates=candidates, pairs=pairs, decision=decision, test_reads=1, protocol=Protocol(),
        provenance=Provenance(command="c", version="0", versions={}, seed=0, started="now", data_sha256="ab"),
    )  # fmt: skip
    inside = {key: changes.pop(key) for key in ("test_reads",) if key in changes}
    fine: dict[str, Any] = {
        "notices": (),
        "train_labels": {"a", "b"},
        "test_labels": ["a"] * n,
        "spent": {"soft prompts": 12.0, "fine-tuning": 12.0},
    }
    return Facts(comparison=replace(comparison, **inside), **(fine | changes))


def check(code: str, found: Facts) -> Check:
    (one,) = [each for each in run_checks(found) if each.code == code]
    assert one.sentence.endswith(".")
    assert one.value is None or math.isfinite(one.value)
    assert set(one.touches) <= {c.id for c in found.comparison.candidates}
    return one


def failed(code: str, found: Facts) -> Check:
    one = check(code, found)
    assert not one.passed
    return one


def passed(code: str, found: Facts) -> Check:
    one = check(code, found)
    assert one.passed
    assert one.touches == ()
    return one


def test_nothing_wrong_is_said_of_each() -> None:
    found = run_checks(facts())
    assert [each.code for each in found if not each.passed] == []
    assert len({each.code for each in found}) == len(CHECKS) == 10
    assert all(isinstance(each.value, float) for each in found)


def test_every_check_has_its_section_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guides" / "checks.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)$", guide, re.MULTILINE) == [each.code for each in run_checks(facts())]


def test_checks_are_json() -> None:
    assert json.loads(json.dumps([each.passed for each in run_checks(facts())])) == [True] * 10


# --- one by one -------------------------------------------------------------------------------------------------------


def test_few_test_rows() -> None:
    near = [candidate("majority", 500), candidate("probe", 700), candidate("lora", 705)]
    given = facts(*near)
    found = failed("few-test-rows", given)
    decision = given.comparison.decision
    assert decision is not None
    assert decision.minimum_detectable_difference is not None
    assert found.value == pytest.approx(100 * decision.minimum_detectable_difference)
    # lora and probe disagree on 5 rows of 1,000; three pairs share alpha; few resamples make it rough.
    assert found.value == pytest.approx(100 * minimum_detectable_difference(0.005, N_TEST, alpha=0.05 / 3), rel=0.2)
    assert f"some {decision.not_separated[0].rows_needed} would show" in found.sentence
    assert found.touches == ("lora", "probe")
    assert "lora from probe" in passed("few-test-rows", facts()).sentence
    assert passed("few-test-rows", facts(candidate("lora", 850))).value is None


def test_unequal_effort() -> None:
    tuned = (candidate("majority", 500), candidate("probe", 700), candidate("prefix", 850, family="soft prompts"))
    found = failed("unequal-effort", facts(*tuned, spent={"soft prompts": 31.0, "fine-tuning": 70.0}, unit="seconds"))
    assert found.value == pytest.approx(31 / 70)
    assert found.touches == ("prefix",)
    assert "in seconds: soft prompts 31, fine-tuning 70" in found.sentence
    assert passed("unequal-effort", facts(spent={"soft prompts": 6.0, "fine-tuning": 12.0})).value == 0.5
    assert failed("unequal-effort", facts(*tuned, spent={"soft prompts": 0.0, "fine-tuning": 2.0})).value == 0
    assert passed("unequal-effort", facts(spent={"fine-tuning": 12.0})).value is None


def test_duplicates_across_splits() -> None:
    exact = Notice(code="duplicates-across-splits", message="3 rows stand in two.", count=3)
    near = Notice(code="near-duplicates-across-splits", message="4 rows nearly do.", count=4)
    kept = Notice(code="near-duplicates", message="9 rows are twins; each group was kept in one split.", count=9)
    found = failed("duplicates-across-splits", facts(notices=(exact, kept, near)))
    assert (found.value, found.sentence) == (7, "3 rows stand in two. 4 rows nearly do.")
    assert passed("duplicates-across-splits", facts(notices=(kept,))).value == 0
    unknown = Notice(code="near-duplicates-not-searched", message="too many to look.", count=10**6)
    assert failed("duplicates-across-splits", facts(notices=(unknown,))).value is None


def test_not_above_the_floor() -> None:
    weak = [candidate("majority", 500), candidate("probe", 504), candidate("bad", 300), candidate("lora", 850)]
    # On these nested answers 4 rows speak for probe and none against: exact McNemar has p = 2 x 2^-4.
    assert stats.binomtest(4, 4).pvalue > 0.05
    found = failed("not-above-floor", facts(*weak))
    assert found.touches == ("probe", "bad")
    assert found.value == pytest.approx(100 * (0.3 - 0.5))
    assert "Not shown to be better than majority, 50.0%: probe, bad. Below chance, 50.0%: bad." in found.sentence
    assert passed("not-above-floor", facts()).value == pytest.approx(100 * (0.7 - 0.5))


def test_better_than_a_floor_that_is_below_chance_is_not_enough() -> None:
    assert failed("not-above-floor", facts(candidate("majority", 100), candidate("probe", 400))).touches == ("probe",)


def test_without_a_floor_the_interval_is_to_be_above_chance() -> None:
    assert wilson(525, N_TEST).low < 0.5 < wilson(540, N_TEST).low
    assert failed("not-above-floor", facts(candidate("probe", 525), candidate("lora", 850))).touches == ("probe",)
    assert passed("not-above-floor", facts(candidate("probe", 540))).value == pytest.approx(4)


def test_dev_reused() -> None:
    few = wilson(42, 60)
    found = failed("dev-reused", facts(candidate("lora", 850, dev=few, trials=12), candidate("probe", 700)))
    rng = np.random.default_rng(0)
    luck = rng.standard_normal((200_000, 14)).max(axis=1).mean()  # 12 trials and 2 refits
    assert found.value == pytest.approx(100 * luck * (few.high - few.low) / (2 * 1.959964), rel=0.005)
    assert found.touches == ("lora",)
    assert "the highest of 14 fits" in found.sentence
    assert passed("dev-reused", facts()).value is not None
    # What does not read the text is not chosen for its dev value; what answered elsewhere has none.
    outside = candidate("lora", 850, dev=None, seeds=(), family="outside")
    assert passed("dev-reused", facts(candidate("majority", 500, dev=few, trials=99), outside)).value is None


@pytest.mark.parametrize(("k", "expected"), [(1, 0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))])
def test_expected_maximum_is_exact(k: int, expected: float) -> None:
    assert expected_maximum(k) == pytest.approx(expected, abs=1e-9)


def test_expected_maximum_grows_and_stays_below_its_bound() -> None:
    values = [expected_maximum(k) for k in (5, 10, 100, 10_000)]
    assert values[:3] == pytest.approx([1.16296, 1.53875, 2.50759], abs=1e-5)  # Harter 1961, table 1
    assert all(a < b for a, b in itertools.pairwise(values))
    assert values[-1] < math.sqrt(2 * math.log(10_000))


def test_unstable_seeds() -> None:
    values = (0.85, 0.70, 0.80)
    seeds = tuple(SeedResult(seed=k, dev=0.85, test=v, shipped=k == 0) for k, v in enumerate(values))
    found = failed("unstable-seeds", facts(candidate("lora", 850, seeds=seeds), candidate("probe", 700)))
    mean = sum(values) / 3
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    interval_of = stats.binomtest(850, N_TEST).proportion_ci(0.95, method="wilson")
    error = (interval_of.high - interval_of.low) / (2 * stats.norm.ppf(0.975))
    assert error == pytest.approx(math.sqrt(0.85 * 0.15 / N_TEST), rel=0.01)
    assert found.value == pytest.approx(sd / error, rel=1e-9)
    assert found.touches == ("lora",)
    assert passed("unstable-seeds", facts()).value == 0
    assert passed("unstable-seeds", facts(candidate("lora", 850, seeds=seeds[:1]))).value is None


def test_not_reproducible() -> None:
    dev = wilson(1_700, N_DEV)
    seeds = (
        SeedResult(seed=0, dev=0.9, test=0.85, shipped=False),
        SeedResult(seed=1, dev=dev.value + 3 / N_DEV, test=0.85, shipped=True),
    )
    found = failed("not-reproducible", facts(candidate("lora", 850, dev=dev, seeds=seeds), candidate("probe", 700)))
    assert found.value == pytest.approx(100 * 3 / N_DEV)
    assert found.touches == ("lora",)
    assert passed("not-reproducible", facts()).value == 0
    assert passed("not-reproducible", facts(candidate("lora", 850, dev=None))).value is None


def test_class_missing_in_train() -> None:
    found = failed("class-missing-in-train", facts(test_labels=["a", "art", "b", "film", "art"]))
    assert found.value == 3
    assert "3 of 5 test rows have a label without a training row: 'art', 'film'" in found.sentence
    assert passed("class-missing-in-train", facts(test_labels=["a", "a"])).value == 0


def test_test_reused() -> None:
    found = failed("test-reused", facts(test_reads=4))
    assert found.value == 4
    assert "4 times" in found.sentence
    assert passed("test-reused", facts()).value == 1


def test_cut_texts() -> None:
    def cut(*counts: int) -> tuple[Notice, ...]:
        return tuple(Notice(code="cut-texts", message="m", count=count) for count in counts)

    found = failed("cut-texts", facts(notices=cut(40, 101)))  # of two bases, the one that cuts more
    assert found.value == pytest.approx(100 * 101 / (7_000 + N_DEV + N_TEST))
    assert "101 of 10000 texts were cut, 1.0%" in found.sentence
    assert passed("cut-texts", facts(notices=cut(100))).value == 1.0  # no more than the margin
