"""What a comparison saves against tuning every method by itself: same trials for each, no pruning, run once.

    python -m bench.every_method DATA [--rows 1000 --trials 4 --metric accuracy --together RUN] [--json F]
    python -m bench.every_method --quick

A comparison gives each family of methods its trials and prunes them; whoever writes a script gives them to each method
that was tried there and lets them end. Both go through `compare`, with one seed. `--together` takes the time of a
finished run with the same settings instead of running it again.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import tunewright as tw
from bench import EXAMPLE
from tunewright.files import read_json, read_lines, write_json
from tunewright.tuning.progress import Silent

QUICK_METHODS = "majority,zero-shot,linear-probe"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One run of `compare`, or all of them."""

    methods: str
    wall_s: float
    cpu_s: float

    @classmethod
    def of(cls, methods: str, folder: Path) -> "Line":
        """What a run took, as its folder has it."""
        taken: Mapping[str, float] = read_json(folder / "elapsed.json")
        return cls(methods=methods, wall_s=taken["elapsed_s"], cpu_s=taken["cpu_s"])


def run(options: argparse.Namespace, methods: str, out: Path, *, pruning: bool) -> Line:
    """One comparison."""
    tw.compare(
        options.data,
        methods=methods,
        rows=options.rows,
        trials=options.trials,
        metric=options.metric,
        seeds=1,
        folds=1,
        pruning=pruning,
        out=str(out),
        listener=Silent(),
    )
    line = Line.of(methods, out)
    print(f"| {line.methods} | {line.wall_s:.0f} s | {line.cpu_s:.0f} s |", flush=True)
    return line


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="file or folder, as for compare")
    parser.add_argument("--rows", type=int, default=1000, help="training rows")
    parser.add_argument("--trials", type=int, default=4, help="of each family, or of each method")
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--together", type=Path, help="finished run of all methods with these settings")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--quick", action="store_true", help="three methods on examples/support: shows that it runs")
    options = parser.parse_args()
    all_methods = "all"
    if options.quick:
        options.data, options.rows, options.trials, all_methods = EXAMPLE, 60, 1, QUICK_METHODS
    elif options.data is None:
        parser.error("give DATA, or --quick")
    print("| methods | wall | processor |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if options.together is None:
            options.together = out / "together"
            run(options, all_methods, options.together, pruning=True)
        together = Line.of(all_methods, options.together)
        tried = dict.fromkeys(line["method"] for line in read_lines(options.together / "trials.jsonl"))
        alone = [run(options, name, out / name, pruning=False) for name in tried]
    every = Line(
        methods="each by itself", wall_s=sum(each.wall_s for each in alone), cpu_s=sum(each.cpu_s for each in alone)
    )
    for line in (together, every):
        print(f"| {line.methods} | {line.wall_s:.0f} s | {line.cpu_s:.0f} s |")
    print(f"together takes {together.wall_s / every.wall_s:.2f} of the wall time and "
          f"{together.cpu_s / every.cpu_s:.2f} of the processor time of each by itself")  # fmt: skip
    if options.json is not None:
        write_json(options.json, [asdict(line) for line in (*alone, together, every)])


if __name__ == "__main__":
    main()
