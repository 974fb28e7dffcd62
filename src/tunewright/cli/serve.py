"""`tunewright serve`: one base in memory, answering for every task."""

import logging
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunewright.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?")


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("serve", help="Answer over HTTP for many tasks from one base.")(serve)


def serve(
    tasks: Annotated[
        list[str],
        typer.Argument(help="run folder (its recommended adapter) or adapter folder; NAME=FOLDER names the task"),
    ],
    model: Annotated[str | None, typer.Option(help="the base, where it is not under its name in training")] = None,
    host: Annotated[str, typer.Option(help="address; off this machine only with --api-keys")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free", min=0, max=65535)] = 8000,
    api_keys: Annotated[Path | None, typer.Option(help="file of keys, made by `tunewright key`")] = None,
    max_batch: Annotated[int, typer.Option(help="most rows of a pass", min=1)] = 64,
    prefix_cache: Annotated[str, typer.Option(help="memory for adapters, such as 512MB")] = "512MB",
    max_bases: Annotated[int, typer.Option(help="bases and adapters with weights of their own in memory", min=1)] = 2,
) -> None:
    """Answer over HTTP for many tasks from one base."""
    try:
        from tunewright.serve import keys as key_file
        from tunewright.serve import server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "tunewright":
            raise
        raise ConfigError(f"serving needs {error.name}: pip install 'tunewright[serve]'") from None
    from tunewright.serve.tasks import Folders

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    cache_bytes = _bytes(prefix_cache)
    keys = None if api_keys is None else key_file.Keys.read(api_keys)
    given = Folders(tasks)
    listening = server.bind(server.Address(host=host, port=port), keys)
    from tunewright.serve.gate import Limits
    from tunewright.serve.service import Service  # torch

    service = Service(
        given,
        limits=Limits(),
        max_batch=max_batch,
        prefix_cache_bytes=cache_bytes,
        max_bases=max_bases,
        model=model,
    )
    count = len(given.names())
    server.run(
        service,
        listening,
        keys=keys,
        on_start=lambda url: print(f"serving {count} task{'s' if count > 1 else ''} on {url}", flush=True),
    )


def _bytes(size: str) -> int:
    """Of `512MB`.

    Raises:
        ConfigError: Not a size.
    """
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise ConfigError(f"`--prefix-cache` must be a size such as 512MB or 2GB. Got {size!r}.")
    return int(float(match[1]) * {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}[match[2]])
