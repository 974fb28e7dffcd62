"""The tables of the registry. Times are ISO 8601 in UTC; nothing is ever deleted but what a task says is live."""

import secrets
from types import NoneType
from typing import Any, get_args, get_type_hints

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
    select,
)

from tunewright.errors import StateError
from tunewright.releases.entries import Feedback, Measured, Promotion, ShadowPair, Version
from tunewright.types import Estimate

SCHEMA_VERSION = 1

METADATA = MetaData()

_KINDS = {int: Integer, float: Float, bool: Boolean}


def _columns(record: type, *, without: tuple[str, ...] = (), nullable: bool = False) -> list[Column[Any]]:
    """A column for each field of a record, NULL where it may be None: a field more asks for another schema version."""
    hints = {name: hint for name, hint in get_type_hints(record).items() if name not in without}
    kinds = {name: get_args(hint) or (hint,) for name, hint in hints.items()}
    return [
        Column(name, _KINDS.get(of[0], Text), nullable=nullable or NoneType in of)  # words of a Literal are text
        for name, of in kinds.items()
    ]


changes = Table(
    "changes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("counter", Integer, nullable=False),
)
"""One row: how often tasks, versions, what is live or what is shadowed have changed."""

secret = Table("secret", METADATA, Column("id", Integer, primary_key=True), Column("value", Text, nullable=False))
"""One row: what signs the ids of requests; all servers of a registry share it."""

tasks = Table(
    "tasks",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("last_version", Integer, nullable=False),
    Column("live", Integer),
    Column("shadow", Integer),
    Column("shadow_share", Float, nullable=False),
)

versions = Table(
    "versions",
    METADATA,
    Column("task", ForeignKey("tasks.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    *_columns(Version, without=("task", "version", "measured")),
    Column("removed_at", Text),
    *_columns(Measured, without=("test",), nullable=True),
    *_columns(Estimate, nullable=True),
)

promotions = Table(
    "promotions",
    METADATA,
    Column("id", Integer, primary_key=True),
    *_columns(Promotion),
    ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
)

feedback = Table(
    "feedback",
    METADATA,
    Column("id", Integer, primary_key=True),
    *_columns(Feedback),
    Index("feedback_of_task", "task", "id"),
    Index("feedback_of_request", "request_id"),
)

shadow_pairs = Table(
    "shadow_pairs",
    METADATA,
    Column("id", Integer, primary_key=True),
    *_columns(ShadowPair),
    Index("pairs_of_task", "task", "version", "shadow", "id"),
)


def prepare(connection: Connection) -> None:
    """Makes the tables where there are none.

    Raises:
        StateError: They were made by a newer version.
    """
    METADATA.create_all(connection)
    if connection.execute(select(secret.c.value)).scalar() is None:
        connection.execute(insert(secret).values(id=1, value=secrets.token_hex(32)))
    written = connection.execute(select(changes.c.schema_version)).scalar()
    if written is None:
        connection.execute(insert(changes).values(id=1, schema_version=SCHEMA_VERSION, counter=0))
    elif written > SCHEMA_VERSION:
        raise StateError(f"the state has schema {written}. Allowed: up to {SCHEMA_VERSION}. Update tunewright.")
