"""`tunewright report`: the page of a run, made again from its files."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("report", help="Make a run's report.html again from its folder.")(report)


def report(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Make a run's report.html again from its folder."""
    from tunewright.report.build import build_report  # altair

    print(build_report(run))
