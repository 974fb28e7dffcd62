"""Conversations as inputs: a column whose cells are lists of messages, `{"role": ..., "content": ...}`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunewright.data.formats import clip
from tunewright.data.tables import Table
from tunewright.errors import DataError
from tunewright.types import Example

ROLES = ("system", "user", "assistant")
NAME, REPLY = "messages", "reply"
"""Columns: of whole conversations, and of what an assistant says last in them where nothing else is the target."""

Messages = tuple[tuple[str, str], ...]


def conversations(table: Table, column: str) -> list[Messages]:
    """The messages of each row; none of any where the column holds plain texts.

    Raises:
        DataError: Malformed messages, with the first such row and how many there are.
    """
    cells = [row[column] or "" for row in table.rows]
    if not any(_holds_messages(cell, column) for cell in cells):
        return [()] * len(cells)
    read = [(number, _read(cell)) for (number, _), cell in zip(table.numbered(), cells, strict=True)]
    faults = [(number, found) for number, found in read if isinstance(found, str)]
    if faults:
        number, fault = faults[0]
        raise DataError(
            f"{table.path}, row {number}, column {clip(column)!r}: {fault} ({len(faults)} such rows in all). Allowed: "
            f'a list of {{"role": {" or ".join(ROLES)}, "content": a text}}. Mend or remove these rows.'
        )
    return [found for _, found in read if not isinstance(found, str)]


def plain_text(messages: Messages) -> str:
    """For models without a chat template: one message of the user as it is, else a line for each, with its role."""
    if [role for role, _ in messages] == ["user"]:
        return messages[0][1]
    return "\n".join(f"{role.capitalize()}: {content}" for role, content in messages)


def spoken(example: Example, about: Mapping[str, Any]) -> Example:
    """The row as an adapter of this provenance takes it: of conversations a text alone is one message of the user."""
    if example.messages or not about.get(NAME):
        return example
    return replace(example, messages=(("user", example.text),))


def with_reply(table: Table, column: str | None, taken: Sequence[str]) -> Table:
    """The table with what an assistant says at the end of every conversation as a column of its own.

    One with any of the `taken` columns, which are a target, stays as it is, and one in which no assistant ends.

    Raises:
        DataError: Malformed messages; conversations of which some end so and some do not.
    """
    column = NAME if column is None else column
    is_there = column in table.columns and not set(taken) & {name.casefold() for name in table.columns}
    found = conversations(table, column) if is_there else []
    ends = [len(messages) > 1 and messages[-1][0] == ROLES[-1] for messages in found]
    if not any(ends):
        return table
    if lacking := [number for (number, _), is_reply in zip(table.numbered(), ends, strict=True) if not is_reply]:
        raise DataError(
            f"{table.path}, row {lacking[0]}, column {clip(column)!r}: no assistant's reply ends this conversation "
            f"({len(lacking)} of {len(ends)} rows). It must end all or none. Mend or remove these rows."
        )
    rows = tuple(
        {**row, column: json.dumps([{"role": r, "content": c} for r, c in messages[:-1]]), REPLY: messages[-1][1]}
        for row, messages in zip(table.rows, found, strict=True)
    )
    return replace(table, columns=(*table.columns, REPLY), rows=rows)


def _holds_messages(cell: str, column: str) -> bool:
    """A text may be JSON without being a conversation; what begins as a list of records is no text under that name."""
    begins = cell.lstrip()
    if column.casefold() == NAME or not begins.startswith("["):
        return begins.startswith("[") and begins[1:].lstrip().startswith("{")
    try:
        found: Any = json.loads(cell)
    except ValueError:
        return False
    return found != [] and isinstance(found[0], dict) and "role" in found[0]


def _read(cell: str) -> Messages | str:
    """The messages, or what is wrong with them."""
    try:
        found = json.loads(cell)
    except ValueError:
        return f"no JSON, {clip(cell)!r}"
    if not isinstance(found, list) or not found:
        return f"no messages, {clip(cell)!r}"
    for number, message in enumerate(found, 1):
        role, content = (message.get(k) for k in ("role", "content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            return f"message {number} has role {clip(repr(role))}"
        if not isinstance(content, str) or not (content.strip() or role == ROLES[0]):
            return f"message {number} has content {clip(repr(content))}"
    return tuple((message["role"], message["content"]) for message in found)
