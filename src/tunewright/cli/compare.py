"""`tunewright compare`: the whole way from a file to a decision."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewright.config import RunConfig, load_config


def _about(field: str) -> str | None:
    return RunConfig.model_fields[field].description


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("compare", help="Compare ways of adapting a model on your data and say which to take.")(compare)


def compare(
    data: Annotated[str | None, typer.Argument(help=_about("data"), metavar="DATA")] = None,
    dev: Annotated[str | None, typer.Option(help=_about("dev"))] = None,
    test: Annotated[str | None, typer.Option(help=_about("test"))] = None,
    task: Annotated[str | None, typer.Option(help=_about("task"))] = None,
    text: Annotated[str | None, typer.Option(help=_about("text"))] = None,
    text_pair: Annotated[str | None, typer.Option(help=_about("text_pair"))] = None,
    label: Annotated[str | None, typer.Option(help=_about("label"))] = None,
    label_separator: Annotated[str | None, typer.Option(help=_about("label_separator"))] = None,
    choices: Annotated[str | None, typer.Option(help=_about("choices"))] = None,
    input: Annotated[str | None, typer.Option(help=_about("input"))] = None,  # noqa: A002
    target: Annotated[str | None, typer.Option(help=_about("target"))] = None,
    reasoning: Annotated[str | None, typer.Option(help=_about("reasoning"))] = None,
    descriptions: Annotated[str | None, typer.Option(help=_about("descriptions"))] = None,
    rows: Annotated[str | None, typer.Option(help=_about("rows"), metavar="N")] = None,
    model: Annotated[list[str] | None, typer.Option(help=_about("model"))] = None,
    methods: Annotated[str | None, typer.Option(help=_about("methods"))] = None,
    template: Annotated[str | None, typer.Option(help=_about("template"), metavar="FILE")] = None,
    documents: Annotated[str | None, typer.Option(help=_about("documents"), metavar="FOLDER")] = None,
    vector_store: Annotated[str | None, typer.Option(help=_about("vector_store"), metavar="URL")] = None,
    trials: Annotated[str | None, typer.Option(help=_about("trials"), metavar="N")] = None,
    budget: Annotated[str | None, typer.Option(help=_about("budget"))] = None,
    max_cost: Annotated[str | None, typer.Option(help=_about("max_cost"), metavar="USD")] = None,
    prices: Annotated[str | None, typer.Option(help=_about("prices"))] = None,
    requests_per_day: Annotated[str | None, typer.Option(help=_about("requests_per_day"), metavar="N")] = None,
    months: Annotated[str | None, typer.Option(help=_about("months"), metavar="N")] = None,
    seeds: Annotated[str | None, typer.Option(help=_about("seeds"), metavar="N")] = None,
    seed: Annotated[str | None, typer.Option(help=_about("seed"), metavar="N")] = None,
    metric: Annotated[str | None, typer.Option(help=_about("metric"))] = None,
    database: Annotated[str | None, typer.Option(help=_about("database"), metavar="FILE")] = None,
    margin: Annotated[str | None, typer.Option(help=_about("margin"), metavar="POINTS")] = None,
    require: Annotated[str | None, typer.Option(help=_about("require"))] = None,
    predictions: Annotated[list[str] | None, typer.Option(help=_about("predictions"), metavar="NAME=FILE")] = None,
    folds: Annotated[str | None, typer.Option(help=_about("folds"), metavar="N")] = None,
    repeats: Annotated[str | None, typer.Option(help=_about("repeats"), metavar="N")] = None,
    slice: Annotated[list[str] | None, typer.Option(help=_about("slice"))] = None,  # noqa: A002
    swap: Annotated[str | None, typer.Option(help=_about("swap"))] = None,
    error_costs: Annotated[str | None, typer.Option(help=_about("error_costs"))] = None,
    pruning: Annotated[bool | None, typer.Option("--pruning/--no-pruning", help=_about("pruning"))] = None,
    start_from: Annotated[str | None, typer.Option(help=_about("start_from"), metavar="FOLDER")] = None,
    keep_state: Annotated[bool | None, typer.Option("--keep-state", help=_about("keep_state"))] = None,
    retention: Annotated[str | None, typer.Option(help=_about("retention"), metavar="FILE")] = None,
    max_tokens: Annotated[str | None, typer.Option(help=_about("max_tokens"), metavar="N")] = None,
    out: Annotated[str | None, typer.Option(help=_about("out"))] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help=_about("resume"))] = None,
    config: Annotated[str | None, typer.Option(help="YAML file with any of these settings")] = None,
) -> None:
    """Compare ways of adapting a model on your data and say which to take.

    Numbers are taken as text, so that all faults of a call are told at once and in one style.
    """
    given: dict[str, Any] = {key: value for key, value in locals().items() if key != "config"}
    settings = load_config(config, given)
    from tunewright.api import compare as run_comparison  # torch
    from tunewright.cli.summary import print_summary
    from tunewright.tuning.progress import Start

    run = run_comparison(settings, command=("tunewright", *sys.argv[1:]), start=Start.of_process())
    print_summary(run, Path.cwd())
