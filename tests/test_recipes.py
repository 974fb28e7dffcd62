"""Each recipe is a whole run: its settings load, name every choice that matters, and its methods and metric exist."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.commands import write_table
from tunewright.api import compare
from tunewright.config import RunConfig, choose, load_config, read_yaml
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.table import METHODS
from tunewright.tuning.progress import Silent

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
OF_ONE_CALL = {"out", "resume", "start_from", "keep_state", "vector_store"}
"""Settings that belong to one call and not to a task."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    config = load_config(str(path), {})
    assert set(read_yaml(path)) == set(RunConfig.model_fields) - OF_ONE_CALL
    assert choose("method", config.methods, tuple(METHODS))
    assert config.metric in METRICS
    assert load_config(str(path), {"data": "mine.csv"}).data == "mine.csv"


def column_of(config: RunConfig, role: str, usual: str) -> str:
    return str(getattr(config, role) or usual)


def rows_for(config: RunConfig, path: Path) -> str:
    """A small table with the columns that a recipe names."""
    texts = [f"{word} {filler}" for word in tiny.WORDS[18:] for filler in ("today", "one")]
    if config.task == "generate":
        columns = (column_of(config, "input", "input"), column_of(config, "target", "target"))
        answers = [f"so #### {k % 7}" if config.reasoning else f"select {k % 7}" for k in range(len(texts))]
    elif config.choices:
        names = (str(config.text), str(config.text_pair), *config.choices, str(config.label))
        rows = [(text, "effect", f"{text} a", f"b {text}", str(k % 2)) for k, text in enumerate(texts)]
        return str(write_table(path, names, rows))
    else:
        columns = (column_of(config, "text", "text"), column_of(config, "label", "label"))
        answers = [str(tuple(tiny.GROUPS)[k // 16]) for k in range(len(texts))]
    return str(write_table(path, columns, zip(texts, answers, strict=True)))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs(path: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """In a small form: few rows of its columns, a tiny model, one trial of its cheapest methods."""
    recipe = load_config(str(path), {})
    writes = recipe.task == "generate"
    cheap = ("majority", "nearest-target", "zero-shot", "few-shot", "chain-of-thought")
    named = [name for name in cheap if name in recipe.methods or "all" in recipe.methods]
    methods = [name for name in named if recipe.task in METHODS[name].kinds][:3]
    database = tmp_path / "rows.sqlite"
    sqlite3.connect(database).close()
    settings = {
        "data": rows_for(recipe, tmp_path / "rows.csv"),
        "model": [str(tiny_folder("llama" if writes else "bert"))],
        "methods": [methods[0], "chain-of-thought"] if recipe.reasoning else methods,
        "trials": 1,
        "seeds": 1,
        "folds": 1,
        "out": str(tmp_path / "run"),
        **({"database": str(database)} if recipe.metric == "sql-execution" else {}),
        **({"descriptions": str(described(tmp_path))} if recipe.descriptions else {}),
    }
    run = compare(load_config(str(path), settings), listener=Silent())
    statuses = {c.id: c.status for c in run.comparison.candidates}
    assert run.comparison.task.metric == recipe.metric
    assert statuses[methods[0]] == "ok"
    assert "failed" not in statuses.values()
    assert run.report.is_file()
    if recipe.reasoning is not None:  # what a random model writes holds no cue: illegal, counted and said
        reasoned = next(c for c in run.comparison.candidates if c.id == "chain-of-thought")
        num = run.comparison.task.n_test
        assert reasoned.remarks == (
            f"{num} of {num} answers were not said behind 'The answer is'; they count as empty",
        )


def described(folder: Path) -> Path:
    """Descriptions of the small table's labels."""
    path = folder / "labels.yaml"
    path.write_text("\n".join(f"{label}: {label} words" for label in tiny.GROUPS), encoding="utf-8")
    return path


def test_support_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("recipes/support.yaml", {})
    assert config.descriptions is not None
    assert Path(config.data).is_file()
    assert Path(config.descriptions).is_file()
