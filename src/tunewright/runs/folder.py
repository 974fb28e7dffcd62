"""The run folder: what is in it, and how it survives a kill at any moment.

    run.yaml                settings (RunConfig)
    data.json               hash, splits by row id, columns, notices
    environment.json        versions, machine
    trials.jsonl            one line for each finished trial of the search
    finalists.jsonl         one line for each refitted finalist (candidate, seed), or for the trial that won
    adapters/<candidate>/seed-<k>/   what each refit produced; with one seed the best trial so far
    test.jsonl              the test rows: id, text, text_pair, label, fields (further columns); or all, with folds
    predictions/<candidate>/seed-<k>.jsonl   their answers, one Prediction a line; of repeat k in a cross-validation;
                            of what is shipped seed-<k>.dev.jsonl and, with terms swapped, seed-<k>.swapped.jsonl too
    folds/r<i>-f<j>/        cross-validation: fold j of repeat i, with its own trials, finalists, predictions
    folds/all/              and the trials and finalists of what is shipped, trained on all rows
    requests.jsonl          what was asked of endpoints, and for how much
    answers.sqlite          and what they answered, so that a resumed run does not pay again
    judgements/<a>--<b>--<judge>.jsonl   which of two answers a person or a model held to be better
    comparison.json         the result, schema 1
    elapsed.json            seconds of all sessions so far, of wall and cores, and of the passes over test
    log.txt                 what was said on the terminal
    report.html             the page made from all the above
    report.md               its short form, for a pull request
    session.lock            held by the session that is at work, with the number of its process

Each is whole or absent, and a line of a `.jsonl` is too: see `files`.
"""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tunewright.errors import RunError
from tunewright.files import disk_errors

_BEGINNINGS = ("environment.json", "test.jsonl", "data.json")
"""Written before `run.yaml`: with nothing else in it, a folder is that of a run killed as it began."""

_LOCK = "session.lock"

ANSWERS = "answers.sqlite"


def adapter_folder(run_dir: Path, candidate: str, seed: int) -> Path:
    """Where a refit's adapter is."""
    return run_dir / "adapters" / candidate / f"seed-{seed}"


def fold_folder(run_dir: Path, name: str) -> Path:
    """Where the files of a fold are."""
    return run_dir / "folds" / name


def predictions_file(run_dir: Path, candidate: str, seed: int, split: str = "test") -> Path:
    """Where a refit's answers are."""
    name = f"seed-{seed}.jsonl" if split == "test" else f"seed-{seed}.{split}.jsonl"
    return run_dir / "predictions" / candidate / name


@contextlib.contextmanager
def open_run(path: Path, *, resume: bool) -> Iterator[bool]:
    """Claims a run folder for one session and removes what a killed one left half-written.

    Yields:
        Whether a run has begun there: False for a new folder, or one of a run that was killed as it began.

    Raises:
        RunError: It exists and `resume` is False; or it does not and `resume` is True; or it is no run folder; or
            another session is at work on it.
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
        held = _lock(path)
    try:
        _remove_torn(path)
        yield begun
    finally:
        (path / _LOCK).unlink(missing_ok=True)
        os.close(held)


def _remove_torn(path: Path) -> None:
    with disk_errors(path):
        for left in sorted(path.rglob(".*.tmp")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def _lock(path: Path) -> int:
    """An open file that is this process's alone; the system lets go of it when the process ends, however it ends.

    Raises:
        RunError: It is another's.
    """
    held = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if not _is_ours(held):
        holder = os.read(held, 20).decode("ascii", "replace").strip()
        os.close(held)
        raise RunError(
            f"{path} is in use: process {holder or 'unknown'} is at work on it. Wait for its end, or choose another "
            "--out."
        )
    os.ftruncate(held, 0)
    os.write(held, str(os.getpid()).encode("ascii"))
    return held


def _is_ours(held: int) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system that knows no locks
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.fstat(held).st_nlink > 0  # 0: its session ended, and took it away, in between


def _is_beginning(path: Path) -> bool:
    return path.is_dir() and all(p.name in (*_BEGINNINGS, _LOCK) or p.name.endswith(".tmp") for p in path.iterdir())
