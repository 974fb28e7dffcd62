"""`tunewright methods`: the table of methods."""

_NARROWEST = 64
"""Columns of the terminal that leave room for text beside the names, which are never cut."""


def methods() -> None:
    """List the methods: family, what they train, what they cost to serve."""
    from rich.console import Console
    from rich.table import Table

    from tunewright.methods.table import METHODS  # torch
    from tunewright.types import FAMILIES

    table = Table(show_lines=True)
    for header, names in (("method", METHODS), ("family", FAMILIES)):
        table.add_column(header, no_wrap=True, min_width=max(map(len, names)))
    for header in ("what it does", "what it trains", "what serving adds"):
        table.add_column(header, overflow="fold")
    for method in METHODS.values():
        table.add_row(method.name, method.family, method.summary, method.trains, method.serves)
    Console(width=max(Console().width, _NARROWEST)).print(table)
