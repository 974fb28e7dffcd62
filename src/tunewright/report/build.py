"""From a run folder to its page, and from two to theirs."""

from pathlib import Path

from tunewright.files import write_text
from tunewright.report import page
from tunewright.report.versus import Versus, compare_runs
from tunewright.runs import record


def build_report(run_dir: Path) -> Path:
    """Writes `report.html` and `report.md` into a run folder, each whole or not at all.

    A pure function of the folder: the same files give the same bytes, without a model and without a network.

    Returns:
        Where the page is.

    Raises:
        RunError: `comparison.json` is missing or not of this schema, another file is broken, or the disk is
            full.
    """
    run, name = record.read(run_dir), run_dir.resolve().name
    path = run_dir / "report.html"
    write_text(path, page.render(run, name))
    write_text(path.with_suffix(".md"), page.render_markdown(run, name))
    return path


def build_versus(old_dir: Path, new_dir: Path) -> tuple[Path, Versus]:
    """Writes `OLD-vs-NEW.html` beside the first of two run folders.

    Returns:
        Where the page is, and what it says.

    Raises:
        RunError: As `build_report`, of either.
    """
    old, new = record.read(old_dir), record.read(new_dir)
    names = old_dir.resolve().name, new_dir.resolve().name
    versus = compare_runs(old, new)
    path = old_dir.resolve().parent / f"{names[0]}-vs-{names[1]}.html"
    write_text(path, page.render_versus(versus, (old, new), names))
    return path, versus
