"""How often a decision claims what is not so, how often its intervals hold, and what it misses: by simulation.

Each comparison draws candidates that share the difficulty of rows, as real answers do, and goes through the functions
that `tunewright compare` calls: `decision.decide` and `seeds.compare_methods` on test rows, or
`cross_validation.decide_folds`. A claim is false where the truth is no difference, or the opposite one:

- artefact: a pair with an adjusted p-value below 5%; the truth is the true accuracy of the two shipped artefacts;
- method: the same for what is said of the methods, by three seeds or by folds; the truth is the mean of the method;
- margin: "shown to lose less than the margin" against the highest measured. Where half of the candidates are 3 points
  lower the margin is 3 points, the least favourable truth, and the lower half is the cheaper one.

Power is the share of pairs across the two halves that are claimed, beside that of Holm's method over the exact McNemar
tests and of a max-T permutation test (step-down, sign flips of rows) with code of its own.

    python -m bench.false_claims [--comparisons 5000] [--path holdout folds] [--workers 1] [--json F]
    python -m bench.false_claims --quick

Each finished cell is a line of F.jsonl; a second call goes on from it. F has the table and the worst cells.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from tunewright.evaluation import statistics
from tunewright.evaluation.cross_validation import FoldEntry, decide_folds
from tunewright.evaluation.decision import Entry, decide
from tunewright.evaluation.metrics import METRICS, IntArray, Scorer, StatsArray
from tunewright.evaluation.reason import Verdict
from tunewright.evaluation.seeds import compare_methods
from tunewright.files import append_line, read_lines, write_json
from tunewright.runs.comparison import Decision, Pair
from tunewright.types import Estimate

ACCURACY, LOWER, SEEDS, FOLDS, REPEATS = 0.8, 0.03, 3, 5, 2
DIFFICULTY, METHOD, OWN = 0.5, 0.2, 0.3
"""Shares of the variance of an answer: of the row, of the method on that row, of the trained model on that row."""
OVERLAP = 1 / FOLDS
"""Share of a fold model's deviation that all models of its method have in common, as their training rows."""
FLIPS = 499
ANY = Estimate(value=math.nan, low=math.nan, high=math.nan, n=0)

Floats = NDArray[np.float64]
Signs = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is simulated."""

    path: str
    n: int
    candidates: int
    seed_sd: float
    """Points."""
    null: str

    @property
    def margin_points(self) -> float:
        return 100 * LOWER if self.null == "half" else 1.0


@dataclass(kw_only=True)
class Tally:
    """Counts over the comparisons of a cell."""

    comparisons: int = 0
    artefact: int = 0
    method: int = 0
    margin: int = 0
    margin_claims: int = 0
    """True ones too."""
    covered: int = 0
    intervals: int = 0
    methods_covered: int = 0
    method_intervals: int = 0
    found: int = 0
    found_holm: int = 0
    found_max_t: int = 0
    real: int = 0
    """Pairs across the halves."""


def means(cell: Cell) -> Floats:
    """True mean accuracy of each method, the lower half first, which is the cheaper."""
    means_K = np.full(cell.candidates, ACCURACY)
    if cell.null == "half":
        means_K[: cell.candidates // 2] -= LOWER
    return means_K


def answers(rng: Generator, accuracies: Floats) -> IntArray:
    """Answers [K, M, N] to rows of label 0 by M models of each of K methods, each right with its accuracy [K, M, N].

    Rows, methods and models have their own share in what is hard.
    """
    K, M, N = accuracies.shape
    row_N, method_K1N, model_KMN = (rng.standard_normal(shape, np.float32) for shape in (N, (K, 1, N), (K, M, N)))
    shared_K1N = math.sqrt(DIFFICULTY) * row_N + math.sqrt(METHOD) * method_K1N
    latent_KMN = shared_K1N + math.sqrt(OWN) * model_KMN
    wrong: IntArray = (latent_KMN > special.ndtri(accuracies)).astype(np.int64)
    return wrong


def false(pair: Pair, truth: dict[str, float], difference: float) -> bool:
    """Whether a claim of this difference has the wrong sign, or any where there is none."""
    true = truth[pair.a] - truth[pair.b]
    return abs(true) < 1e-12 or (true > 0) != (difference > 0)


def is_margin_claim_false(cell: Cell, decision: Decision, truth: dict[str, float]) -> bool:
    assert decision.recommended is not None, "no requirements here"
    lost = truth[decision.best] - truth[decision.recommended]
    return decision.verdict == Verdict.CHEAPER.value and lost >= cell.margin_points / 100 - 1e-12


def tally_margin(cell: Cell, decision: Decision, truth: dict[str, float], tally: Tally) -> None:
    tally.margin_claims += decision.verdict == Verdict.CHEAPER.value
    tally.margin += is_margin_claim_false(cell, decision, truth)


def tally_power(cell: Cell, pairs: Sequence[Pair], right_KN: Floats, signs_RN: Signs, tally: Tally) -> None:
    """Pairs across the halves that are claimed in the right direction, by the decision and by two others."""
    if cell.null != "half":
        return
    half = cell.candidates // 2
    across = [pair for pair in pairs if int(pair.a) < half <= int(pair.b)]
    holm = dict(zip(pairs, statistics.holm([pair.p_value for pair in pairs]), strict=True))
    max_t = dict(zip(pairs, permutation_max_t(pairs, right_KN, signs_RN), strict=True))
    tally.real += len(across)
    for pair in across:
        if pair.difference < 0:
            tally.found += pair.p_adjusted < statistics.ALPHA
            tally.found_holm += holm[pair] < statistics.ALPHA
            tally.found_max_t += max_t[pair] < statistics.ALPHA


def permutation_max_t(pairs: Sequence[Pair], right_KN: Floats, signs_RN: Signs) -> list[float]:
    """Step-down max-T p-values, one pair after the other: the peer that power is measured against."""
    a_P, b_P = (np.array([int(name) for name in names]) for names in zip(*((p.a, p.b) for p in pairs), strict=True))
    size_P = np.sqrt(np.maximum(1.0, np.square(right_KN[a_P] - right_KN[b_P]).sum(axis=1)))
    observed_P = np.abs(right_KN.sum(axis=1)[a_P] - right_KN.sum(axis=1)[b_P]) / size_P
    flipped_RK = signs_RN @ right_KN.T.astype(np.float32)
    null_RP = np.abs(flipped_RK[:, a_P] - flipped_RK[:, b_P]) / size_P
    order = np.argsort(observed_P)
    p_values, largest_R, found = np.ones(order.size), np.zeros(len(signs_RN)), []
    for k in order:
        largest_R = np.maximum(largest_R, null_RP[:, k])
        found.append((1 + np.count_nonzero(largest_R >= observed_P[k] - 1e-6)) / (1 + largest_R.size))
    p_values[order[::-1]] = np.maximum.accumulate(found[::-1])
    return p_values.tolist()


def scorer_of(num_rows: int) -> Scorer:
    """Accuracy on rows of label 0."""
    return Scorer(metric=METRICS["accuracy"], references=[("0",)] * num_rows, labels=("0", "1"))


def is_right(predicted: IntArray) -> StatsArray:
    """What such answers add to the accuracy: [..., 1]."""
    stats: StatsArray = (predicted == 0)[..., None].astype(np.float32)
    return stats


def holdout(cell: Cell, rng: Generator, signs_RN: Signs, tally: Tally) -> None:
    """One comparison on test rows: three seeds of each method, the first of which is shipped."""
    means_K = means(cell)
    accuracy_KS = means_K[:, None] + cell.seed_sd / 100 * rng.standard_normal((cell.candidates, SEEDS))
    every = np.broadcast_to(accuracy_KS[:, :, None], (*accuracy_KS.shape, cell.n))
    predicted_KSN = answers(rng, every)
    scorer, stats_KSNM = scorer_of(cell.n), is_right(predicted_KSN)
    entries = [
        Entry(id=str(k), method="m", family="fine-tuning", backbone="b", stats_NM=seeds[0], price=k + 1, test=ANY)
        for k, seeds in enumerate(stats_KSNM)
    ]
    entries = [replace(entry, test=estimate(scorer.value(entry.stats_NM))) for entry in entries]
    decision, pairs = decide(
        entries, scorer, rng, margin_points=cell.margin_points, num_resamples=FLIPS, num_replicates=1
    )
    seeds = {str(k): list(stats_SNM) for k, stats_SNM in enumerate(stats_KSNM)}
    truth = {str(k): float(accuracy) for k, accuracy in enumerate(accuracy_KS[:, 0])}
    method_truth = {str(k): float(mean) for k, mean in enumerate(means_K)}
    artefact = method = False
    for pair in compare_methods(pairs, seeds, scorer, rng):
        artefact |= pair.p_adjusted < statistics.ALPHA and false(pair, truth, pair.difference)
        tally.covered += pair.low <= truth[pair.a] - truth[pair.b] <= pair.high
        tally.intervals += 1
        said = pair.methods
        assert said is not None
        method |= said.p_adjusted < statistics.ALPHA and false(pair, method_truth, said.difference)
        tally.methods_covered += said.low <= method_truth[pair.a] - method_truth[pair.b] <= said.high
        tally.method_intervals += 1
    tally.artefact += artefact
    tally.method += method
    tally_margin(cell, decision, truth, tally)
    tally_power(cell, pairs, (predicted_KSN[:, 0] == 0).astype(np.float64), signs_RN, tally)


def folds(cell: Cell, rng: Generator, signs_RN: Signs, tally: Tally) -> None:
    """One comparison by repeated cross-validation: each fold of each repeat has a model of its own."""
    means_K, K = means(cell), cell.candidates
    fold_RN = np.stack([rng.permutation(np.arange(cell.n) % FOLDS) for _ in range(REPEATS)])
    own_KRF = math.sqrt(1 - OVERLAP) * rng.standard_normal((K, REPEATS, FOLDS))
    deviation_KRF = own_KRF + math.sqrt(OVERLAP) * rng.standard_normal((K, 1, 1))
    accuracy_KRF = means_K[:, None, None] + cell.seed_sd / 100 * deviation_KRF
    predicted_KRN = answers(rng, accuracy_KRF[:, np.arange(REPEATS)[:, None], fold_RN])
    scorer = scorer_of(cell.n)
    entries = [
        FoldEntry(id=str(k), method="m", family="fine-tuning", backbone="b", stats_RNM=stats_RNM, price=k + 1)
        for k, stats_RNM in enumerate(is_right(predicted_KRN))
    ]
    decision, pairs = decide_folds(entries, scorer, fold_RN, rng, margin_points=cell.margin_points, num_replicates=1)
    truth = {str(k): float(mean) for k, mean in enumerate(means_K)}
    tally.method += any(p.p_adjusted < statistics.ALPHA and false(p, truth, p.difference) for p in pairs)
    tally.covered += sum(pair.low <= truth[pair.a] - truth[pair.b] <= pair.high for pair in pairs)
    tally.intervals += len(pairs)
    tally_margin(cell, decision, truth, tally)
    tally_power(cell, pairs, np.mean(predicted_KRN == 0, axis=1, dtype=np.float64), signs_RN, tally)


def estimate(value: float) -> Estimate:
    """A value alone: the sentence of a decision is not what is measured here."""
    return Estimate(value=value, low=value, high=value, n=1)


def run(job: tuple[Cell, int]) -> dict[str, Any]:
    """All comparisons of a cell."""
    cell, comparisons = job
    words = [ord(letter) for letter in f"{cell}"]
    rng = np.random.default_rng(words)
    signs_RN = rng.choice(np.array([-1, 1], dtype=np.float32), size=(FLIPS, cell.n))
    tally = Tally()
    compare = holdout if cell.path == "holdout" else folds
    for _ in range(comparisons):
        compare(cell, rng, signs_RN, tally)
        tally.comparisons += 1
    return {**asdict(cell), **asdict(tally)}


def cell_of(row: dict[str, Any]) -> Cell:
    """What a line of the file is about."""
    return Cell(**{field.name: row[field.name] for field in fields(Cell)})


def rates(row: dict[str, Any]) -> dict[str, Any]:
    """The counts of a cell as shares; None where there is nothing to count."""

    def share(part: str, whole: str) -> float | None:
        return row[part] / row[whole] if row[whole] else None

    errors = {name: share(name, "comparisons") for name in ("artefact", "method", "margin")}
    if row["path"] == "folds":
        errors["artefact"] = None
    return {
        **{key: row[key] for key in ("path", "n", "candidates", "seed_sd", "null", "comparisons")},
        "familywise_error": errors,
        "margin_claims": share("margin_claims", "comparisons"),
        "coverage": share("covered", "intervals"),
        "method_coverage": share("methods_covered", "method_intervals"),
        "power": share("found", "real"),
        "power_holm": share("found_holm", "real"),
        "power_max_t": share("found_max_t", "real"),
        "relative_power": share("found", "found_max_t"),
        "found_max_t": row["found_max_t"],
    }


def limit(comparisons: int) -> float:
    """5% and two Monte-Carlo errors."""
    return statistics.ALPHA + 2 * math.sqrt(statistics.ALPHA * (1 - statistics.ALPHA) / comparisons)


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Worst cells and means; power is compared where the peer makes at least 100 claims."""
    cells = [rates(row) for row in rows]
    errors = [(error, cell) for cell in cells for error in cell["familywise_error"].values() if error is not None]
    paths = sorted({cell["path"] for cell in cells})
    coverages = {path: [cell["coverage"] for cell in cells if cell["path"] == path] for path in paths}
    powers = [cell["relative_power"] for cell in cells if cell["path"] == "holdout" and cell["found_max_t"] >= 100]
    return {
        "familywise_error": max(error for error, _ in errors),
        "limit": limit(min(cell["comparisons"] for cell in cells)),
        "within_limits": all(error <= limit(cell["comparisons"]) for error, cell in errors),
        "coverage": min(map(min, coverages.values())),
        "mean_coverage": {path: float(np.mean(found)) for path, found in coverages.items()},
        "method_coverage": min((c["method_coverage"] for c in cells if c["method_coverage"] is not None), default=None),
        "relative_power": min(powers, default=None),
        "cells": cells,
    }


def table(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Per cent, a cell a line."""
    yield (
        f"{'path':8}{'n':>5}{'K':>3}{'sd':>5} {'null':6}{'artefact':>9}{'method':>8}{'margin':>8}"
        f"{'coverage':>9}{'methods':>9}{'power':>7}{'holm':>7}{'max-T':>7}"
    )
    for cell in cells:
        errors = cell["familywise_error"]
        numbers = [(errors["artefact"], 9), (errors["method"], 8), (errors["margin"], 8)]
        numbers += [(cell["coverage"], 9), (cell["method_coverage"], 9)]
        numbers += [(cell["power"], 7), (cell["power_holm"], 7), (cell["power_max_t"], 7)]
        shown = "".join(f"{'-' if number is None else f'{100 * number:.2f}':>{width}}" for number, width in numbers)
        yield f"{cell['path']:8}{cell['n']:5}{cell['candidates']:3}{cell['seed_sd']:5.1f} {cell['null']:6}{shown}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=5_000)
    parser.add_argument("--path", nargs="+", default=["holdout", "folds"], choices=["holdout", "folds"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="20 comparisons of the smallest cells")
    args = parser.parse_args(argv)
    sizes, counts = ([100], [2, 5]) if args.quick else ([100, 300, 1000, 2000], [2, 5, 10])
    comparisons = 20 if args.quick else args.comparisons
    cells = [
        Cell(path=path, n=n, candidates=candidates, seed_sd=seed_sd, null=null)
        for path, n, candidates, seed_sd, null in itertools.product(
            args.path, sizes, counts, (0.0, 1.5), ("equal", "half")
        )
    ]
    lines = None if args.json is None else args.json.with_suffix(".jsonl")
    rows = [] if lines is None else [row for row in read_lines(lines) if row["comparisons"] == comparisons]
    done = {cell_of(row) for row in rows}
    with Pool(args.workers) as pool:
        for row in pool.imap_unordered(run, [(cell, comparisons) for cell in cells if cell not in done]):
            rows.append(row)
            if lines is not None:
                append_line(lines, row)
            print(*list(table([rates(row)]))[1:], flush=True)
    found = summary(sorted((row for row in rows if cell_of(row) in cells), key=lambda row: cells.index(cell_of(row))))
    print(*table(found["cells"]), sep="\n")
    print({key: value for key, value in found.items() if key != "cells"})
    if args.json is not None:
        write_json(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
