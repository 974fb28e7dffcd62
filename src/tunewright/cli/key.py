"""`tunewright key`: a key for a server that other machines can reach."""

from pathlib import Path
from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    file: Annotated[Path, typer.Option(help="file of keys, made where there is none")],
    tasks: Annotated[str | None, typer.Option(help="tasks it may ask, comma separated; all when absent")] = None,
    rows_per_minute: Annotated[int | None, typer.Option(help="most rows a minute; 600 when absent")] = None,
) -> None:
    """Make a key for `serve --api-keys`; shown once, stored as a hash."""
    from tunewright.serve.keys import add_key

    allowed = None if tasks is None else [task.strip() for task in tasks.split(",")]
    print(add_key(file, name, tasks=allowed, rows_per_minute=rows_per_minute))
