"""From a run folder to the adapter that it recommends, and back."""

from pathlib import Path

from tunewright.errors import RunError
from tunewright.runs import comparison
from tunewright.runs.folder import adapter_folder


def recommended(path: Path) -> Path:
    """The adapter that a run recommends; an adapter folder as it is.

    Raises:
        RunError: The run recommends no adapter of its own.
    """
    if not (path / comparison.FILE_NAME).exists():
        return path
    candidate = comparison.load(path).winner
    if candidate is None or candidate.shipped_seed is None:
        raise RunError(f"{path} recommends no adapter of its own. Give one of {path / 'adapters'}.")
    return adapter_folder(path.resolve(), candidate.id, candidate.shipped_seed)


def home_of(path: Path) -> Path | None:
    """The run folder of `RUN/adapters/CANDIDATE/seed-K`."""
    home = path.parents[2] if len(path.parents) > 2 else path
    return home if (home / comparison.FILE_NAME).exists() else None
