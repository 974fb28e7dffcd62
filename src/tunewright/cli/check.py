"""`tunewright check`: a gate for continuous integration over finished runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.errors import ConfigError, RunError, unknown

if TYPE_CHECKING:
    from tunewright.evaluation.metrics import IntArray, Metric, Scorer, StatsArray
    from tunewright.runs.record import RunRecord

Minimum = tuple[str, float]
"""Metric and least value."""


def check(
    run: Annotated[Path, typer.Argument(help="run folder")],
    minimum: Annotated[
        list[str] | None, typer.Option("--min", help="least value of a metric; may repeat", metavar="METRIC=VALUE")
    ] = None,
    not_worse_than: Annotated[
        Path | None, typer.Option(help="run folder of what is replaced, with the same test rows", metavar="OLD_RUN")
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="points it may lose against OLD_RUN; the run's own when absent", metavar="POINTS")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="SQLite file that --min sql-execution asks", metavar="FILE")
    ] = None,
    candidate: Annotated[str | None, typer.Option(help="whom to check; the recommended one when absent")] = None,
) -> None:
    """Does a run show what is required of it? Exit 0: yes, 1: no, 3: cannot be told."""
    from numpy.random import default_rng

    from tunewright.evaluation import gate
    from tunewright.evaluation.metrics import METRICS
    from tunewright.evaluation.named import find_metric, stored_metric
    from tunewright.runs.record import read

    minima, points = _requirements(minimum, not_worse_than, margin)
    if database is not None and not any(name in METRICS and METRICS[name].needs == "database" for name, _ in minima):
        raise ConfigError("`database` has no effect without --min sql-execution=VALUE. Give that or leave it out.")
    new = read(run)
    who, rng = _who(new, run, candidate), default_rng(new.comparison.provenance.seed)
    choice = len(new.answers) if candidate is None else 1
    rulings = []
    for metric, value in minima:
        needed = database if metric in METRICS and METRICS[metric].needs == "database" else None
        scorer, stats_NM = _judged(new, who, find_metric(metric, new.comparison.task.kind, database=needed))
        if new.comparison.protocol.kind == "folds":
            held_out = _held_out(new, run, who, scorer)
            rulings.append(gate.at_least_in_folds(scorer, *held_out, value, num_chosen_from=choice))
        else:
            rulings.append(gate.at_least(scorer, stats_NM, value, rng, num_chosen_from=choice))
    if not_worse_than is not None:
        old = read(not_worse_than)
        for each, path in ((new, run), (old, not_worse_than)):
            if each.comparison.protocol.kind == "folds":
                raise RunError(f"{path} was judged in folds, by several models. Give two runs with --folds 1.")
        if new.test_sha256 != old.test_sha256:
            raise RunError(f"{run} and {not_worse_than} have different test rows. Give both the same --test file.")
        own = new.comparison.decision.margin if new.comparison.decision is not None else 0.0
        scorer, new_NM = _judged(new, who, stored_metric(new.comparison.task.metric))
        old_NM = scorer.stats(old.given(_who(old, not_worse_than, None), new))
        rulings.append(gate.not_worse(scorer, new_NM, old_NM, (own if points is None else points) / 100, rng))
    if new.comparison.protocol.kind == "folds":
        print("note: of the method, over models of several folds; what is shipped was itself not tested")
    outcome = gate.worst(rulings)
    for ruling in rulings:
        print(f"{ruling.outcome.name.lower()}: {who}: {ruling.reason}")
    raise typer.Exit(int(outcome))


def _requirements(
    minimum: list[str] | None, old: Path | None, margin: str | None
) -> tuple[list[Minimum], float | None]:
    """What is required.

    Raises:
        ConfigError: Every fault at once.
    """
    from tunewright.data.rules import number
    from tunewright.evaluation.metrics import METRICS
    from tunewright.evaluation.named import is_code

    faults, minima = [], []
    for given in minimum or ():
        name, _, text = given.partition("=")
        value = number(text)
        if name not in METRICS and not is_code(name):
            faults.append(unknown("metric", name, METRICS))
        elif value is None or not 0 <= value <= 1:
            faults.append(f"`--min {name}` must be a number from 0 to 1. Got {text!r}. Write --min {name}=0.9.")
        else:
            minima.append((name, value))
    points = None if margin is None else number(margin)
    if margin is not None and (points is None or not 0 <= points < 100):
        faults.append(f"`margin` must be a number from 0 to 100. Got {margin!r}.")
    if margin is not None and old is None:
        faults.append("`margin` has no effect without --not-worse-than. Give OLD_RUN or leave it out.")
    if not minimum and old is None:
        faults.append("nothing to check. Give --min METRIC=VALUE or --not-worse-than OLD_RUN.")
    if faults:
        raise ConfigError(faults)
    return minima, points


def _who(run: "RunRecord", folder: Path, wanted: str | None) -> str:
    """The candidate to check, one that has answers.

    Raises:
        RunError: No such candidate, or the run recommends none.
    """
    if wanted is None:
        if run.winner is None:
            raise RunError(f"{folder} recommends no candidate. Name one with --candidate.")
        wanted = run.winner.id
    if wanted not in run.answers:
        raise RunError(unknown("candidate", wanted, run.answers))
    return wanted


def _judged(run: "RunRecord", who: str, metric: "Metric") -> tuple["Scorer", "StatsArray"]:
    """A metric with what is right for the run's rows, and the candidate's answers."""
    from tunewright.evaluation.metrics import row_scorer

    scorer = row_scorer(metric, run.comparison.task.labels, run.rows)
    return scorer, scorer.stats(run.given(who))


def _held_out(run: "RunRecord", folder: Path, who: str, scorer: "Scorer") -> tuple["StatsArray", "IntArray"]:
    """Statistics [R, N, M] of the answers, and fold [R, N], of each row in each repeat.

    Raises:
        RunError: The folder does not hold them.
    """
    import numpy as np

    from tunewright.evaluation.answers import read_answers
    from tunewright.files import read_json
    from tunewright.runs.folder import predictions_file

    protocol, ids = run.comparison.protocol, [row.id for row in run.rows]
    folds = read_json(folder / "data.json").get("folds", {})
    stats, numbers = [], []
    for repeat in range(protocol.repeats):
        held_out = {row: j for j in range(protocol.folds) for row in folds.get(f"r{repeat}-f{j}", {}).get("test", ())}
        missing = [row for row in ids if row not in held_out]
        if missing:
            raise RunError(f"{folder / 'data.json'} has no fold of {missing[0]}. Repeat the run or restore the file.")
        numbers.append([held_out[row] for row in ids])
        file = predictions_file(folder, who, repeat)
        stats.append(scorer.stats(read_answers(file, run.comparison.task.labels, ids).given))
    return np.stack(stats), np.array(numbers)
