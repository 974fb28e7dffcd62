"""How good are the decisions? Finished runs, decided again on many small draws of their test rows.

From each run folder 300 test rows are drawn, 500 times; `decision.decide` chooses on them, and what it recommends is
judged on the rows that were not drawn. Beside it two policies that people use: take the highest test value, and always
take LoRA.

    python -m bench.decision_quality RUN [RUN ...] [--draws 500 --rows 300 --margin 1.0] [--json F]
    python -m bench.decision_quality --quick

Regret is the highest value on the remaining rows minus that of the candidate taken, in points; what is reported of
Tunewright's decision is the part beyond the margin it was allowed to lose.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from tunewright.evaluation import decision
from tunewright.evaluation.metrics import METRICS, FloatArray, Scorer, StatsArray, row_scorer
from tunewright.files import write_json
from tunewright.runs.record import read
from tunewright.types import Estimate

ALWAYS = "lora"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a run has stored of its test rows."""

    name: str
    scorer: Scorer
    ids: Sequence[str]
    methods: Sequence[str]
    stats_KNM: Sequence[StatsArray]
    prices_K: FloatArray
    is_floor_K: Sequence[bool]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One decision by each policy: the candidate taken, judged on the rows left out."""

    values_K: FloatArray
    taken: Mapping[str, int]

    def regret_points(self, policy: str) -> float:
        """What the policy lost against the best on the rows left out."""
        return 100 * float(self.values_K.max() - self.values_K[self.taken[policy]])


def stored(folder: Path) -> Stored:
    """The finished candidates of a run."""
    run = read(folder)
    task = run.comparison.task
    scorer = row_scorer(METRICS[task.metric], task.labels, run.rows)
    finished = [c for c in run.comparison.candidates if c.id in run.answers]
    return Stored(
        name=run.comparison.task.name,
        scorer=scorer,
        ids=[c.id for c in finished],
        methods=[c.method for c in finished],
        stats_KNM=[scorer.stats([run.answers[c.id][row.id] for row in run.rows]) for c in finished],
        prices_K=np.array([np.inf if c.cost.price is None else c.cost.price for c in finished]),
        is_floor_K=[c.is_floor for c in finished],
    )


def draw(run: Stored, num_rows: int, margin_points: float, rng: Generator) -> Draw:
    """One draw of rows, decided and judged."""
    order_N = rng.permutation(run.scorer.num_rows)
    drawn, left = order_N[:num_rows], order_N[num_rows:]
    scorer, judge = run.scorer.part(drawn), run.scorer.part(left)
    seen_K = np.array([scorer.value(stats_NM[drawn]) for stats_NM in run.stats_KNM])
    entries = [
        decision.Entry(
            id=name,
            method=run.methods[k],
            family="fine-tuning",
            backbone="base",
            stats_NM=run.stats_KNM[k][drawn],
            price=float(run.prices_K[k]),
            test=Estimate(value=float(seen_K[k]), low=0.0, high=1.0, n=num_rows),
            is_floor=run.is_floor_K[k],
        )
        for k, name in enumerate(run.ids)
    ]
    chosen, _ = decision.decide(entries, scorer, rng, margin_points=margin_points, num_resamples=1000)
    taken = {"tunewright": run.ids.index(chosen.recommended), "best test value": int(seen_K.argmax())}
    if ALWAYS in run.methods:
        taken[f"always {ALWAYS}"] = run.methods.index(ALWAYS)
    values_K = np.array([judge.value(stats_NM[left]) for stats_NM in run.stats_KNM])
    return Draw(values_K=values_K, taken=taken)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A policy on one run, or on all."""

    run: str
    policy: str
    regret: float
    """Mean, in points."""
    beyond_margin: float
    beyond_margin_p95: float
    price: float
    """Mean modelled US dollars for 1000 requests of what was taken."""
    taken: Mapping[str, float]
    """Candidate -> share of the draws that took it."""


def summary(run: Stored, draws: Sequence[Draw], margin_points: float) -> list[Line]:
    """What each policy came to on one run."""
    lines = []
    for policy in draws[0].taken:
        regret_D = np.array([each.regret_points(policy) for each in draws])
        beyond_D = np.maximum(0.0, regret_D - margin_points)
        taken_D = [each.taken[policy] for each in draws]
        shares = np.bincount(taken_D, minlength=len(run.ids)) / len(draws)
        lines.append(
            Line(
                run=run.name,
                policy=policy,
                regret=float(regret_D.mean()),
                beyond_margin=float(beyond_D.mean()),
                beyond_margin_p95=float(np.quantile(beyond_D, 0.95)),
                price=float(run.prices_K[taken_D].mean()),
                taken={name: float(share) for name, share in zip(run.ids, shares, strict=True) if share},
            )
        )
    return lines


def overall(lines: Sequence[Line]) -> list[Line]:
    """Means over the runs, each run counting the same."""

    def mean(policy: str, value: Callable[[Line], float]) -> float:
        return float(np.mean([value(line) for line in lines if line.policy == policy]))

    return [
        Line(
            run="all",
            policy=policy,
            regret=mean(policy, lambda line: line.regret),
            beyond_margin=mean(policy, lambda line: line.beyond_margin),
            beyond_margin_p95=mean(policy, lambda line: line.beyond_margin_p95),
            price=mean(policy, lambda line: line.price),
            taken={},
        )
        for policy in dict.fromkeys(line.policy for line in lines)
    ]


def table(lines: Sequence[Line]) -> str:
    """As a page shows it."""
    head = "| run | policy | mean regret | beyond the margin | its 95% quantile | $ per 1000 | takes |\n"
    rows = ["|---|---|---|---|---|---|---|\n"]
    for line in lines:
        often = sorted(line.taken.items(), key=lambda item: -item[1])[:3]
        takes = ", ".join(f"{name} {100 * share:.0f}%" for name, share in often)
        rows.append(
            f"| {line.run} | {line.policy} | {line.regret:.2f} | {line.beyond_margin:.2f} "
            f"| {line.beyond_margin_p95:.2f} | {line.price:.2g} | {takes} |\n"
        )
    return head + "".join(rows)


def simulated(rng: Generator, *, num_rows: int = 900) -> Stored:
    """Answers of four made-up candidates that find the same rows hard."""
    true_N = rng.integers(2, size=num_rows)
    hard_N = rng.normal(size=num_rows)
    skills = {"majority": -9.0, "zero-shot": 0.6, "lora": 1.4, "full": 1.5}
    is_right_KN = [skill + rng.normal(size=num_rows) > hard_N for skill in skills.values()]
    answers_KN = [np.where(right_N, true_N, 1 - true_N) for right_N in is_right_KN]
    answers_KN[0] = np.zeros_like(true_N)
    return Stored(
        name="simulated",
        scorer=Scorer(metric=METRICS["accuracy"], references=[(str(k),) for k in true_N], labels=("0", "1")),
        ids=list(skills),
        methods=list(skills),
        stats_KNM=[(answers_N == true_N)[:, None].astype(np.float32) for answers_N in answers_KN],
        prices_K=np.array([0.0, 1.0, 2.0, 9.0]),
        is_floor_K=[True, False, False, False],
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="finished run folders")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--rows", type=int, default=300, help="test rows of a draw")
    parser.add_argument("--margin", type=float, default=1.0, help="points a cheaper candidate may lose")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--quick", action="store_true", help="a few draws of made-up answers: shows that it runs")
    options = parser.parse_args()
    if options.quick:
        options.draws = 10
    elif not options.runs:
        parser.error("give finished run folders, or --quick")
    rng = np.random.default_rng(0)
    runs = [simulated(rng)] if options.quick else [stored(folder) for folder in options.runs]
    lines: list[Line] = []
    for run in runs:
        draws = [draw(run, options.rows, options.margin, rng) for _ in range(options.draws)]
        lines += summary(run, draws, options.margin)
    lines += overall(lines)
    print(table(lines), end="")
    if options.json is not None:
        fields = ("run", "policy", "regret", "beyond_margin", "beyond_margin_p95", "price", "taken")
        write_json(options.json, [{name: getattr(line, name) for name in fields} for line in lines])


if __name__ == "__main__":
    main()
