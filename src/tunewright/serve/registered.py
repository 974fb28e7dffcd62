"""The tasks of a registry, in memory: what is live, and what answers silently beside it."""

from collections.abc import Sequence

from tunewright.errors import RegistryError
from tunewright.releases.entries import TaskEntry, Version
from tunewright.releases.shadow import shadow_of
from tunewright.releases.state import State
from tunewright.serve.tasks import Served


class Registered:
    """A registry's tasks as they were when last looked at; a change is seen at the next look, whole or not at all.

    Args:
        state: The registry.

    Raises:
        StateError: It cannot be read.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._seen = -1
        self._entries: dict[str, TaskEntry] = {}
        self.refresh()

    def names(self) -> Sequence[str]:
        return list(self._entries)

    def live(self, task: str) -> Served | None:
        entry = self._entries.get(task)
        return None if entry is None or entry.live is None else _served(entry.live)

    def version(self, task: str, number: int) -> Served | None:
        try:
            return _served(self._state.version(task, number))
        except RegistryError:
            return None

    def shadow(self, task: str, request_id: str) -> Served | None:
        entry = self._entries.get(task)
        found = None if entry is None else shadow_of(entry, request_id)
        return None if found is None else _served(found)

    def refresh(self) -> None:
        seen = self._state.change_counter()
        if seen != self._seen:
            # Counted before they are read: a change between the two is seen again at the next look.
            self._entries = {entry.name: entry for entry in self._state.tasks() if entry.live is not None}
            self._seen = seen


def _served(version: Version) -> Served:
    return Served(task=version.task, version=version.version, folder=version.folder, sha256=version.adapter_sha256)
