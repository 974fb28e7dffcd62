"""The page: what the run found, in the order a reader asks."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import jinja2
from altair.utils.schemapi import debug_mode
from markupsafe import Markup

from tunewright.evaluation.preference import preferences
from tunewright.evaluation.statistics import ALPHA
from tunewright.report import answers, charts, numbers, svg, text
from tunewright.report.charts import Curve
from tunewright.report.first_screen import failed, first_screen, found_folder, is_shown, turned
from tunewright.report.frontier import frontier, latency_p95_ms
from tunewright.report.versus import Versus
from tunewright.runs.comparison import Candidate, Comparison, FamilyEffort
from tunewright.runs.record import RunRecord
from tunewright.types import FAMILIES, Estimate

_MOST_ROWS = 200
_MOST_CHARACTERS = 600_000
"""Of the texts of rows on which candidates disagree: the page stays under 3 MB whatever they hold."""


def render(run: RunRecord, name: str) -> str:
    """The page as one HTML text that loads nothing from anywhere.

    Args:
        run: The run.
        name: Of its folder.
    """
    script = Markup(resource("page.js"))
    with debug_mode(False):  # altair would check each piece of a chart against its schema: a sixth of the page's time
        drawings = _drawings(run)
    return template("page.html.j2").render(
        _context(run, name) | drawings | {"script": script, "script_sha256": sha256(script)}
    )


def render_fragment(run: RunRecord, name: str) -> str:
    """The first screen and the candidates as a piece of HTML for a notebook, its style kept to itself."""
    return template("notebook.html.j2").render(_context(run, name))


def render_markdown(run: RunRecord, name: str) -> str:
    """The decision, the candidates, failed checks and commands, for a pull request."""
    return template("report.md.j2").render(_context(run, name))


def render_versus(versus: Versus, runs: tuple[RunRecord, RunRecord], names: tuple[str, str]) -> str:
    """Two runs on one page.

    Args:
        versus: What changed.
        runs: Old and new.
        names: Of their folders.
    """
    old, new = runs
    return template("versus.html.j2").render(versus=versus, old=old.comparison, new=new.comparison, names=names)


def template(name: str) -> jinja2.Template:
    """A template of this package; what goes into a page is escaped, numbers in Markdown are plain."""
    environment = jinja2.Environment(
        autoescape=not name.endswith(".md.j2"), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(resource),
    )  # fmt: skip
    shown = (numbers.percent, numbers.share, numbers.points, numbers.interval, numbers.probability, numbers.seconds,
             numbers.size, numbers.count, numbers.plain, numbers.counted, numbers.setting, numbers.price, numbers.usd,
             numbers.millis, text.clean, text.line, text.markdown)  # fmt: skip
    environment.filters |= {function.__name__: function for function in shown}
    environment.globals |= {"style": Markup(resource("page.css")), "styles": svg.style, "significant": ALPHA}
    return environment.get_template(name)


def resource(name: str) -> str:
    """A file of this package."""
    return resources.files("tunewright.report").joinpath(name).read_text(encoding="utf-8")


def sha256(script: str) -> str:
    """As a Content-Security-Policy names an inline script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _context(run: RunRecord, name: str) -> dict[str, Any]:
    """What the first screen and the table of candidates need."""
    comparison, winner = run.comparison, run.winner
    folder = found_folder(comparison.provenance.command, name)
    return {
        "c": comparison,
        "run": run,
        "folder": folder,
        "first": first_screen(run, folder),
        "winner": winner,
        "recommended": None if winner is None else winner.id,
        "shipped": None if winner is None else winner.shipped_seed,
        "unmeasured": [candidate for candidate in comparison.candidates if candidate.status != "ok"],
        "not_compared": _not_compared(comparison.candidates),
        "names": {candidate.id: text.line(candidate.id) for candidate in comparison.candidates},
        "candidates": ranked(comparison.candidates),
        "p95_ms": {candidate.id: latency_p95_ms(candidate) for candidate in comparison.candidates},
        "in_folds": comparison.protocol.kind == "folds",
        "owned": any(candidate.cost.ownership is not None for candidate in comparison.candidates),
        "flags": {c.id: [check for check in failed(comparison, c.id) if check.touches] for c in comparison.candidates},
        "failed": failed(comparison),
    }


def _not_compared(candidates: Sequence[Candidate]) -> dict[str, list[str]]:
    """Why candidates were not measured -> those."""
    found: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.status != "ok":
            reason = "no reason given" if candidate.reason is None else text.line(candidate.reason, 200)
            found.setdefault(f"{candidate.status}: {reason}", []).append(text.line(candidate.id))
    return found


def _drawings(run: RunRecord) -> dict[str, Any]:
    """What the rest of the page needs; of disagreements without those who read no text: they dissent on every row."""
    comparison = run.comparison
    readers = {c.id: run.answers[c.id] for c in comparison.candidates if c.id in run.answers and not c.is_floor}
    return {
        "num_cut": sum(trial.get("status") == "cut" for trial in run.trials),
        "frontier": frontier(run),
        "pairs": _pairs(comparison),
        "confusion": _confusion(run),
        "preferences": preferences(run.judgements),
        "calibration": _calibration(run),
        "slices": _slices(comparison),
        "disagreements": _fitting(answers.disagreements(run.rows, readers, limit=_MOST_ROWS)),
        "written": _fitting(answers.written(run.rows, run.answers, limit=_MOST_ROWS)),
        "most_references": 3,
        "first_rows": 10,
        "short": text.SHORT,
        "whole_limit": text.WHOLE,
        "tuning": _tuning(run),
        "climb": _climb(comparison),
        "effort": _effort(comparison),
    }


_Item = TypeVar("_Item", bound=answers.Disagreement | answers.Written)


def _fitting(found: Sequence[_Item]) -> list[_Item]:
    """The first of the rows, as many as the page has room for."""
    kept, left = [], _MOST_CHARACTERS
    for item in found:
        texts = [part for part in (item.row.text, item.row.text_pair, *item.row.references) if part is not None]
        if isinstance(item, answers.Written):
            texts += [each.text for each in item.texts]
        left -= sum(len(Markup.escape(part[: text.WHOLE]).encode("utf-8", "replace")) for part in texts)
        if left < 0:
            break
        kept.append(item)
    return kept


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best test value first; those without one last, in the order of the run."""
    return sorted(
        candidates, key=lambda candidate: (candidate.test is None, -candidate.test.value if candidate.test else 0.0)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A difference as a matrix shows it."""

    difference: float
    low: float
    high: float
    is_shown: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTable:
    """Differences, every pair readable from both sides."""

    names: tuple[str, ...]
    """Candidates that have pairs, best first."""
    cells: Mapping[tuple[str, str], Cell]
    """(row, column) -> row minus column."""


def _pairs(comparison: Comparison) -> dict[str, PairTable]:
    """Of the artefacts, and of the methods where they have seeds enough."""
    artefacts = {
        (pair.a, pair.b): Cell(difference=pair.difference, low=pair.low, high=pair.high, is_shown=is_shown(pair))
        for found in comparison.pairs
        for pair in (found, turned(found))
    }
    methods: dict[tuple[str, str], Cell] = {}
    for pair in comparison.pairs:
        if (m := pair.methods) is not None:
            shown = m.p_adjusted < ALPHA
            methods[pair.a, pair.b] = Cell(difference=m.difference, low=m.low, high=m.high, is_shown=shown)
            methods[pair.b, pair.a] = Cell(difference=-m.difference, low=-m.high, high=-m.low, is_shown=shown)
    return {"artefacts": _table(comparison, artefacts), "methods": _table(comparison, methods)}


def _table(comparison: Comparison, cells: Mapping[tuple[str, str], Cell]) -> PairTable:
    in_pairs = {name for key in cells for name in key}
    names = tuple(candidate.id for candidate in ranked(comparison.candidates) if candidate.id in in_pairs)
    return PairTable(names=names, cells=cells)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """The winner's answers by class."""

    drawing: Markup | None
    """None where a row may have several labels: there is no one class that it was taken for."""
    classes: tuple[answers.ClassScore, ...]
    mistakes: tuple[tuple[str, str, int], ...]
    n: int


def _confusion(run: RunRecord) -> Confusion | None:
    winner = run.winner
    if winner is None or winner.id not in run.answers:
        return None
    labels = run.comparison.task.labels
    if any(row.several for row in run.rows):
        found = answers.label_scores(run.rows, run.answers[winner.id], labels)
        return Confusion(drawing=None, classes=tuple(found), mistakes=(), n=len(run.answers[winner.id]))
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


def _tuning(run: RunRecord) -> list[FamilySearch]:
    found = [curve for curve in curves(run.trials) if sum(value is not None for value in curve.values) > 1]
    domain = _domain(found)
    if domain is None:
        return []
    drawn = []
    present = dict.fromkeys(curve.family for curve in found)
    for family in (*(f for f in FAMILIES if f in present), *(f for f in present if f not in FAMILIES)):
        of_family = [trial for trial in run.trials if str(trial.get("family", "")) == family]
        drawing = charts.search([curve for curve in found if curve.family == family], domain)
        ended = Counter(str(trial.get("status", "complete")) for trial in of_family)
        spent_s = sum(float(trial.get("seconds") or 0.0) for trial in of_family)
        drawn.append(FamilySearch(family=family, drawing=drawing, ended=dict(sorted(ended.items())), spent_s=spent_s))
    return drawn


def _climb(comparison: Comparison) -> Markup | None:
    """The best dev value so far of every family over its trials, in one drawing."""
    found = [Curve(name=each.family, family=each.family, values=each.best) for each in comparison.effort]
    found = [curve for curve in found if any(value is not None for value in curve.values)]
    domain = _domain(found)
    return None if domain is None else charts.search(found, domain, width=560, height=240)


def _domain(found: Sequence[Curve]) -> tuple[float, float] | None:
    """Lowest and highest share with some air; None without any."""
    shares = [value for curve in found for value in curve.values if value is not None]
    if not shares:
        return None
    air = max(0.02, 0.06 * (max(shares) - min(shares)))
    return max(0.0, min(shares) - air), min(1.0, max(shares) + air)


def _effort(comparison: Comparison) -> list[FamilyEffort]:
    """What each family spent, to show that none was favoured; summed up where the run did not write it down."""
    if comparison.effort:
        return list(comparison.effort)
    return [
        FamilyEffort(
            family=family,
            trials=sum(c.trials for c in comparison.candidates if c.family == family),
            seconds=sum(c.cost.tune_s or 0.0 for c in comparison.candidates if c.family == family),
        )
        for family in FAMILIES
        if any(c.family == family for c in comparison.candidates)
    ]


def _calibration(run: RunRecord) -> dict[str, Markup]:
    """How reliable the recommended candidate's probabilities are, and its risk against coverage; what there is."""
    found = None if run.winner is None else run.winner.calibration
    drawn: dict[str, Markup] = {}
    if found is not None and len(found.bins) > 1:
        drawn["reliability"] = charts.reliability(found.bins)
    if found is not None and len(found.curve) > 1:
        drawn["risk"] = charts.risk_coverage(found.curve, found.threshold)
    return drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceTable:
    """The metric on parts of the test rows."""

    names: tuple[str, ...]
    """Candidates, best first."""
    rules: tuple[str, ...]
    cells: Mapping[tuple[str, str], Estimate]
    """(rule, candidate) -> value."""


def _slices(comparison: Comparison) -> SliceTable:
    sliced = [candidate for candidate in ranked(comparison.candidates) if candidate.slices]
    cells = {(part.rule, candidate.id): part.value for candidate in sliced for part in candidate.slices}
    return SliceTable(
        names=tuple(candidate.id for candidate in sliced), rules=tuple(dict.fromkeys(rule for rule, _ in cells)),
        cells=cells,
    )  # fmt: skip
