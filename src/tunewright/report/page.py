"""The page: what the run found, in the order a reader asks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from tunewright.report import answers, charts, numbers, svg, text
from tunewright.report.charts import Curve
from tunewright.report.plane import Level, Mark, scatter
from tunewright.runs.comparison import Candidate, Comparison, Pair
from tunewright.runs.record import RunRecord
from tunewright.types import FAMILIES

SIGNIFICANT = 0.05
"""Adjusted p-value below which two candidates are called separated."""

_COSTS = (
    ("price", "Modelled price of 1,000 requests in US dollars, log scale"),
    ("latency_ms", "Latency of a request in ms, log scale"),
    ("train_s", "Seconds to train, log scale"),
)
"""What can stand on the cost axis: the first that every candidate has."""


def render(run: RunRecord) -> str:
    """The page as one HTML text: no script, nothing loaded from anywhere."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= _filters()
    return environment.from_string(_resource("page.html.j2")).render(_context(run))


def _resource(name: str) -> str:
    return resources.files("tunewright.report").joinpath(name).read_text(encoding="utf-8")


def _filters() -> dict[str, Any]:
    shown = (numbers.percent, numbers.share, numbers.points, numbers.interval, numbers.probability, numbers.seconds,
             numbers.size, numbers.count, numbers.plain, numbers.counted, numbers.setting, numbers.price,
             text.clean, text.line)  # fmt: skip
    return {function.__name__: function for function in shown}


def _context(run: RunRecord) -> dict[str, Any]:
    comparison = run.comparison
    ok = [candidate for candidate in comparison.candidates if candidate.test is not None]
    return {
        "style": Markup(_resource("page.css")),
        "c": comparison,
        "headline": "Nothing to recommend" if run.winner is None else f"Recommended: {text.line(run.winner.id)}",
        "recommended": None if run.winner is None else run.winner.id,
        "run": run,
        "winner": run.winner,
        "shipped": None if run.winner is None else run.winner.shipped_seed,
        "unmeasured": [candidate for candidate in comparison.candidates if candidate.status != "ok"],
        "num_cut": sum(trial.get("status") == "cut" for trial in run.trials),
        "names": {candidate.id: text.line(candidate.id) for candidate in comparison.candidates},
        "styles": svg.style,
        "candidates": ranked(comparison.candidates),
        "plots": _plots(run, ok),
        "pairs": _pairs(comparison),
        "significant": SIGNIFICANT,
        "confusion": _confusion(run),
        "disagreements": answers.disagreements(run.rows, _readers(run)),
        "first_rows": 10,
        "short": text.SHORT,
        "whole_limit": text.WHOLE,
        "search": _search(run),
        "effort": _effort(comparison),
    }


def _readers(run: RunRecord) -> dict[str, answers.Answers]:
    """Answers of the candidates that read the text: one that does not would dissent on every row."""
    return {c.id: run.answers[c.id] for c in run.comparison.candidates if c.id in run.answers and c.reads_text}


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best test value first; those without one last, in the order of the run."""
    return sorted(
        candidates, key=lambda candidate: (candidate.test is None, -candidate.test.value if candidate.test else 0.0)
    )


def _plots(run: RunRecord, ok: Sequence[Candidate]) -> list[tuple[str, Markup]]:
    """The scatter for wide and for narrow screens; empty where no cost is known for all."""
    axis = next(
        ((key, title) for key, title in _COSTS if all(_cost(candidate, key) is not None for candidate in ok)), None
    )
    if axis is None or not ok:
        return []
    key, title = axis
    marks = [_mark(candidate, _cost(candidate, key) or 0.0, candidate == run.winner) for candidate in ok]
    chance = run.comparison.task.chance
    levels = [Level(name=f"chance {100 * chance:.1f}%", value=chance)]
    sizes = (("wide", 900, 440), ("narrow", 285, 400))
    return [(name, scatter(marks, levels, title=title, width=width, height=height)) for name, width, height in sizes]


def _cost(candidate: Candidate, key: str) -> float | None:
    value: float | None = getattr(candidate.cost, key)
    return value


def _mark(candidate: Candidate, cost: float, chosen: bool) -> Mark:
    assert candidate.test is not None
    return Mark(
        name=text.line(candidate.id), family=candidate.family, cost=cost, test=candidate.test, recommended=chosen
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTable:
    """All pairs, with every pair readable from both sides."""

    names: tuple[str, ...]
    """Candidates that have pairs, best first."""
    cells: Mapping[tuple[str, str], Pair]
    """(row, column) -> the pair with `difference` as row minus column."""


def _pairs(comparison: Comparison) -> PairTable:
    cells = {(pair.a, pair.b): pair for pair in comparison.pairs}
    cells |= {(pair.b, pair.a): turned(pair) for pair in comparison.pairs}
    in_pairs = {name for key in cells for name in key}
    names = tuple(candidate.id for candidate in ranked(comparison.candidates) if candidate.id in in_pairs)
    return PairTable(names=names, cells=cells)


def turned(pair: Pair) -> Pair:
    """The same pair of artefacts seen from the other side."""
    return Pair(
        a=pair.b, b=pair.a, difference=-pair.difference, low=-pair.high, high=-pair.low,
        p_value=pair.p_value, p_adjusted=pair.p_adjusted,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """The winner's answers by class."""

    drawing: Markup
    classes: tuple[answers.ClassScore, ...]
    mistakes: tuple[tuple[str, str, int], ...]
    n: int


def _confusion(run: RunRecord) -> Confusion | None:
    winner = run.winner
    if winner is None or winner.id not in run.answers:
        return None
    labels = run.comparison.task.labels
    matrix = answers.confusion(run.rows, run.answers[winner.id], labels)
    n = sum(sum(row) for row in matrix)
    if n == 0:
        return None
    return Confusion(
        drawing=charts.heatmap(matrix, labels),
        classes=tuple(answers.class_scores(matrix, labels)),
        mistakes=tuple(answers.mistakes(matrix, labels)),
        n=n,
    )


def curves(trials: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The trials by candidate, in the order they were run; lines that lack a key count as they can."""
    by_candidate: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        name = str(trial.get("candidate", trial.get("method", "unnamed")))
        by_candidate.setdefault(name, []).append(trial)
    return [
        Curve(
            name=text.line(name), family=str(found[0].get("family", "")), values=tuple(_value(trial) for trial in found)
        )
        for name, found in by_candidate.items()
    ]


def _value(trial: Mapping[str, Any]) -> float | None:
    """The dev value of a trial that ended; None for one that was pruned or failed."""
    value = trial.get("value")
    ended = trial.get("status", "complete") == "complete"
    return float(value) if ended and isinstance(value, int | float) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilySearch:
    """The search of one family."""

    family: str
    drawing: Markup
    ended: Mapping[str, int]
    """Status -> number of trials."""
    spent_s: float


def _search(run: RunRecord) -> list[FamilySearch]:
    found = [curve for curve in curves(run.trials) if sum(value is not None for value in curve.values) > 1]
    shares = [value for curve in found for value in curve.values if value is not None]
    if not shares:
        return []
    air = max(0.02, 0.06 * (max(shares) - min(shares)))
    domain = max(0.0, min(shares) - air), min(1.0, max(shares) + air)
    drawn = []
    for family in _in_order(curve.family for curve in found):
        of_family = [trial for trial in run.trials if str(trial.get("family", "")) == family]
        drawing = charts.search([curve for curve in found if curve.family == family], domain)
        ended = Counter(str(trial.get("status", "complete")) for trial in of_family)
        spent_s = sum(float(trial.get("seconds") or 0.0) for trial in of_family)
        drawn.append(FamilySearch(family=family, drawing=drawing, ended=dict(sorted(ended.items())), spent_s=spent_s))
    return drawn


def _in_order(families: Any) -> list[str]:
    present = dict.fromkeys(families)
    return [family for family in FAMILIES if family in present] + [name for name in present if name not in FAMILIES]


def _effort(comparison: Comparison) -> list[tuple[str, int, float]]:
    """(family, trials, seconds of tuning) for each family, to show that none was favoured."""
    families = _in_order(candidate.family for candidate in comparison.candidates)
    return [
        (
            family,
            sum(c.trials for c in comparison.candidates if c.family == family),
            sum(c.cost.tune_s or 0.0 for c in comparison.candidates if c.family == family),
        )
        for family in families
    ]
