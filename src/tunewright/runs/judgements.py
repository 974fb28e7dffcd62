"""Which of two candidates' answers was held to be better, row by row: by a person who saw no names, or by a model.

judgements/<a>--<b>--<judge>.jsonl      one judgement a line, in the order they were made
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import RunError
from tunewright.files import append_line, read_lines
from tunewright.runs.schema import read_as

Choice = Literal["A", "B", "tie"]

HUMAN = "a person"
"""Name of the judge who sits at the terminal."""

_CHOICES = ("A", "B", "tie")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One look at two answers."""

    row: str
    """Id of the test row."""
    judge: str
    shown: tuple[str, str]
    """The candidates whose answers stood as A and as B."""
    choice: Choice

    @property
    def preferred(self) -> str | None:
        """The candidate; None for a tie."""
        return None if self.choice == "tie" else self.shown[_CHOICES.index(self.choice)]


def judgements_file(run_dir: Path, pair: tuple[str, str], judge: str) -> Path:
    """Where the judgements of a pair are, whichever of the two is named first."""
    name = re.sub(r"[^\w.-]+", "-", Path(judge).name)
    return run_dir / "judgements" / f"{'--'.join(sorted(pair))}--{name}.jsonl"


def add(path: Path, judgement: Judgement) -> None:
    """Stores one more, on disk before it returns."""
    append_line(path, asdict(judgement))


def read(path: Path) -> tuple[Judgement, ...]:
    """All of a file; none where there is no file.

    Raises:
        RunError: A line that is no judgement.
    """
    return tuple(_judgement(line, path) for line in read_lines(path))


def read_all(run_dir: Path) -> tuple[Judgement, ...]:
    """All of a run, file by file."""
    return tuple(each for path in sorted((run_dir / "judgements").glob("*.jsonl")) for each in read(path))


def _judgement(line: Any, path: Path) -> Judgement:
    try:
        return read_as(Judgement, line, str(path))
    except RunError:
        raise RunError(f"{path} has a line that is no judgement: {str(line)[:60]!r}. Remove it.") from None
