"""The search, the confusion matrix, how reliable probabilities are and what abstaining is worth, drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from typing import Any

import altair as alt
from markupsafe import Markup

from tunewright.errors import counted
from tunewright.report import svg
from tunewright.report.text import distinct, line
from tunewright.runs.measurements import Bin, Coverage


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The trials of one candidate, in the order they were run."""

    name: str
    family: str
    values: tuple[float | None, ...]
    """Dev value of each trial; None where it failed or was pruned."""


def best_so_far(trials: Sequence[float | None]) -> list[float | None]:
    """The highest value up to each trial; None until there is one."""
    return list(accumulate(trials, lambda best, value: max((v for v in (best, value) if v is not None), default=None)))


def search(curves: Sequence[Curve], domain: tuple[float, float], *, width: int = 220, height: int = 190) -> Markup:
    """Best dev value so far over the trials of one family's candidates, each trial a dot.

    Args:
        curves: Of one family, at least one.
        domain: Lowest and highest share, the same for all families.
        width: Of the plotting area, in pixels.
        height: Likewise.
    """
    gap = 13 * (domain[1] - domain[0]) / height
    ends = _spread([best_so_far(curve.values)[-1] for curve in curves], gap)
    longest = max(len(curve.values) for curve in curves)
    ticks = list(range(1, longest + 1, max(1, math.ceil(longest / 8))))
    axis = alt.Axis(title="Trial", values=ticks, format="d", grid=False)
    layers: list[alt.Chart] = []
    for curve, end, dash in zip(curves, ends, cycle(_DASHES)):
        colour = svg.style(curve.family).colour
        base = alt.Chart(svg.rows(_trial_rows(curve)), width=width, height=height).encode(
            x=alt.X("trial:Q", scale=svg.fixed((0.6, longest + 0.4)), axis=axis)
        )
        best = base.mark_line(interpolate="step-after", strokeWidth=2, color=colour, strokeDash=dash, aria=False)
        dots = base.mark_point(filled=True, size=26, color=colour, opacity=0.7)
        layers += [
            best.encode(y=svg.shares("best", domain, _BEST)),
            dots.encode(y=svg.shares("value", domain, _BEST), description=svg.TOLD),
        ]
        if end is not None:
            name = alt.Chart(svg.rows([{"end": end, "name": line(curve.name, 22)}]))
            text = name.mark_text(align="left", dx=6, aria=False)
            layers.append(text.encode(x=alt.value(width), y=svg.shares("end", domain, _BEST), text=svg.NAME))
    told = ", ".join(f"{curve.name} {counted(len(curve.values), 'trial')}" for curve in curves)
    return svg.render(alt.layer(*layers), alt_text=f"Best dev value so far over trials: {told}.")


_BEST = "Dev, best so far"

_DASHES: tuple[list[float], ...] = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


def _trial_rows(curve: Curve) -> list[dict[str, Any]]:
    return [
        {
            "trial": number, "value": value, "best": best,
            "description": f"{curve.name}, trial {number}: " + ("-" if value is None else f"{100 * value:.1f}%"),
        }
        for number, (value, best) in enumerate(zip(curve.values, best_so_far(curve.values), strict=True), start=1)
    ]  # fmt: skip


def _spread(heights: Sequence[float | None], gap: float) -> list[float | None]:
    """The heights moved apart until neighbours are `gap` from each other, order kept."""
    placed = list(heights)
    below = -math.inf
    for index in sorted((i for i, height in enumerate(heights) if height is not None), key=lambda i: heights[i] or 0.0):
        height = heights[index]
        assert height is not None
        below = placed[index] = max(height, below + gap)
    return placed


def heatmap(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    """The confusion matrix: truth down, answer across, shaded by the share of the row; numbers where there is room."""
    names = distinct(labels, 28)
    cell = next(size for most, size in ((8, 52), (14, 40), (30, 22), (math.inf, 11)) if len(names) <= most)
    cells = [_cell(names, i, j, row) for i, row in enumerate(matrix) for j in range(len(row)) if row[j] > 0]
    font = min(11, cell - 2)
    axis: dict[str, Any] = {"labelFontSize": font, "labelLimit": 160, "labelPadding": 4, "labelOverlap": False}
    axis["titlePadding"] = 24
    angle = -50 if cell >= 22 else -90
    edge: dict[str, Any] = {"scale": alt.Scale(domain=names, padding=0.04), "sort": None}
    base = alt.Chart(svg.rows(cells), width=cell * len(names), height=cell * len(names)).encode(
        x=alt.X("answer:N", axis=alt.Axis(title="Answer", orient="top", labelAngle=angle, **axis), **edge),
        y=alt.Y("truth:N", axis=alt.Axis(title="Truth", **axis), **edge),
    )
    grid = alt.Chart(svg.rows([{}])).mark_rect(stroke=svg.LINE, fill=None, aria=False).encode(
        x=alt.value(0), y=alt.value(0), x2=alt.value(cell * len(names)), y2=alt.value(cell * len(names))
    )  # fmt: skip
    squares = base.mark_rect(cornerRadius=2).encode(
        fill=alt.Fill("colour:N", scale=None), fillOpacity=alt.FillOpacity("shade:Q", scale=None), description=svg.TOLD
    )
    layers: list[alt.Chart] = [grid, squares]
    if cell >= 22:
        numbers = base.mark_text(fontSize=12 if cell > 30 else 10, aria=False)
        layers.append(numbers.encode(text="count:Q", color=alt.Color("ink:N", scale=None)))
    return svg.render(
        alt.layer(*layers), alt_text="Confusion matrix, truth by answer. The table below has its numbers."
    )


def _cell(names: Sequence[str], truth: int, answer: int, row: Sequence[int]) -> dict[str, Any]:
    share = row[answer] / sum(row)
    return {
        "truth": names[truth], "answer": names[answer], "count": row[answer], "shade": 0.18 + 0.82 * share,
        "colour": svg.HIT if truth == answer else svg.MISS, "ink": svg.PAPER if share > 0.5 else svg.INK,
        "description": f"{names[truth]} answered as {names[answer]}: {row[answer]} of {sum(row)} ({100 * share:.0f}%)",
    }  # fmt: skip


def reliability(bins: Sequence[Bin], *, width: int = 300, height: int = 190) -> Markup:
    """Share of right answers with its interval over how sure they were; on the dashed line they are equal.

    Args:
        bins: At least two.
        width: Of the plotting area, in pixels.
        height: Likewise.
    """
    rows = [_bin_row(each) for each in bins]
    low = max(0.0, min(min(row["confidence"], row["low"]) for row in rows) - 0.04)
    across = alt.X("confidence:Q", scale=svg.fixed((low, 1.02)), axis=alt.Axis(title="How sure the answers were",
                   format=".0%", tickCount=5, grid=False))  # fmt: skip
    upwards = svg.shares("value", (low, 1.02), "Right among them")
    ends = svg.rows([{"confidence": end, "value": end} for end in (low, 1.0)])
    diagonal = alt.Chart(ends, width=width, height=height)
    layers: list[alt.Chart] = [
        diagonal.mark_line(strokeDash=[4, 4], strokeWidth=1.5, color=svg.MUTED, aria=False).encode(x=across, y=upwards)
    ]
    base = alt.Chart(svg.rows(rows), width=width, height=height).encode(x=across)
    layers += [
        base.mark_rule(strokeWidth=2, opacity=0.55, color=svg.HIT, aria=False).encode(
            y=svg.shares("low", (low, 1.02), "Right among them"), y2=alt.Y2(field="high")
        ),
        base.mark_point(size=60, filled=True, opacity=1, color=svg.HIT).encode(y=upwards, description=svg.TOLD),
    ]
    told = "; ".join(f"{100 * row['confidence']:.1f}% sure, {100 * row['value']:.1f}% right" for row in rows)
    return svg.render(alt.layer(*layers), alt_text=f"Reliability: {told}.")


def _bin_row(found: Bin) -> dict[str, Any]:
    right = found.accuracy
    told = f"{counted(right.n, 'row')}, {100 * found.confidence:.1f}% sure on average: {100 * right.value:.1f}% right"
    return {
        "confidence": found.confidence, "value": right.value, "low": right.low, "high": right.high,
        "description": f"{told}, 95% interval {100 * right.low:.1f} to {100 * right.high:.1f}",
    }  # fmt: skip


def risk_coverage(curve: Sequence[Coverage], threshold: float | None, *, width: int = 300, height: int = 190) -> Markup:
    """Share of wrong answers among those given, over the share that is given; a ring at the chosen threshold.

    Args:
        curve: At least two points.
        threshold: The one that would be used; None where none was chosen.
        width: Of the plotting area, in pixels.
        height: Likewise.
    """
    points = sorted(curve, key=lambda point: point.coverage)
    top = max(0.02, 1.08 * max(point.risk for point in points))
    across = alt.X("coverage:Q", scale=svg.fixed((0.0, 1.02)), axis=alt.Axis(title="Rows answered", format=".0%",
                   tickCount=5, grid=False))  # fmt: skip
    rows = [_coverage_row(point) for point in points]
    base = alt.Chart(svg.rows(rows), width=width, height=height).encode(
        x=across, y=svg.shares("risk", (0.0, top), "Wrong among them")
    )
    layers: list[alt.Chart] = [base.mark_line(strokeWidth=2, color=svg.HIT, aria=False)]
    near = [] if threshold is None else [min(points, key=lambda point: abs(point.threshold - threshold))]
    for point in near:
        chosen = base.properties(data=svg.rows([_coverage_row(point)]))
        layers.append(chosen.mark_point(size=110, color=svg.INK, strokeWidth=2).encode(description=svg.TOLD))
    ends = ", ".join(f"{100 * p.risk:.1f}% wrong at {100 * p.coverage:.0f}% answered" for p in (points[0], points[-1]))
    return svg.render(alt.layer(*layers), alt_text=f"Risk against coverage: {ends}.")


def _coverage_row(point: Coverage) -> dict[str, Any]:
    told = f"Threshold {point.threshold:.2f}: {100 * point.coverage:.0f}% answered, {100 * point.risk:.1f}% of it wrong"
    return {"coverage": point.coverage, "risk": point.risk, "description": told}
