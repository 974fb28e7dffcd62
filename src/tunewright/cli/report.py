"""`tunewright report`: the page of a run, made again from its files; of two, what changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunewright.report.versus import Change, Versus


def report(
    run: Annotated[Path, typer.Argument(help="run folder")],
    other: Annotated[
        Path | None, typer.Argument(help="a later run: writes RUN-vs-OTHER.html beside RUN", metavar="[OTHER]")
    ] = None,
) -> None:
    """Make a run's report.html and report.md again; of two runs, compare them."""
    from tunewright.report.build import build_report, build_versus  # altair

    if other is None:
        print(build_report(run))
        return
    path, versus = build_versus(run, other)
    _print_changes(versus, run.resolve().name, other.resolve().name)
    print(path)


def _print_changes(versus: "Versus", old: str, new: str) -> None:
    """The table of the page, for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = ("candidate", "old, %", "new, %", *(() if versus.unpaired else ("points", "95% interval", "p")))
    for name in names:
        table.add_column(name, justify="left" if name == "candidate" else "right", no_wrap=True)
    for change in versus.changes:
        table.add_row(*_cells(change, paired=not versus.unpaired))
    if versus.recommended is not None:
        table.add_section()
        name, *cells = _cells(versus.recommended, paired=not versus.unpaired)
        table.add_row(f"recommended: {name}", *cells)
    console.print(f"old: {old}, new: {new}", markup=False, soft_wrap=True)
    console.print(table)
    if versus.unpaired:
        console.print(f"Not compared row by row: {versus.unpaired}.", markup=False, soft_wrap=True)


def _cells(change: "Change", *, paired: bool) -> list[str]:
    from markupsafe import Markup

    from tunewright.report import numbers

    shown = [numbers.share(None if value is None else value.value) for value in change.values]
    if paired:
        pair = change.pair
        shown.append(numbers.points(None if pair is None else pair.difference))
        shown.append(
            Markup(numbers.NONE) if pair is None else numbers.points(pair.low) + " to " + numbers.points(pair.high)
        )
        shown.append(numbers.probability(None if pair is None else pair.p_adjusted))
    return [change.name, *(cell.striptags() for cell in shown)]
