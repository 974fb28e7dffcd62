"""What is printed when a comparison is done: the table and the decision."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunewright.api import Run
from tunewright.report import numbers
from tunewright.report.first_screen import failed, first_screen
from tunewright.report.page import ranked
from tunewright.runs import record
from tunewright.runs.comparison import Candidate, Comparison
from tunewright.types import Estimate


def print_summary(run: Run, here: Path) -> None:
    """Table, decision, where the report is.

    Args:
        run: A finished run.
        here: Paths are printed relative to it.
    """
    console = Console(highlight=False)
    console.print(_table(run.comparison))
    unmeasured = [f"{c.id}: {c.status}, {c.reason}" for c in run.comparison.candidates if c.test is None]
    lines = [*unmeasured, *_decided(run, here), *_failed(run.comparison)]
    for line in (*lines, f"\nReport: {_shown(run.report, here)}"):
        console.print(line, markup=False, soft_wrap=True)


def _table(result: Comparison) -> Table:
    title = f"{result.task.name}: {result.task.metric} on {result.task.n_test} test rows"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("method", "test", "95% interval", "dev", "tuned", "stored", "$ per 1000"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for candidate in ranked(result.candidates):
        if candidate.test is not None:
            table.add_row(*_cells(candidate, candidate.test))
    return table


def _decided(run: Run, here: Path) -> list[str]:
    """The decision, what else is to be said of the recommended one, and what to do next."""
    result = run.comparison
    if result.decision is None:
        return []
    lines = [f"\n{result.decision.reason}"]
    if result.decision.recommended is None:
        lines += [f"Nearest miss: {miss}" for miss in result.decision.nearest_misses]
    for candidate in (c for c in result.candidates if c.id == result.decision.recommended):
        lines += filter(None, (said_of_probabilities(candidate, result.task.metric), said_of_slices(candidate)))
        lines += [f"Of {candidate.id}'s answers, {remark}." for remark in candidate.remarks]
        if result.protocol.kind == "folds" and candidate.family != "outside":
            lines.append("Probabilities: calibrated, but folds do not measure how far they are off; --folds 1 does.")
    command = first_screen(record.read(run.folder), str(_shown(run.folder, here))).predict
    return lines if command is None else [*lines, f"\nPredict: {command}"]


def _failed(result: Comparison) -> list[str]:
    """What stands against the figures, a line each."""
    found, checks = failed(result), result.checks
    head = f"\n{len(found)} of {len(checks)} checks failed; docs/guides/checks.md says what each means and what to do:"
    return [head, *(f"  {check.code}: {check.sentence}" for check in found)] if found else []


def said_of_probabilities(candidate: Candidate, metric: str) -> str:
    """How far probabilities are off, what abstaining brings and what errors cost; empty where nothing was changed."""
    found = candidate.calibration
    if found is None:
        return ""
    said = []
    if found.temperature != 1:
        after, before = 100 * found.error, 100 * found.error_before
        said.append(f"off by {after:.1f} points on average ({before:.1f} before calibration)")
    said += [
        f"answering only what is at least {100 * point.threshold:.0f}% sure leaves {100 - 100 * point.coverage:.0f}% "
        f"of the rows to somebody else, and {100 * point.risk:.1f}% of the others are answered wrongly instead of "
        f"{100 * found.curve[0].risk:.1f}% of all"
        for point in found.curve
        if point.threshold == found.threshold
    ]
    if found.mean_error_cost is not None:
        said.append(f"the answers of least expected cost cost {found.mean_error_cost:.3g} each (decided on {metric})")
    return f"Probabilities: {'; '.join(said)}." if said else ""


def said_of_slices(candidate: Candidate) -> str:
    """The worst slice and how far it is behind; empty without slices."""
    if not candidate.gaps:
        return ""
    gap = min(candidate.gaps, key=lambda each: each.difference)
    value = next(each.value for each in candidate.slices if each.rule == gap.rule)
    shown = "" if gap.high < 0 else ", so not shown to be worse"
    return (
        f"Worst slice: {gap.rule}, {100 * value.value:.1f}% ({100 * value.low:.1f} to {100 * value.high:.1f}%, "
        f"n = {value.n}); {100 * gap.difference:+.1f} points against the rest ({100 * gap.low:+.1f} to "
        f"{100 * gap.high:+.1f}, widened because the worst was picked){shown}."
    )


def _shown(path: Path, here: Path) -> Path:
    path = path.resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _cells(candidate: Candidate, test: Estimate) -> list[str]:
    dev, cost = "" if candidate.dev is None else f"{candidate.dev.value:.3f}", candidate.cost
    as_on_page = numbers.seconds(cost.tune_s), numbers.size(cost.adapter_bytes), numbers.plain(cost.price)
    own = [candidate.id, f"{test.value:.3f}", f"{test.low:.3f} to {test.high:.3f}", dev]
    return [*own, *(cell.striptags().replace(numbers.NBSP, " ") for cell in as_on_page)]
