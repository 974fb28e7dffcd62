"""The metric of a name: ours, one that needs a setting, or a function of the user's."""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.data.database import Database, Refused
from tunewright.errors import ConfigError, RunError, unknown
from tunewright.evaluation import sql
from tunewright.evaluation.metrics import METRICS, Metric, References, StatsArray, mean
from tunewright.types import TaskKind

ENTRY_POINTS = "tunewright.metrics"
"""Group in which an installed package names metrics of its own."""

Judge = Callable[[str, tuple[str, ...]], float]
"""(answer, all that is right for the row) -> a value from 0 to 1."""


def find_metric(name: str, kind: TaskKind, *, database: str | None = None) -> Metric:
    """The metric that the user names, ready to judge.

    A name with a colon, `module:function`, and the name of an entry point are code of the user's, which is imported
    here and nowhere else: never for a name that a run folder or an adapter brings.

    Args:
        name: As given.
        kind: Of the task.
        database: SQLite file, for `sql-execution` alone.

    Raises:
        ConfigError: Unknown, of other tasks, without the setting it needs or with one it has no use for; code that
            cannot be imported.
    """
    own = METRICS.get(name)
    if database is not None and (own is None or own.needs != "database"):
        raise ConfigError(f"`database` has no effect with metric {name!r}. Use it with sql-execution or leave it out.")
    if own is None and (judge := _judge(name)) is not None:
        return Metric(name=name, kinds=(kind,), stats=partial(_judged, name, judge), of_sums=mean, is_mean=True)
    allowed = [metric.name for metric in METRICS.values() if kind in metric.kinds]
    if own is None or name not in allowed:
        todo = "A function of yours is named module:function."
        raise ConfigError(unknown("metric", name, allowed, todo=todo))
    if own.needs is None:
        return own
    if database is None:
        raise ConfigError(f"metric {name!r} needs `{own.needs}`. Got none. Give the SQLite file with --{own.needs}.")
    return _by_execution(own, Database(database))


def is_stored(name: str) -> bool:
    """Whether its name says all that is needed to judge by it."""
    return name in METRICS and METRICS[name].needs is None


def stored_metric(name: str) -> Metric:
    """The metric that a run folder or an adapter names.

    Raises:
        RunError: It is code of somebody's, or needs a setting: both are the user's to name.
    """
    if not is_stored(name):
        what = f"needs a {METRICS[name].needs}" if name in METRICS else "is code of its user's"
        raise RunError(f"metric {name!r} {what}, which is not taken from a folder. Name the metric yourself.")
    return METRICS[name]


def _by_execution(metric: Metric, database: Database) -> Metric:
    @cache
    def execute(query: str) -> sql.Found:
        try:
            return sql.found(database.rows(query))
        except Refused as error:
            return sql.Found(fault=str(error))

    def stats(answers: Sequence[str], references: References, _: Sequence[str]) -> StatsArray:
        return sql.stats(execute, answers, references)

    return replace(metric, stats=stats, remarks=partial(sql.faults, execute))


def is_code(name: str) -> bool:
    """Whether a name can be a function of the user's."""
    return all(_target(name).partition(":"))


def _target(name: str) -> str:
    """`module:function` of an entry point of that name; else the name."""
    return next((point.value for point in metadata.entry_points(group=ENTRY_POINTS) if point.name == name), name)


def _judge(name: str) -> Judge | None:
    """The function of that name; None where the name can be none.

    Raises:
        ConfigError: It cannot be imported, or is no function.
    """
    if not is_code(name):
        return None
    module, _, function = _target(name).partition(":")
    found: Any = _imported(name, module)
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"metric {name!r}: {module} has no function {function!r}. Check the name.")
    return found  # type: ignore[no-any-return]


def _imported(name: str, module: str) -> Any:
    """Also from the working directory, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        return importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  # whatever a user's code may raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"metric {name!r}: {module!r} cannot be imported ({said}). Check the name.") from None
    finally:
        sys.path.remove(here)


def _judged(name: str, judge: Judge, answers: Sequence[str], references: References, _: Sequence[str]) -> StatsArray:
    """The user's value of each row: [N, 1].

    Raises:
        ConfigError: The function fails, or returns no number from 0 to 1.
    """
    rows = zip(answers, references, strict=True)
    return np.array([[_value(name, judge, given, tuple(right))] for given, right in rows], np.float64)


def _value(name: str, judge: Judge, given: str, right: tuple[str, ...]) -> float:
    try:
        value: object = judge(given, right)
    except Exception as error:  # noqa: BLE001  # whatever a user's code may raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"metric {name!r} failed on the answer {given[:60]!r} ({said}). Mend the function.") from None
    is_number = isinstance(value, bool | int | float | np.number | np.bool_)
    if not is_number or not math.isfinite(number := float(value)) or not 0 <= number <= 1:  # type: ignore[arg-type]
        raise ConfigError(
            f"metric {name!r} must return a number from 0 to 1. Got {value!r} for the answer {given[:60]!r}. "
            "Mend the function."
        )
    return number
