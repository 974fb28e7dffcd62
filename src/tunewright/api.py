"""The Python interface: `import tunewright as tw; run = tw.compare("tickets.csv")`."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.config import RunConfig, load_config
from tunewright.errors import ConfigError, RunError, unknown
from tunewright.evaluation import comparison
from tunewright.evaluation.comparison import Comparison, Decision
from tunewright.evaluation.progress import Listener
from tunewright.evaluation.terminal import terminal
from tunewright.report.build import build_report

if TYPE_CHECKING:
    from tunewright.evaluation.predictor import Predictor


class Run(Mapping[str, "Predictor"]):
    """A finished run. `run["lora"]` is that candidate, ready to predict.

    Args:
        folder: The run folder.

    Raises:
        RunError: No finished run there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.comparison: Comparison = comparison.load(folder)

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

    def adapter_folder(self, candidate: str) -> Path:
        """Where a candidate's shipped adapter is.

        Raises:
            RunError: No such candidate, or none that was finished.
        """
        shipped = {c.id: s.seed for c in self.comparison.candidates for s in c.seeds if s.shipped}
        if candidate not in shipped:
            raise RunError(unknown("candidate", candidate, shipped))
        return self.folder / "adapters" / candidate / f"seed-{shipped[candidate]}"

    def __getitem__(self, candidate: str) -> "Predictor":
        from tunewright.evaluation.predictor import Predictor  # torch is loaded only by those who predict

        return Predictor.load(self.adapter_folder(candidate))

    def __iter__(self) -> Iterator[str]:
        return (c.id for c in self.comparison.candidates if any(s.shipped for s in c.seeds))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def compare(
    data: str | RunConfig | None = None,
    *,
    listener: Listener | None = None,
    command: tuple[str, ...] = (),
    **settings: Any,
) -> Run:
    """Compares the methods on the user's data and writes a run folder with a report.

    Args:
        data: File, folder or dataset name; or a whole `RunConfig`; None to resume a run.
        listener: Hears of progress; the terminal when absent, `progress.Silent()` for nobody.
        command: What was typed, for the record.
        settings: Any other field of `RunConfig`.

    Raises:
        TunewrightError: On any mistake of the user's, in one line.
    """
    from tunewright.evaluation import harness  # torch takes seconds to load; bad settings are told before

    config = data if isinstance(data, RunConfig) else load_config(None, {"data": data, **settings})
    if config.resume and config.out is None:
        raise ConfigError("`resume` needs `out`: the run folder to go on with.")
    out = Path(config.out) if config.out is not None else default_folder(config)
    call = command or ("tw.compare", config.data)
    with terminal(sys.stderr) if listener is None else nullcontext(listener) as hears:
        harness.compare(config, out, hears, command=call)
    build_report(out)
    return Run(out)


def default_folder(config: RunConfig) -> Path:
    """`runs/<data>-<date>-<time>`."""
    return Path("runs") / f"{Path(config.data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
