"""`tunewright compare`: the whole way from a file to a decision."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewright.config import load_config


def compare(
    config: Annotated[str | None, typer.Option(help="YAML file with any of these settings")] = None, **given: Any
) -> None:
    """Compare ways of adapting a model on your data and say which to take."""
    settings = load_config(config, given)
    from tunewright.api import compare as run_comparison  # torch
    from tunewright.cli.summary import print_summary
    from tunewright.tuning.progress import Start

    run = run_comparison(settings, command=("tunewright", *sys.argv[1:]), start=Start.of_process())
    print_summary(run, Path.cwd())
