"""Flags for settings, out of their record: a setting is described in one place.

All but switches are taken as text, so that all faults of a call are told at once and in one style.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from tunewright.config import RunConfig

_COUNTS = ("rows", "trials", "requests_per_day", "months", "seeds", "seed", "folds", "repeats", "max_tokens")
_SHOWN = dict.fromkeys(_COUNTS, "N") | {
    **dict.fromkeys(("template", "database", "retention"), "FILE"),
    **dict.fromkeys(("documents", "start_from"), "FOLDER"),
    "max_cost": "USD",
    "margin": "POINTS",
    "predictions": "NAME=FILE",
    "vector_store": "URL",
}
"""Setting -> what stands behind its flag in the help, where that is not TEXT."""
_SWITCHES = {"pruning": "--pruning/--no-pruning", "keep_state": "--keep-state", "resume": "--resume"}
_REPEATED = ("model", "predictions", "slice")


def with_settings(command: Callable[..., None], names: Iterable[str]) -> Callable[..., None]:
    """The command, whose `**given` become flags for these settings, each None where it is not given."""
    own = inspect.signature(command).parameters.values()
    parts = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.kind != p.VAR_KEYWORD]
    command.__dict__["__signature__"] = inspect.Signature([*parts, *map(_parameter, names)])
    return command


def _parameter(name: str) -> inspect.Parameter:
    about, shown = RunConfig.model_fields[name].description, _SHOWN.get(name)
    kind: Any = bool if name in _SWITCHES else list[str] if name in _REPEATED else str
    how: Any = typer.Option(_SWITCHES.get(name, f"--{name.replace('_', '-')}"), help=about, metavar=shown)
    if name == "data":
        how = typer.Argument(help=about, metavar="DATA")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, how])
