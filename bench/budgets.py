"""Whether a budget is kept: random budgets, each a whole `tunewright compare` in a process of its own.

    python -m bench.budgets DIR [--rows 1000 --runs 10 --least 20 --most 120 --seed 0] [--json F]
    python -m bench.budgets --quick

Wall-clock is of the whole command, from the start of its process to its end. The promise is the larger of 5% and 10 s.
A decision is valid if it recommends a measured candidate, of those that took part in it the table has every figure, and
all else is in the list of what was not done or has its reason. Each run is a line of the JSON file; a second call goes
on from it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench import EXAMPLE
from tunewright.errors import RunError
from tunewright.files import append_line, read_lines
from tunewright.runs import comparison

COMMAND = (sys.executable, "-c", "from tunewright.cli.main import main; main()")
PROMISE_S, PROMISE = 10.0, 0.05


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One run under a budget."""

    data: str
    rows: int | None
    budget_s: float
    wall_s: float
    code: int
    finished: int
    """Candidates that were measured."""
    recommended: str | None
    is_valid: bool
    not_done: int
    load: float
    """Processes that wanted a core in the last minute, this run among them."""
    cpu_s: float | None = None
    """Processor time of the run until its report. Wall-clock far above it is other programs' doing."""

    @property
    def over_s(self) -> float:
        """Seconds beyond the budget; negative where some were left."""
        return self.wall_s - self.budget_s

    @property
    def is_kept(self) -> bool:
        """Whether the promise was."""
        return self.over_s <= max(PROMISE_S, PROMISE * self.budget_s)


def budgets(count: int, least_s: float, most_s: float, seed: int) -> list[float]:
    """Random whole seconds, spread evenly on a logarithmic scale."""
    logs = np.random.default_rng(seed).uniform(np.log(least_s), np.log(most_s), count)
    return [float(budget_s) for budget_s in np.exp(logs).round()]


def run(data: str, rows: int | None, budget_s: float, out: Path) -> Kept:
    """One comparison in a process of its own."""
    limit = [] if rows is None else ["--rows", str(rows)]
    start = time.monotonic()
    call = [*COMMAND, "compare", data, *limit, "--budget", f"{budget_s:g}s", "--out", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    wall_s = time.monotonic() - start
    try:
        found = comparison.load(out)
    except RunError:
        found = None
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
    measured = [] if found is None else [c for c in found.candidates if c.test is not None]
    return Kept(
        data=data,
        rows=rows,
        budget_s=budget_s,
        wall_s=round(wall_s, 2),
        code=done.returncode,
        finished=len(measured),
        recommended=None if found is None or found.decision is None else found.decision.recommended,
        is_valid=done.returncode == 0 and found is not None and is_valid(found, out),
        not_done=0 if found is None or found.ledger is None else len(found.ledger.not_done),
        load=round(os.getloadavg()[0], 1),
        cpu_s=None if found is None or found.ledger is None else found.ledger.cpu_s,
    )


def is_valid(found: comparison.Comparison, out: Path) -> bool:
    """Whether the decision rests on what is there, and what is not there is said."""
    measured = {c.id: c for c in found.candidates if c.test is not None}
    if found.decision is None or found.ledger is None or not (out / "report.html").exists():
        return False
    has_reasons = all(c.reason for c in found.candidates if c.test is None)
    has_all = all(c.dev and c.cost.price is not None and c.shipped_seed is not None for c in measured.values())
    pairs = len(measured) * (len(measured) - 1) // 2
    return found.decision.recommended in measured and has_reasons and has_all and len(found.pairs) == pairs


def table(found: Sequence[Kept]) -> str:
    """As a person reads it."""
    head = ("budget", "wall", "over", "kept", "valid", "measured", "not done", "load", "cpu", "recommended")
    rows = [
        (
            f"{k.budget_s:.0f} s",
            f"{k.wall_s:.1f} s",
            f"{k.over_s:+.1f} s",
            "yes" if k.is_kept else "NO",
            "yes" if k.is_valid else "NO",
            str(k.finished),
            str(k.not_done),
            f"{k.load:.1f}",
            "" if k.cpu_s is None else f"{k.cpu_s:.1f} s",
            str(k.recommended),
        )
        for k in found
    ]
    lines = ["  ".join(f"{cell:>8}" for cell in row) for row in (head, *rows)]
    kept, valid = sum(k.is_kept for k in found), sum(k.is_valid for k in found)
    return "\n".join([*lines, f"{kept} of {len(found)} budgets kept, {valid} of {len(found)} decisions valid"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", nargs="?", default=str(EXAMPLE))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--least", type=float, default=20.0)
    parser.add_argument("--most", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one budget of 25 s on the example data")
    given = parser.parse_args(arguments)
    planned = [25.0] if given.quick else budgets(given.runs, given.least, given.most, given.seed)
    known = [] if given.json is None else [Kept(**line) for line in read_lines(given.json)]
    done: list[Kept] = []
    for budget_s in planned:
        same = [k for k in known if (k.data, k.rows, k.budget_s) == (given.data, given.rows, budget_s)]
        if same:
            done.append(same[0])
            continue
        with tempfile.TemporaryDirectory() as folder:
            done.append(run(given.data, given.rows, budget_s, Path(folder) / "run"))
        if given.json is not None:
            append_line(given.json, asdict(done[-1]))
        print(json.dumps(asdict(done[-1])), file=sys.stderr, flush=True)
    print(table(done))
    return 0 if all(k.is_kept and k.is_valid for k in done) else 1


if __name__ == "__main__":
    sys.exit(main())
