"""What is written beside the adapters that are kept."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tunewright as tw
from tests.commands import write_topics
from tunewright.adapters import folder
from tunewright.methods.base import Method
from tunewright.methods.table import METHODS
from tunewright.runs.fits import refits, trials
from tunewright.runs.folder import adapter_folder
from tunewright.runtime import generator
from tunewright.training import state
from tunewright.tuning import fit
from tunewright.tuning.attempt import Outcome, Workshop, attempt
from tunewright.tuning.progress import Silent
from tunewright.types import Params


def test_what_a_method_says_of_its_adapter_is_kept(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Of the shots that were asked for, those that found room in a context of 64 tokens."""
    run = tw.compare(
        str(write_topics(tmp_path / "topics.csv", 60)), model=str(tiny_folder("llama")), trials=1, seeds=1, folds=1,
        methods="majority,few-shot", out=str(tmp_path / "run"), listener=Silent(),
    )  # fmt: skip
    adapter = run["few-shot"].adapter
    assert adapter.template is not None
    shown = len([part for part in adapter.template.fixed.split("\n\n") if part])
    assert adapter.about["params"]["shots"] == 8
    assert adapter.about["shots"] == shown < 8


NAMES = ("majority", "zero-shot", "few-shot", "linear-probe", "lora")


def test_with_one_seed_what_ships_is_the_trial_that_won(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained beyond the trials; each artefact is what its setting and randomness come to once more; and
    neither seconds nor tokens nor looks at dev count twice."""
    shops: dict[str, Workshop] = {}
    calls: Counter[str] = Counter()

    def counted(method: Method, params: Params, workshop: Workshop, *args: Any, **settings: Any) -> Outcome:
        shops[method.name] = workshop
        calls[method.name] += 1
        return attempt(method, params, workshop, *args, **settings)

    monkeypatch.setattr(fit, "attempt", counted)
    run = tw.compare(
        str(write_topics(tmp_path / "topics.csv", 60)), model=str(tiny_folder("bert")), trials=4, seeds=1, folds=1,
        methods=",".join(NAMES), out=str(tmp_path / "run"), listener=Silent(),
    )  # fmt: skip
    tried, fitted, found = trials(run.folder), refits(run.folder), run.comparison
    assert calls == Counter(trial.method for trial in tried)
    assert [refit.candidate for refit in fitted] == list(NAMES)
    for refit, candidate in zip(fitted, found.candidates, strict=True):
        mine = [t for t in tried if t.candidate == refit.candidate and t.status == "complete"]
        won = max(mine, key=lambda t: max((d["value"], -d["loss"], -t.trial) for d in t.dev))
        assert (refit.seed, refit.trial, refit.params, refit.dev) == (0, won.trial, won.params, won.value)
        (seed,) = candidate.seeds
        assert (seed.trial, seed.dev, candidate.cost.train_s) == (won.trial, won.value, won.seconds)
        assert candidate.cost.tokens == sum(t.num_tokens for t in tried if t.candidate == refit.candidate)
        rng = generator(0, refit.candidate, "trial", won.trial)
        again = attempt(METHODS[won.method], won.params, shops[won.method], rng, lambda *_: None).trained.adapter
        kept = folder.load(adapter_folder(run.folder, refit.candidate, 0))
        assert kept.with_temperature(1.0).sha256() == again.with_temperature(1.0).sha256()
    assert found.ledger is not None
    assert (found.ledger.refits_s, found.ledger.tokens) == (0, sum(t.num_tokens for t in tried))
    checks = {check.code: check for check in found.checks}
    assert (checks["not-reproducible"].passed, checks["unstable-seeds"].value) == (True, None)
    most = max(Counter(trial.candidate for trial in tried).values())
    assert f"the highest of {most} fits" in checks["dev-reused"].sentence
    assert "The trial that won for each method is what is shipped" in run.report.read_text(encoding="utf-8")


@pytest.mark.parametrize("seeds", [1, 2])
def test_only_what_may_ship_keeps_its_optimizer(
    seeds: int, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments are twice the size of what trains: a trial whose setting is fitted again does without."""
    kept: list[bool] = []

    def noted(*args: Any, **settings: Any) -> Outcome:
        kept.append(settings["keeps_state"])
        return attempt(*args, **settings)

    monkeypatch.setattr(fit, "attempt", noted)
    run = tw.compare(
        str(write_topics(tmp_path / "topics.csv", 60)), model=str(tiny_folder("bert")), trials=2, seeds=seeds, folds=1,
        methods="linear-probe", keep_state=True, out=str(tmp_path / "run"), listener=Silent(),
    )  # fmt: skip
    assert kept == [seeds == 1] * 2 + [True] * (seeds if seeds > 1 else 0)
    assert (run.adapter_folder("linear-probe") / state.FILE_NAME).exists()
