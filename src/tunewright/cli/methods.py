"""`tunewright methods`: the table of methods."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("methods", help="List the methods: family, what they train, what they cost to serve.")(methods)


def methods() -> None:
    """List the methods: family, what they train, what they cost to serve."""
    from rich.console import Console
    from rich.table import Table

    from tunewright.methods import METHODS  # torch

    table = Table(show_lines=True)
    for name in ("method", "family", "what it does", "what it trains", "what serving adds"):
        table.add_column(name)
    for method in METHODS.values():
        table.add_row(method.name, method.family, method.summary, method.trains, method.serves)
    Console().print(table)
