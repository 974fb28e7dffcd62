"""The shapes that papers report about soft prompts, on one's own rows: rate, start and length, several seeds each.

    python -m bench.ablation path/to/sst2 --model FOLDER [--rows 1000 --seeds 5 --epochs N --lines F.jsonl]
    python -m bench.ablation --quick

First the learning rate, 1e-4 to 1e-1, from the labels' words with 20 tokens; then at the rate that is best on dev the
start (Lester et al. 2021, section 3.2: noise, common words, the labels' words; a text too) and the length: 1, 5, 20 or
100. Every cell is the product's own attempt: its loop, its early stopping, its head from the labels' words, which
trains at 0.3 of the rate. Each appends a line to F and is not repeated when the command is given again.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import EXAMPLE
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.inference import predict
from tunewright.backbones.kinds import open_backbone
from tunewright.config import EMBEDDED_MODEL, load_config
from tunewright.data.load import load_dataset
from tunewright.evaluation.metrics import METRICS
from tunewright.evaluation.statistics import method_difference
from tunewright.files import append_line, read_lines
from tunewright.methods.table import METHODS
from tunewright.runtime import device, fast_dtype, generator
from tunewright.tuning.attempt import Workshop, attempt, label_rows, prepare
from tunewright.types import Dataset, Params

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
INITS = ("random", "vocabulary", "labels")
LENGTHS = (1, 5, 20, 100)
TEXT = "Is this review of a film positive or negative? It was"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit."""

    lr: float
    init: str
    length: int
    seed: int
    epochs: int | None
    """The product's own number when None."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What came of it."""

    cell: Cell
    dev: float
    """Of the epoch that was kept; 0 where none was finite."""
    test: float
    stopped: str
    """Why training ended."""
    seconds: float


def fit(cell: Cell, workshop: Workshop, dataset: Dataset) -> Line:
    """Trains and answers the test rows."""
    params: Params = {"lr": cell.lr, "init": cell.init, "length": cell.length}
    if cell.epochs is not None:
        params = {**params, "epochs": cell.epochs}
    start = time.monotonic()
    outcome = attempt(METHODS["soft-prompt"], params, workshop, generator("ablation", cell.seed), lambda *_: None)
    adapter, best = outcome.trained.adapter, outcome.trained.best
    material = workshop.material
    rows = label_rows(material.task, material.backbone, dataset.splits.test, material.max_tokens - cell.length)
    logits_NC = predict(adapter, rows.encodings, material.store)
    test = float((rows.labels_N == logits_NC.argmax(-1)).float().mean())
    return Line(
        cell=cell,
        dev=0.0 if best is None else best.value,
        test=test,
        stopped=outcome.trained.stopped,
        seconds=round(time.monotonic() - start, 2),
    )


class Bench:
    """Cells, those that are in the file already taken from there."""

    def __init__(self, workshop: Workshop, dataset: Dataset, lines: Path) -> None:
        self._workshop, self._dataset, self._lines = workshop, dataset, lines
        known = read_lines(lines) if lines.exists() else []
        self._known = {Cell(**each["cell"]): Line(**{**each, "cell": Cell(**each["cell"])}) for each in known}

    def __call__(self, cells: Sequence[Cell]) -> list[Line]:
        """The lines of some cells."""
        for cell in cells:
            if cell not in self._known:
                self._known[cell] = fit(cell, self._workshop, self._dataset)
                append_line(self._lines, asdict(self._known[cell]))
                print(f"{cell}: {self._known[cell].test:.3f}", file=sys.stderr)
        return [self._known[cell] for cell in cells]


def table(title: str, groups: dict[str, list[Line]]) -> None:
    """Prints a row for each group."""
    print(f"\n{title:34}{'dev':>8}{'test':>8}  95% interval over seeds   seconds a fit")
    for name, lines in groups.items():
        tests = [line.test for line in lines]
        spread = method_difference(tests, 0.0) if len(tests) > 1 else None
        interval = "one seed" if spread is None else f"{spread.low:.3f} to {spread.high:.3f}"
        dev, seconds = (statistics.mean(getattr(line, key) for line in lines) for key in ("dev", "seconds"))
        print(f"{name:34}{dev:8.3f}{statistics.mean(tests):8.3f}  {interval:26}{seconds:.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--model", default=EMBEDDED_MODEL)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lines", type=Path, default=Path("ablation.jsonl"))
    parser.add_argument("--quick", action="store_true", help="two rates, starts and lengths, one seed, one epoch")
    options = parser.parse_args(argv)
    if options.quick:
        options.data, options.rows = str(EXAMPLE), 40
        options.lines = Path(tempfile.mkdtemp()) / "lines.jsonl"
    elif options.data is None:
        parser.error("give DATA, or --quick")
    rates: Sequence[float] = (1e-3, 1e-2) if options.quick else RATES
    inits: Sequence[str] = ("random", TEXT) if options.quick else (*INITS, TEXT)
    lengths: Sequence[int] = (1, 5) if options.quick else LENGTHS
    seeds, epochs = (1, 1) if options.quick else (options.seeds, options.epochs)
    dataset = load_dataset(load_config(None, {"data": options.data, "rows": options.rows}))
    base = open_backbone(load_checkpoint(options.model), dtype=fast_dtype(), device=device())
    splits, metric = dataset.splits, METRICS["accuracy"]
    bench = Bench(
        prepare(dataset.task, base, splits.train, splits.dev, metric, base.max_tokens), dataset, options.lines
    )

    def cells(lr: float, init: str, length: int) -> list[Line]:
        return bench([Cell(lr=lr, init=init, length=length, seed=s, epochs=epochs) for s in range(seeds)])

    by_rate = {f"{lr:g}": cells(lr, "labels", 20) for lr in rates}
    table("learning rate (labels, 20)", by_rate)
    best = max(by_rate, key=lambda name: statistics.mean(line.dev for line in by_rate[name]))
    tuned = by_rate[best][0].cell.lr
    table(f"start (rate {tuned:g}, 20)", {init: cells(tuned, init, 20) for init in inits})
    table(f"length (rate {tuned:g}, labels)", {str(p): cells(tuned, "labels", p) for p in lengths})
    return 0


if __name__ == "__main__":
    sys.exit(main())
