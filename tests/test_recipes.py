"""Each recipe is a whole run: its settings load, name every choice that matters, and its methods and metric exist."""

from pathlib import Path

import pytest

from tunewright.config import RunConfig, choose, load_config, read_yaml
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.table import METHODS

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
OF_ONE_CALL = {"out", "resume", "start_from", "keep_state"}
"""Settings that belong to one call and not to a task."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    config = load_config(str(path), {})
    assert set(read_yaml(path)) == set(RunConfig.model_fields) - OF_ONE_CALL
    assert choose("method", config.methods, tuple(METHODS))
    assert config.metric in METRICS
    assert load_config(str(path), {"data": "mine.csv"}).data == "mine.csv"


def test_support_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("recipes/support.yaml", {})
    assert config.descriptions is not None
    assert Path(config.data).is_file()
    assert Path(config.descriptions).is_file()
