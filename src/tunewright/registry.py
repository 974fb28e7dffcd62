"""Tables of named things: no name twice, and a miss that teaches."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from tunewright.errors import ConfigError, unknown


class Named(Protocol):
    """Anything with a unique kebab-case name: the word used in every flag, file and page."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)
T = TypeVar("T")


def table(*entries: N) -> dict[str, N]:
    """The entries by name, in the order given."""
    named = {entry.name: entry for entry in entries}
    assert len(named) == len(entries), "two entries share a name"
    return named


def lookup(entries: Mapping[str, T], what: str, name: str) -> T:
    """The entry of that name.

    Args:
        entries: A table.
        what: What an entry is, in one word, for the error.
        name: As the user wrote it.

    Raises:
        ConfigError: No entry has it; the nearest name is offered.
    """
    if name not in entries:
        raise ConfigError(unknown(what, name, entries))
    return entries[name]
