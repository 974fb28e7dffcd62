"""One method entered twice: how often is it called better than itself?

From each run folder two seeds of one method are entered as if they were two candidates, on test rows drawn anew each
time. Two fits of a method are two artefacts, which may differ in truth; so each draw is decided a second time with
the two answers of each row swapped by the throw of a coin: then there is nothing to find. Without a folder the answers
are simulated: two seeds of one method, equally good, for artefacts; twice three seeds that differ by 1.5 points for
what is said of methods.

    python -m bench.a_a [RUN ...] [--runs 200 --rows 300] [--json F]
    python -m bench.a_a --quick

Better is a verdict "the best is shown to be better than all others"; for methods, an adjusted p-value below 5%.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from bench.false_claims import answers, is_right, limit, scorer_of
from tunewright.evaluation.answers import read_answers
from tunewright.evaluation.decision import Entry, decide
from tunewright.evaluation.metrics import METRICS, Scorer, StatsArray, row_scorer
from tunewright.evaluation.reason import Verdict
from tunewright.evaluation.seeds import compare_methods
from tunewright.evaluation.statistics import ALPHA
from tunewright.files import write_json
from tunewright.runs.folder import predictions_file
from tunewright.runs.record import read
from tunewright.types import Estimate

ACCURACY, SEED_SD, SEEDS = 0.8, 0.015, 3


@dataclass(frozen=True, kw_only=True)
class Line:
    """Of all runs with one kind of answers."""

    answers: str
    runs: int
    called_better: float
    limit: float
    """5% and two Monte-Carlo errors."""


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two seeds of one method on stored rows."""

    scorer: Scorer
    first_NM: StatsArray
    second_NM: StatsArray


def stored(folder: Path) -> list[Twins]:
    """Every two seeds of every method of a run, where their answers differ at all."""
    run = read(folder)
    task, ids = run.comparison.task, [row.id for row in run.rows]
    scorer = row_scorer(METRICS[task.metric], task.labels, run.rows)
    found = []
    for candidate in run.comparison.candidates:
        files = [predictions_file(folder, candidate.id, each.seed) for each in candidate.seeds if each.test is not None]
        seeds = [scorer.stats(read_answers(file, task.labels, ids).given) for file in files]
        pairs = itertools.combinations(seeds, 2)
        found += [Twins(scorer=scorer, first_NM=a, second_NM=b) for a, b in pairs if (a != b).any()]
    return found


def entries(scorer: Scorer, first_NM: StatsArray, second_NM: StatsArray) -> list[Entry]:
    """The two as candidates of one price."""
    return [
        Entry(
            id=name,
            method="m",
            family="fine-tuning",
            backbone="b",
            stats_NM=x_NM,
            price=1.0,
            test=alone(scorer, x_NM),
        )
        for name, x_NM in (("first", first_NM), ("second", second_NM))
    ]


def alone(scorer: Scorer, stats_NM: StatsArray) -> Estimate:
    """The value without an interval, which is not what is measured here."""
    value = scorer.value(stats_NM)
    return Estimate(value=value, low=value, high=value, n=scorer.num_rows)


def is_called_better(scorer: Scorer, first_NM: StatsArray, second_NM: StatsArray, rng: Generator) -> bool:
    """Whether the decision says that one of the two is better than the other."""
    decision, _ = decide(entries(scorer, first_NM, second_NM), scorer, rng, num_resamples=999, num_replicates=1)
    return decision.verdict == Verdict.BEST_SHOWN.value


def drawn(twins: Twins, rows: int, rng: Generator, *, swapped: bool) -> tuple[Scorer, StatsArray, StatsArray]:
    """Some of the rows; where asked, with the answers of each row swapped by the throw of a coin."""
    num_rows = twins.scorer.num_rows
    chosen = rng.choice(num_rows, size=min(rows, num_rows), replace=False)
    first_NM, second_NM = twins.first_NM[chosen], twins.second_NM[chosen]
    if swapped:
        is_swapped_N1 = rng.random((chosen.size, 1)) < 0.5
        first_NM, second_NM = np.where(is_swapped_N1, second_NM, first_NM), np.where(is_swapped_N1, first_NM, second_NM)
    return twins.scorer.part(chosen), first_NM, second_NM


def from_runs(folders: Sequence[Path], num_runs: int, rows: int, rng: Generator) -> list[Line]:
    """Stored answers, as they are and swapped."""
    twins = [each for folder in folders for each in stored(folder)]
    if not twins:
        return []
    kinds = {"stored, two seeds": False, "stored, swapped by row": True}
    counts = dict.fromkeys(kinds, 0)
    for run in range(num_runs):
        for kind, swapped in kinds.items():
            draw = drawn(twins[run % len(twins)], rows, rng, swapped=swapped)
            counts[kind] += is_called_better(*draw, rng)
    return [line(kind, count, num_runs) for kind, count in counts.items()]


def simulated(num_runs: int, rows: int, rng: Generator) -> list[Line]:
    """Two artefacts of one method, equally good; and one method twice, three seeds each."""
    scorer = scorer_of(rows)
    artefacts = methods = 0
    for _ in range(num_runs):
        first_NM, second_NM = is_right(answers(rng, np.full((1, 2, rows), ACCURACY))[0])
        artefacts += is_called_better(scorer, first_NM, second_NM, rng)
        accuracies = ACCURACY + SEED_SD * rng.standard_normal((1, 2 * SEEDS, 1))
        seeds_SNM = is_right(answers(rng, np.broadcast_to(accuracies, (1, 2 * SEEDS, rows)))[0])
        methods += is_method_better(scorer, seeds_SNM[:SEEDS], seeds_SNM[SEEDS:], rng)
    return [
        line("simulated, two seeds", artefacts, num_runs),
        line("simulated, methods by three seeds", methods, num_runs),
    ]


def is_method_better(scorer: Scorer, first_SNM: StatsArray, second_SNM: StatsArray, rng: Generator) -> bool:
    """Whether a method is said to differ from itself."""
    _, pairs = decide(entries(scorer, first_SNM[0], second_SNM[0]), scorer, rng, num_resamples=2, num_replicates=1)
    (pair,) = compare_methods(pairs, {"first": list(first_SNM), "second": list(second_SNM)}, scorer, rng)
    return pair.methods is not None and pair.methods.p_adjusted < ALPHA


def line(kind: str, count: int, num_runs: int) -> Line:
    return Line(answers=kind, runs=num_runs, called_better=count / num_runs, limit=limit(num_runs))


def main(argv: Sequence[str] | None = None) -> int:
    """1 where the rate is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="run folders; none: only the simulation")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="20 runs on 50 rows")
    options = parser.parse_args(argv)
    num_runs, rows = (20, 50) if options.quick else (options.runs, options.rows)
    rng = np.random.default_rng(0)
    lines = [*from_runs(options.folders, num_runs, rows, rng), *simulated(num_runs, rows, rng)]
    for found in lines:
        print(f"{found.answers:36}{found.runs:6} runs{100 * found.called_better:7.1f}% called better")
    if options.json is not None:
        write_json(options.json, [asdict(found) for found in lines])
    worst = max(lines, key=lambda found: found.called_better - found.limit)
    return int(worst.called_better > worst.limit)


if __name__ == "__main__":
    sys.exit(main())
