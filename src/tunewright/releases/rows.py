"""Rows of the registry's tables, found and made into records, within a transaction of the caller's."""

import dataclasses
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, insert, select, update

from tunewright.errors import RegistryError, unknown
from tunewright.releases.entries import Action, Measured, Promotion, Version
from tunewright.releases.tables import promotions, tasks, versions
from tunewright.types import Estimate

R = TypeVar("R")


def find_task(connection: Connection, task: str, *, locked: bool = False) -> Row[Any]:
    """The row of a task that has a version.

    Raises:
        RegistryError: No such task.
    """
    chosen = select(tasks).where(tasks.c.name == task)
    row = connection.execute(chosen.with_for_update() if locked else chosen).one_or_none()
    if row is not None and present(connection, task):
        return row
    names = connection.execute(select(versions.c.task).where(versions.c.removed_at.is_(None)).distinct()).scalars()
    raise RegistryError(unknown("task", task[:80], sorted(names), todo="See `tunewright registry list`."))


def find_version(connection: Connection, task: str, number: int) -> Version:
    """A version that was not removed.

    Raises:
        RegistryError: No such task or version.
    """
    row = connection.execute(
        select(versions).where(is_version(task, number), versions.c.removed_at.is_(None))
    ).one_or_none()
    if row is not None:
        return to_version(row)
    find_task(connection, task)
    numbers = (str(found.version) for found in present(connection, task))
    raise RegistryError(unknown(f"version of {task}", str(number), numbers))


def present(connection: Connection, task: str) -> Sequence[Row[Any]]:
    """The versions of a task that were not removed, oldest first."""
    chosen = select(versions).where(versions.c.task == task, versions.c.removed_at.is_(None))
    return connection.execute(chosen.order_by(versions.c.version)).all()


def is_version(task: str, number: int) -> ColumnElement[bool]:
    """Where clause of one version."""
    return and_(versions.c.task == task, versions.c.version == number)


def make_live(
    connection: Connection, task: str, version: int, *, previous: int | None, action: Action, **said: Any
) -> Promotion:
    """Writes what is live and its line of the history; a version that becomes live is in shadow no more."""
    row = tasks.c.name == task
    connection.execute(update(tasks).where(row).values(live=version))
    connection.execute(update(tasks).where(row, tasks.c.shadow == version).values(shadow=None, shadow_share=0.0))
    done = Promotion(task=task, version=version, previous=previous, action=action, at=now(), **said)
    connection.execute(insert(promotions).values(dataclasses.asdict(done)))
    return done


def now() -> str:
    """As the tables have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def lived(history: Sequence[Row[Any]]) -> list[int]:
    """Versions that became live, each on top of the one before; going back takes off the top."""
    stack: list[int] = []
    for change in history:
        if change.action == "promote":
            stack.append(change.version)
        else:
            while stack and stack[-1] != change.version:
                stack.pop()
    return stack


def to_version(row: Row[Any]) -> Version:
    """A row of `versions`; what ten thousand of them share, such as the base's hash, is held once."""
    fields: dict[str, Any] = {k: sys.intern(v) if isinstance(v, str) else v for k, v in row._mapping.items()}
    own = {field.name: fields[field.name] for field in dataclasses.fields(Version) if field.name != "measured"}
    measured = None
    if row.run is not None:
        test = Estimate(value=row.value, low=row.low, high=row.high, n=row.n)
        names = ("run", "candidate", "seed", "metric", "test_sha256")
        measured = Measured(test=test, **{name: fields[name] for name in names})
    return Version(measured=measured, **own)


def to_records(connection: Connection, kind: type[R], chosen: Select[Any]) -> tuple[R, ...]:
    """Rows of a table that has a record's fields as its columns."""
    rows = connection.execute(chosen).mappings().all()
    return tuple(kind(**{name: value for name, value in row.items() if name != "id"}) for row in rows)
