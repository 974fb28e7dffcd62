"""What is printed when a comparison is done: the table and the decision."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunewright.api import Run
from tunewright.report import numbers
from tunewright.report.first_screen import first_screen
from tunewright.runs import record
from tunewright.runs.comparison import Candidate, Check


def print_summary(run: Run, here: Path) -> None:
    """Table, decision, where the report is.

    Args:
        run: A finished run.
        here: Paths are printed relative to it.
    """
    console = Console(highlight=False)
    result = run.comparison
    title = f"{result.task.name}: {result.task.metric} on {result.task.n_test} test rows"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("method", "test", "95 % interval", "dev", "tuned", "stored", "$ per 1000"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    done = [c for c in result.candidates if c.test is not None]
    for candidate in sorted(done, key=lambda c: -_value(c)):
        table.add_row(*_cells(candidate))
    console.print(table)
    for candidate in result.candidates:
        if candidate.test is None:
            console.print(f"{candidate.id}: {candidate.status}, {candidate.reason}", markup=False)
    if result.decision is not None:
        console.print(f"\n{result.decision.reason}", markup=False, soft_wrap=True)
        for miss in result.decision.nearest_misses if result.decision.recommended is None else ():
            console.print(f"Nearest miss: {miss}", markup=False, soft_wrap=True)
        command = first_screen(record.read(run.folder), str(_shown(run.folder, here))).predict
        if command is not None:
            console.print(f"\nPredict: {command}", markup=False, soft_wrap=True)
    for line in _failed(result.checks):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"\nReport: {_shown(run.report, here)}", markup=False, soft_wrap=True)


def _failed(checks: Sequence[Check]) -> list[str]:
    """What stands against the figures, a line each."""
    failed = [check for check in checks if not check.passed]
    head = f"\n{len(failed)} of {len(checks)} checks failed; docs/guides/checks.md says what each means and what to do:"
    return [head, *(f"  {check.code}: {check.sentence}" for check in failed)] if failed else []


def _shown(path: Path, here: Path) -> Path:
    path = path.resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _value(candidate: Candidate) -> float:
    return -1.0 if candidate.test is None else candidate.test.value


def _cells(candidate: Candidate) -> list[str]:
    test, dev, cost = candidate.test, candidate.dev, candidate.cost
    assert test is not None
    return [
        candidate.id,
        f"{test.value:.3f}",
        f"{test.low:.3f} to {test.high:.3f}",
        "" if dev is None else f"{dev.value:.3f}",
        *(
            _bare(cell)
            for cell in (numbers.seconds(cost.tune_s), numbers.size(cost.adapter_bytes), numbers.plain(cost.price))
        ),
    ]


def _bare(number: Markup) -> str:
    """As the page has it, without its element."""
    return number.striptags().replace(numbers.NBSP, " ")
