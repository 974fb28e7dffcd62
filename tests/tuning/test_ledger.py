"""What a run took, from the lines it left; and the choice among what meets the requirements."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tunewright as tw
from tests.commands import write_topics, write_yaml
from tunewright.adapters import folder as adapters
from tunewright.errors import RunError
from tunewright.evaluation.cost import Prices
from tunewright.evaluation.requirements import NOT_MET
from tunewright.runs.fits import refits, trials
from tunewright.runs.folder import adapter_folder
from tunewright.types import FAMILIES


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    return found


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_effort_is_that_of_the_trials(finished_run: Path) -> None:
    """Trials, seconds and the best so far of each family, added up line by line."""
    history = trials(finished_run)
    found = tw.Run(finished_run).comparison.effort
    assert [each.family for each in found] == list(FAMILIES)
    for each in found:
        mine = [t for t in history if t.family == each.family]
        assert each.trials == len(mine) == len(each.best)
        assert each.seconds == pytest.approx(sum(t.seconds for t in mine), abs=1e-3)
        assert each.price == pytest.approx(sum(t.seconds for t in mine) / 3600 * 0.08, rel=1e-9)
        for end, best in enumerate(each.best, 1):
            values = [t.value for t in mine[:end] if t.status == "complete" and t.value is not None]
            assert best == max(values, default=None)


def test_the_ledger_adds_up(finished_run: Path) -> None:
    ledger = tw.Run(finished_run).comparison.ledger
    assert ledger is not None
    tried, fitted = trials(finished_run), refits(finished_run)
    kept = json.loads((finished_run / "elapsed.json").read_text(encoding="utf-8"))
    assert ledger.tuning_s == pytest.approx(sum(t.seconds for t in tried), abs=1e-3)
    assert ledger.refits_s == pytest.approx(sum(r.seconds for r in fitted), abs=1e-3)
    assert ledger.test_s == pytest.approx(sum(kept["test_s"].values()), abs=1e-3)
    assert ledger.tuning_s + ledger.refits_s + ledger.test_s < ledger.wall_s <= kept["elapsed_s"]
    assert ledger.cpu_s is not None
    assert 0 < ledger.cpu_s <= kept["cpu_s"]
    assert ledger.tokens == sum(t.num_tokens for t in tried) + sum(r.num_tokens for r in fitted) > 0
    files = [path for path in (finished_run / "adapters").rglob("*") if path.is_file()]
    assert ledger.stored_bytes == sum(len(path.read_bytes()) for path in files)
    assert ledger.price == pytest.approx(ledger.wall_s / 3600 * 0.08)
    assert (ledger.budget_s, ledger.max_cost, ledger.not_done) == (None, None, ())


def test_costs_of_each_candidate(finished_run: Path) -> None:
    taken = json.loads((finished_run / "elapsed.json").read_text(encoding="utf-8"))["test_s"]
    run = tw.Run(finished_run)
    (base,) = (b.id for b in run.comparison.backbones)
    for candidate in run.comparison.candidates:
        if candidate.test is None:
            continue
        cost, seed = candidate.cost, candidate.shipped_seed
        tokens = [t.num_tokens for t in trials(finished_run) if t.candidate == candidate.id]
        tokens += [r.num_tokens for r in refits(finished_run) if r.candidate == candidate.id]
        assert cost.tokens == sum(tokens)
        assert [each.batch for each in cost.latency] == [1, 32]
        assert cost.latency_ms == cost.latency[0].p50_ms
        assert seed is not None
        adapter = adapters.load(adapter_folder(finished_run, candidate.id, seed))
        shared_s = taken[base] if adapter.needs_features and not adapter.has_body else 0.0
        assert cost.predict_s == pytest.approx(taken[f"{candidate.id}/{seed}"] + shared_s, abs=1e-3)
        assert cost.price is not None
        assert cost.ownership is not None
        prices = Prices()
        all_requests = cost.price * prices.requests_per_month * prices.months / 1000
        assert cost.ownership >= all_requests * (1 - 1e-9), "the search comes on top"


# --- prices and requirements in a run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path]) -> dict[str, Any]:
    data = write_topics(tmp_path_factory.mktemp("data") / "topics.csv", 45)
    methods = "majority,zero-shot,linear-probe"
    return {"data": str(data), "model": str(tiny_folder("bert")), "methods": methods, "trials": 2, "seeds": 1}


def test_the_users_prices_are_in_the_decision_and_checked_on_resume(settings: dict[str, Any], tmp_path: Path) -> None:
    prices = write_yaml(tmp_path / "p.yaml", {"usd_per_petaflop": 5, "usd_per_hour": 36, "outside": {"rules": 0.1}})
    out = tmp_path / "run"
    found = tw.compare(**settings, prices=str(prices), requests_per_day=12, months=3, out=str(out)).comparison
    assert found.decision is not None
    assert found.decision.prices == {
        "usd_per_petaflop": 5.0, "usd_per_gigabyte_month": 3.0, "usd_per_hour": 36.0, "requests_per_month": 365.0,
        "months": 3.0,
    }  # fmt: skip
    assert found.ledger is not None
    assert found.ledger.price == pytest.approx(found.ledger.wall_s / 100, rel=1e-3)
    kept = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))
    assert (kept["prices"], kept["requests_per_day"], kept["months"]) == (str(prices), 12, 3)
    write_yaml(prices, {"usd_per_petaflop": 6})
    with pytest.raises(RunError, match="the prices changed since the run began"):
        tw.compare(out=str(out), resume=True)


def test_who_fails_a_requirement_is_out_and_still_shown(settings: dict[str, Any], tmp_path: Path) -> None:
    """Only zero-shot is text: the probe is better and out; the floor stays as the yardstick."""
    found = tw.compare(**settings, require="editable,quality>=0.01", out=str(tmp_path / "run")).comparison
    decision = found.decision
    assert decision is not None
    by_id = {c.id: c for c in found.candidates}
    assert by_id["linear-probe"].unmet == ("editable: it cannot be changed by editing text",)
    assert by_id["zero-shot"].unmet == ()
    assert by_id["linear-probe"].test is not None
    assert decision.requirements == ("editable", "quality>=0.01")
    assert decision.recommended in (None, "zero-shot")
    assert {frozenset((p.a, p.b)) for p in found.pairs} == {frozenset(("majority", "zero-shot"))}
    if decision.recommended is None:
        assert decision.reason.startswith("Nothing is recommended: majority, the floor, fails the requirements itself")
    else:
        assert "Not meeting the requirements: linear-probe, majority." in decision.reason


def test_when_nobody_is_left_the_nearest_misses_are_shown(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunewright.cli.summary import print_summary

    run = tw.compare(**settings, require="bytes<=1", out=str(tmp_path / "run"))
    decision = run.decision
    assert (decision.recommended, decision.verdict) == (None, NOT_MET)
    assert (decision.stability, decision.corrected_value) == (None, None)
    sizes = {c.id: c.cost.adapter_bytes or 0 for c in run.comparison.candidates}
    nearest = [miss.split()[0] for miss in decision.nearest_misses]
    assert nearest == sorted(sizes, key=lambda name: sizes[name])
    assert decision.nearest_misses[0] == f"{nearest[0]} lacks bytes {sizes[nearest[0]]} B, required at most 1 B"
    assert all(c.unmet for c in run.comparison.candidates)
    assert len(run.comparison.pairs) == 3, "all are compared, so that the reader can see what the requirement costs"
    assert "No candidate meets what is required" in run.report.read_text(encoding="utf-8")
    print_summary(run, tmp_path)
    said = capsys.readouterr().out
    assert "No candidate meets the requirements. Nearest: " in said
    assert "Predict:" not in said


# --- out of time ------------------------------------------------------------------------------------------------------


def test_a_spent_budget_ends_with_the_floor_and_says_what_is_missing(settings: dict[str, Any], tmp_path: Path) -> None:
    """A budget that is spent before the search begins: no crash, a decision from what costs nothing."""
    found = tw.compare(**settings | {"trials": None}, budget=0.001, out=str(tmp_path / "run")).comparison
    by_id = {c.id: c for c in found.candidates}
    assert by_id["majority"].status == "ok"
    assert found.decision is not None
    assert found.ledger is not None
    assert found.ledger.budget_s == 0.001
    assert found.ledger.not_done
    for candidate in found.candidates:
        if candidate.test is None:
            assert candidate.reason is not None
            assert "raise" in candidate.reason
            assert any(line.startswith(f"{candidate.id}: ") for line in found.ledger.not_done)


def test_a_limit_of_the_cost_is_a_budget(settings: dict[str, Any], tmp_path: Path) -> None:
    prices = write_yaml(tmp_path / "p.yaml", {"usd_per_hour": 3600})
    given = settings | {"trials": None, "max_cost": 0.001, "prices": str(prices)}
    ledger = tw.compare(**given, out=str(tmp_path / "run")).comparison.ledger
    assert ledger is not None
    assert (ledger.max_cost, ledger.budget_s) == (0.001, None)
    assert ledger.not_done
    assert np.isfinite(ledger.wall_s)
