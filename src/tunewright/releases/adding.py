"""What a version is, read once from its folders as it is added."""

from pathlib import Path

from tunewright.adapters import folder
from tunewright.errors import RunError
from tunewright.files import read_json
from tunewright.releases.entries import Identity, Measured
from tunewright.runs import record
from tunewright.runs.folder import adapter_folder
from tunewright.runs.shipped import home_of


def identify(path: Path) -> Identity:
    """Reads an adapter whole: what cannot be loaded is never registered.

    Raises:
        AdapterError: No adapter there, or a broken one.
    """
    adapter = folder.load(path)
    return Identity(
        folder=str(path.resolve()),
        adapter_sha256=adapter.sha256(),
        base_name=adapter.base.name,
        base_sha256=adapter.base.sha256,
    )


def measured_by(path: Path, adapter_sha256: str, run: Path | None) -> Measured | None:
    """The comparison that an adapter comes from; None where it lies in no run folder and none is named.

    Args:
        path: The adapter folder.
        adapter_sha256: Its hash, by which it is found among those of the run.
        run: The run folder; the one that `path` lies in when absent.

    Raises:
        RunError: The named run did not test this adapter.
    """
    home = home_of(path.resolve()) if run is None else run.resolve()
    if home is None:
        return None
    found = record.read(home)
    for candidate in found.comparison.candidates:
        seed = candidate.shipped_seed
        if seed is None or candidate.test is None or candidate.id not in found.answers:
            continue
        stored = adapter_folder(home, candidate.id, seed) / "adapter.json"
        if stored.exists() and read_json(stored).get("sha256") == adapter_sha256:
            return Measured(
                run=str(home),
                candidate=candidate.id,
                seed=seed,
                metric=found.comparison.task.metric,
                test=candidate.test,
                test_sha256=found.test_sha256,
            )
    if run is None:
        return None
    raise RunError(f"{run} ships no adapter that is {path}. Give the run it comes from, or leave --run out.")
