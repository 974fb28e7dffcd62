"""The tables of the registry. Times are ISO 8601 in UTC; nothing is ever deleted but what a task says is live."""

import secrets

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

SCHEMA_VERSION = 1

METADATA = MetaData()

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
    Column("folder", Text, nullable=False),
    Column("adapter_sha256", Text, nullable=False),
    Column("base_name", Text, nullable=False),
    Column("base_sha256", Text, nullable=False),
    Column("added_at", Text, nullable=False),
    Column("added_by", Text, nullable=False),
    Column("removed_at", Text),
    Column("run", Text),
    Column("candidate", Text),
    Column("seed", Integer),
    Column("metric", Text),
    Column("value", Float),
    Column("low", Float),
    Column("high", Float),
    Column("n", Integer),
    Column("test_sha256", Text),
)

promotions = Table(
    "promotions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("task", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("previous", Integer),
    Column("action", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("forced", Boolean, nullable=False),
    ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
)

feedback = Table(
    "feedback",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("answer", Text),
    Column("corrected", Text),
    Column("comment", Text),
    Column("text", Text),
    Column("text_pair", Text),
    Column("at", Text, nullable=False),
    Index("feedback_of_task", "task", "id"),
    Index("feedback_of_request", "request_id"),
)

shadow_pairs = Table(
    "shadow_pairs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("shadow", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Column("shadow_answer", Text, nullable=False),
    Column("at", Text, nullable=False),
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
