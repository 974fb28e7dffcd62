"""Tables of named things: no name twice."""

from typing import Protocol, TypeVar


class Named(Protocol):
    """Anything with a unique kebab-case name: the word used in every flag, file and page."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def table(*entries: N) -> dict[str, N]:
    """The entries by name, in the order given."""
    named = {entry.name: entry for entry in entries}
    assert len(named) == len(entries), "two entries share a name"
    return named
