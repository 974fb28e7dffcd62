"""The run folder: what is in it, and how it survives a kill at any moment.

    run.yaml                settings (RunConfig)
    data.json               hash, splits by row id, columns, notices
    environment.json        versions, machine
    trials.jsonl            one line for each finished trial of the search
    finalists.jsonl         one line for each refitted finalist (candidate, seed)
    adapters/<candidate>/seed-<k>/   what each refit produced
    test.jsonl              the test rows: id, text, text_pair, label
    predictions/<candidate>/seed-<k>.jsonl   their answers, one Prediction a line
    comparison.json         the result, schema 1
    elapsed.json            seconds of all sessions so far
    log.txt                 what was said on the terminal
    report.html             the page made from all the above
"""

import shutil
from pathlib import Path

from tunewright.errors import RunError
from tunewright.files import disk_errors

_BEGINNINGS = ("environment.json", "test.jsonl", "data.json")
"""Written before `run.yaml`: with nothing else in it, a folder is that of a run killed as it began."""


def adapter_folder(run_dir: Path, candidate: str, seed: int) -> Path:
    """Where a refit's adapter is."""
    return run_dir / "adapters" / candidate / f"seed-{seed}"


def predictions_file(run_dir: Path, candidate: str, seed: int, split: str = "test") -> Path:
    """Where a refit's answers are."""
    name = f"seed-{seed}.jsonl" if split == "test" else f"seed-{seed}.{split}.jsonl"
    return run_dir / "predictions" / candidate / name


def open_run(path: Path, *, resume: bool) -> bool:
    """Claims a run folder and removes what a killed session left half-written.

    Returns:
        Whether a run has begun there: False for a new folder, or one of a run that was killed as it began.

    Raises:
        RunError: It exists and `resume` is False; or it does not and `resume` is True; or it is no run folder.
    """
    with disk_errors(path):
        begun = (path / "run.yaml").exists()
        if path.exists() and not begun and not _is_beginning(path):
            what = "a folder that holds no run.yaml" if path.is_dir() else "a file"
            fault = f"nothing to resume in {path}:" if resume else f"{path} exists and is no run folder:"
            raise RunError(f"{fault} it is {what}. Choose another --out.")
        if resume and not path.exists():
            raise RunError(f"nothing to resume in {path}: no run.yaml. Start without --resume.")
        if not resume and path.exists() and any(path.iterdir()):
            raise RunError(f"{path} exists. Use --resume to go on with it, or another --out.")
        path.mkdir(parents=True, exist_ok=True)
        for left in sorted(path.rglob(".*.tmp")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
    return begun


def _is_beginning(path: Path) -> bool:
    return path.is_dir() and all(p.name in _BEGINNINGS or p.name.endswith(".tmp") for p in path.iterdir())
