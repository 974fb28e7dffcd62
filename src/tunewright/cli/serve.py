"""`tunewright serve`: one base in memory, answering for every task."""

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.errors import ConfigError, StateError, counted
from tunewright.releases.entries import DEFAULT_STATE

if TYPE_CHECKING:
    from tunewright.releases.state import State
    from tunewright.serve.tasks import Tasks

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?")


def serve(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            help="run folder (its recommended adapter) or adapter folder, each a task, NAME=FOLDER to name it; "
            "the tasks of the registry when absent"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="the base, where it is not under its name in training")] = None,
    host: Annotated[str, typer.Option(help="address; off this machine only with --api-keys")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free", min=0, max=65535)] = 8000,
    api_keys: Annotated[Path | None, typer.Option(help="file of keys, made by `tunewright key`")] = None,
    max_batch: Annotated[int, typer.Option(help="most rows of a pass", min=1)] = 64,
    prefix_cache: Annotated[str, typer.Option(help="memory for adapters, such as 512MB")] = "512MB",
    text_cache: Annotated[str, typer.Option(help="memory for texts that are being answered, such as 2GB")] = "2GB",
    state: Annotated[str, typer.Option(help="of the registry: SQLite file, or URL of a PostgreSQL")] = DEFAULT_STATE,
    keep_texts: Annotated[
        bool, typer.Option("--keep-texts", help="store feedback with the text of its request")
    ] = False,
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
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    prefix_bytes, text_bytes = _bytes("prefix-cache", prefix_cache), _bytes("text-cache", text_cache)
    keys = None if api_keys is None else key_file.Keys.read(api_keys)
    tasks, opened = _tasks(folders, state, keep_texts)
    listening = server.bind(host, port, keys)
    from tunewright.serve.gate import Limits
    from tunewright.serve.service import Service  # torch

    service = Service(
        tasks,
        limits=Limits(text_cache_bytes=text_bytes),
        max_batch=max_batch,
        prefix_cache_bytes=prefix_bytes,
        max_bases=max_bases,
        model=model,
        state=opened,
        keeps_texts=keep_texts,
    )
    served = counted(len(tasks.names()), "task")
    server.run(service, listening, keys=keys, on_start=lambda url: print(f"serving {served} on {url}", flush=True))


def _tasks(folders: list[str] | None, where: str, keep_texts: bool) -> "tuple[Tasks, State | None]":
    """The folders of the command line, or else what the registry has.

    Raises:
        ConfigError: Both, or `--keep-texts` where nothing is stored.
        StateError: The registry cannot be read, or has no live task that is served.
    """
    from tunewright.serve.tasks import Folders, unserved_at

    if folders:
        faults = [f"`--state {where}` has tasks of its own: leave it or the folders out."] * (where != DEFAULT_STATE)
        faults += ["`--keep-texts` stores feedback in the registry: leave the folders out."] * keep_texts
        if faults:
            raise ConfigError(faults)
        return Folders(folders), None
    if "://" not in where and not Path(where).exists():
        raise StateError(f"no registry {where}. Give folders to serve, or add tasks with `tunewright registry add`.")
    from tunewright.releases.state import State
    from tunewright.serve.registered import Registered

    state = State.open(where)
    tasks = Registered(state)
    if not tasks.names():
        raise StateError(f"{state.name} has no live task. Make one live: tunewright registry promote TASK VERSION")
    whys = [unserved_at(Path(served.folder)) for name in tasks.names() if (served := tasks.live(name)) is not None]
    if None not in whys:
        raise StateError(f"{state.name} has no task that is served: {whys[0]}")
    return tasks, state


def _bytes(option: str, size: str) -> int:
    """Of `512MB`.

    Raises:
        ConfigError: Not a size.
    """
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise ConfigError(f"`--{option}` must be a size such as 512MB or 2GB. Got {size!r}.")
    return int(float(match[1]) * {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}[match[2]])
