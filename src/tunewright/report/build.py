"""From a run folder to its page."""

from pathlib import Path

from tunewright.files import write_text
from tunewright.report import page
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
