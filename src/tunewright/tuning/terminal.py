"""Progress on the terminal: a live line where there is one, plain lines elsewhere."""

import contextlib
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tunewright.tuning.progress import Listener, Step


class PlainLines:
    """Notes as lines; nothing that moves.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def note(self, message: str) -> None:
        """One line."""
        print(message, file=self._stream, flush=True)

    def step(self, step: Step) -> None:
        """Nothing: a log file is no place for a bar."""


class LiveLine:
    """Notes above, one moving line below: method, trial, dev score, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, detail="")

    def note(self, message: str) -> None:
        """One line above the bar."""
        self._progress.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: Step) -> None:
        """Moves the bar."""
        dev = "" if step.dev is None else f", dev {step.dev:.3f}"
        left = _time_left(step, self._progress.tasks[0].elapsed)
        detail = f"{step.candidate} {step.trial}, epoch {step.epochs:.1f}{dev}{left}"
        self._progress.update(self._task, description=step.phase, completed=step.done, total=step.total, detail=detail)


def _time_left(step: Step, elapsed_s: float | None) -> str:
    """What the budget leaves, or what the pace so far says of this phase."""
    if step.left_s is not None:
        return f", {max(0.0, step.left_s):.0f} s of the budget left"
    if step.total is None or step.done == 0 or elapsed_s is None:
        return ""
    return f", about {elapsed_s / step.done * (step.total - step.done):.0f} s left"


@contextlib.contextmanager
def terminal(stream: TextIO) -> Iterator[Listener]:
    """A listener for the stream: live where it is a terminal."""
    if not stream.isatty():
        yield PlainLines(stream)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[detail]}"))
    console = Console(file=stream)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        yield LiveLine(progress)
