"""Which adapter answers for a task: what the server asks of a registry, and the folders of a command line as one."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunewright.config import REMOTE
from tunewright.errors import ConfigError, RunError
from tunewright.files import read_json
from tunewright.releases.entries import NAME
from tunewright.runs import comparison
from tunewright.runs.shipped import home_of, recommended


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One version of a task: what a request is answered by from its first row to its last."""

    task: str
    version: int
    folder: str
    sha256: str | None = None
    """Of the adapter, where a registry knows it; another one in the folder is refused."""


_UNSERVED = {
    "thresholds": "answers with several labels",
    # Every row would write all of its reasoning within one pass, while the rows of all other tasks wait.
    "reasoning": "reasons before it answers",
}
"""Part of an adapter -> why it is left to `predict`."""


def unserved(folder: str, base: str, parts: Collection[str]) -> str | None:
    """Why an adapter is not served; None where it is.

    Args:
        folder: Where it is.
        base: Name of its base.
        parts: Names of its parts.
    """
    whys = [why for part, why in _UNSERVED.items() if part in parts]
    whys += [f"asks {base}, which answers elsewhere"] * base.startswith(REMOTE)
    return f"{folder} {whys[0]}, which is not served. Use predict." if whys else None


def unserved_at(path: Path) -> str | None:
    """The same by the record of an adapter folder alone: a wrong command line is told before torch is loaded."""
    try:
        record = read_json(path / "adapter.json")
        return unserved(str(path), str(record["base"]["name"]), record["parts"])
    except (RunError, KeyError, TypeError):
        return None  # broken: whoever loads it has more to say of that


def labels_of(served: Served) -> tuple[str, ...]:
    """The labels that a version chooses among; none where it writes, rows bring candidates, or its folder is gone."""
    try:
        record = read_json(Path(served.folder) / "adapter.json")
        is_other = served.sha256 is not None and record["sha256"] != served.sha256
        return () if is_other or "candidates" in record["parts"] else tuple(record["labels"])
    except (RunError, OSError, KeyError, TypeError):
        return ()


class Tasks(Protocol):
    """The tasks of a server. Answers come from memory: they are asked for on the event loop."""

    def names(self) -> Sequence[str]:
        """Of the tasks that have a live version, sorted."""
        ...

    def live(self, task: str) -> Served | None:
        """What answers now; None for a task that is not there."""
        ...

    def version(self, task: str, number: int) -> Served | None:
        """A certain version, live or not; called from a thread that may wait."""
        ...

    def shadow(self, task: str, request_id: str) -> Served | None:
        """What answers this request silently too; None for most requests."""
        ...

    def refresh(self) -> None:
        """Looks whether anything has changed; called from a thread that may wait."""
        ...


class Folders:
    """Run and adapter folders as tasks, each at version 1.

    Args:
        given: `FOLDER` or `NAME=FOLDER`. A run's folder stands for its recommended candidate.

    Raises:
        ConfigError: A name that cannot stand in a URL, two tasks of one name, or an adapter that is not served; every
            fault at once.
        RunError: A folder that is neither a run's nor an adapter's, or a run that recommends nothing.
    """

    def __init__(self, given: Sequence[str]) -> None:
        found = [_named(each) for each in given]
        names = [name for name, _ in found]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        faults = [f"two tasks are called {name!r}. Write NAME=FOLDER." for name in twice]
        faults += [
            f"a task's name has letters, digits, `.`, `_`, `-`, at most 64. Got {name!r}. Write NAME=FOLDER."
            for name in names
            if not NAME.fullmatch(name)
        ]
        faults += [fault for _, path in found if (fault := unserved_at(path)) is not None]
        if faults:
            raise ConfigError(faults)
        self._served = {name: Served(task=name, version=1, folder=str(path)) for name, path in sorted(found)}

    def names(self) -> Sequence[str]:
        return list(self._served)

    def live(self, task: str) -> Served | None:
        return self._served.get(task)

    def version(self, task: str, number: int) -> Served | None:
        return self._served.get(task) if number == 1 else None

    def shadow(self, task: str, request_id: str) -> Served | None:  # noqa: ARG002
        return None

    def refresh(self) -> None:
        """Folders of a command line stay what they are."""


def _named(given: str) -> tuple[str, Path]:
    """The task's name, `RUN-CANDIDATE` for an unnamed `RUN/adapters/CANDIDATE/seed-K`, and its adapter folder."""
    name, equals, rest = given.partition("=")
    if not equals or Path(given).exists():
        name, rest = "", given
    path = Path(rest)
    if (path / comparison.FILE_NAME).exists():
        return name or path.resolve().name, recommended(path)
    if not (path / "adapter.json").exists():
        raise RunError(f"{path} is neither a run folder nor an adapter folder. Give runs/NAME, or NAME=FOLDER.")
    path, home = path.resolve(), home_of(path.resolve())
    return name or (path.name if home is None else f"{home.name}-{path.parent.name}"), path
