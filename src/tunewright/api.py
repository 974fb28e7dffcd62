"""The Python interface: `import tunewright as tw; run = tw.compare("tickets.csv")`."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.config import RunConfig, load_config, validate
from tunewright.errors import ConfigError, RunError, unknown
from tunewright.report import page
from tunewright.report.build import build_report
from tunewright.runs import comparison, record
from tunewright.runs.comparison import Comparison, Decision
from tunewright.runs.folder import adapter_folder
from tunewright.tuning.progress import Listener, Start
from tunewright.tuning.terminal import terminal

if TYPE_CHECKING:
    from tunewright.serve.predictor import Predictor


class CandidateError(RunError, KeyError):
    """No such candidate in a run; also a `KeyError`, as a mapping's users expect."""

    __str__ = Exception.__str__  # a KeyError shows its text in quotes


class Run(Mapping[str, "Predictor"]):
    """A finished run. `run["lora"]` is that candidate, ready to predict.

    Args:
        folder: The run folder.

    Raises:
        RunError: No finished run there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.comparison: Comparison = comparison.load(self.folder)

    def __repr__(self) -> str:
        winner = self.comparison.winner
        return f"<Run {self.folder}: {'nothing' if winner is None else winner.id} is recommended>"

    @property
    def decision(self) -> Decision:
        """What to take, and how sure that is.

        Raises:
            RunError: No candidate was finished.
        """
        if self.comparison.decision is None:
            raise RunError(f"no candidate was finished in {self.folder}. Raise --budget or choose other --methods.")
        return self.comparison.decision

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def _repr_html_(self) -> str:
        """What a notebook shows: the first screen of the page and the table of candidates."""
        return page.render_fragment(record.read(self.folder), self.folder.resolve().name)

    def adapter_folder(self, candidate: str) -> Path:
        """Where a candidate's shipped adapter is.

        Raises:
            CandidateError: No such candidate, or none that was finished, or a cross-validation that kept another.
        """
        if any(c.id == candidate and c.family == "outside" for c in self.comparison.candidates):
            raise CandidateError(f"{candidate!r} answered outside of this run: there is no adapter. Ask it directly.")
        if candidate not in self._shipped:
            if any(c.id == candidate and c.test is not None for c in self.comparison.candidates):
                raise CandidateError(
                    f"{candidate!r} was measured in folds, and no model of it was kept. Kept: "
                    f"{', '.join(self._shipped) or 'none'}. A cross-validation trains the recommended candidate alone "
                    "on all rows; compare again with `folds=1` to have each of them."
                )
            raise CandidateError(unknown("candidate", str(candidate), self._shipped))
        return adapter_folder(self.folder, candidate, self._shipped[candidate])

    @cached_property
    def _shipped(self) -> dict[str, int]:
        """Candidate -> seed of its shipped adapter."""
        own = [c for c in self.comparison.candidates if c.family != "outside"]
        return {c.id: c.shipped_seed for c in own if c.shipped_seed is not None}

    def __contains__(self, candidate: object) -> bool:
        return candidate in self._shipped  # the mapping's own would load the model

    def __getitem__(self, candidate: str) -> "Predictor":
        from tunewright.serve.predictor import Predictor  # torch is loaded only by those who predict

        return Predictor.load(self.adapter_folder(candidate))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shipped)

    def __len__(self) -> int:
        return len(self._shipped)


def compare(
    data: str | Path | RunConfig | None = None,
    *,
    listener: Listener | None = None,
    command: tuple[str, ...] = (),
    start: Start | None = None,
    **settings: Any,
) -> Run:
    """Compares the methods on the user's data and writes a run folder with a report.

    Args:
        data: File, folder or dataset name; or a whole `RunConfig`; None to resume a run.
        listener: Hears of progress; the terminal when absent, `progress.Silent()` for nobody.
        command: What was typed, for the record.
        start: Since when the time of a budget counts; now when absent.
        settings: Any other field of `RunConfig`; None means "not given". They go on top of those of `data`.

    Raises:
        TunewrightError: On any mistake of the user's, in one line.
    """
    start = Start.now() if start is None else start
    from tunewright.tuning import harness  # torch takes seconds to load; bad settings are told before

    config = _config(data, settings)
    default = Path("runs") / f"{Path(config.data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    out = default if config.out is None else Path(config.out)
    call = command or ("tw.compare", config.data)
    with terminal(sys.stderr) if listener is None else nullcontext(listener) as hears:
        harness.compare(config, out, hears, command=call, start=start)
    build_report(out)
    return Run(out)


def _config(data: str | Path | RunConfig | None, settings: Mapping[str, Any]) -> RunConfig:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    if not isinstance(data, (str, Path, RunConfig, type(None))):
        raise ConfigError(
            f"`data` must be a file, a folder or a dataset's name. Got a {type(data).__name__}. Write it to a file "
            "first, such as a csv with a column for texts and one for labels."
        )
    if isinstance(data, RunConfig):
        return validate(data.model_dump() | {key: value for key, value in given.items() if value is not None})
    return load_config(None, {"data": None if data is None else str(data), **given})
