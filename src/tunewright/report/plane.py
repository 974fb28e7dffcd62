"""Quality against cost: every candidate in one plane, named where its name covers nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
from markupsafe import Markup

from tunewright.report import svg
from tunewright.report.numbers import significant
from tunewright.report.text import line
from tunewright.types import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One candidate in the plane of quality and cost."""

    name: str
    family: str
    cost: float
    """In the unit of the axis; at least 0."""
    test: Estimate
    recommended: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A line to compare with: chance, the floor."""

    name: str
    value: float


def scatter(marks: Sequence[Mark], levels: Sequence[Level], *, title: str, width: int, height: int) -> Markup:
    """Quality against cost: an interval and a shape for each candidate, the recommended one ringed.

    Args:
        marks: At least one.
        levels: Horizontal lines, each with its name.
        title: Of the cost axis, with the unit.
        width: Of the plotting area, in pixels.
        height: Likewise.
    """
    plane = Plane.around(marks, levels, width=width, height=height)
    rows = [_mark_row(mark, plane) for mark in marks]
    base = alt.Chart(svg.rows(rows), width=width, height=height).encode(x=plane.costs(title), y=plane.shares("value"))
    colour = {"color": alt.Color("colour:N", scale=None), "description": svg.TOLD}
    layers: list[alt.Chart] = [
        base.mark_rule(strokeWidth=2, opacity=0.55).encode(
            y=plane.shares("low"), y2=alt.Y2(field="high"), color=colour["color"]
        ),
        base.transform_filter("datum.recommended").mark_point(
            size=380, filled=False, strokeWidth=1.5, color=svg.INK, opacity=1, aria=False
        ),
        base.mark_point(size=110, filled=True, opacity=1).encode(shape=alt.Shape("shape:N", scale=None), **colour),
    ]
    layers = [*_front_layers(marks, plane, title), *layers, *_level_layers(levels, plane)]
    layers += [*_break_layers(plane, title), *_name_layers(marks, plane, title)]
    told = "; ".join(f"{m.name} {100 * m.test.value:.1f}% at {significant(m.cost)}" for m in marks)
    alt_text = f"Test quality against {title}: {told}. The table below has every number."
    return svg.render(alt.layer(*layers), alt_text=alt_text)


def front(marks: Sequence[Mark]) -> list[Mark]:
    """Those that no other beats in one of value and cost without being worse in the other; cheapest first."""
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda item: (item.cost, -item.test.value)):
        if not kept or mark.test.value > kept[-1].test.value:
            kept.append(mark)
    return kept


def _front_layers(marks: Sequence[Mark], plane: "Plane", title: str) -> list[alt.Chart]:
    """The frontier, as steps: the highest value measured at each cost or below."""
    found = front(marks)
    if len(found) < 2:
        return []
    rows = svg.rows([{"x": plane.across(mark.cost), "value": mark.test.value} for mark in found])
    steps = alt.Chart(rows, width=plane.width, height=plane.height).mark_line(
        interpolate="step-after", strokeWidth=1.5, color=svg.MUTED, opacity=0.6, aria=False
    )
    return [steps.encode(x=plane.costs(title), y=plane.shares("value"))]


_FREE = 1e-4
"""What costs at most this share of the dearest stands left of a break: it would squeeze all others together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """The plane of a scatter: base-10 logarithm of cost across, shares upwards; left of a break what is nearly free."""

    left: float
    right: float
    low: float
    high: float
    zero: float | None
    """Where what is next to free stands, left of the break; None where nothing is."""
    free: float
    """The highest cost that stands there."""
    width: int
    height: int

    @classmethod
    def around(cls, marks: Sequence[Mark], levels: Sequence[Level], *, width: int, height: int) -> "Plane":
        """The plane that holds all marks, their intervals and the levels, with some air."""
        limit = _FREE * max(mark.cost for mark in marks)
        logs = [math.log10(mark.cost) for mark in marks if mark.cost > limit]
        least, most = (min(logs), max(logs)) if logs else (0.0, 0.0)
        span = max(most - least, 0.6)
        zero = least - max(0.3, 0.14 * span) if len(logs) < len(marks) else None
        bounds = [bound for mark in marks for bound in (mark.test.low, mark.test.high)] + [
            level.value for level in levels
        ]
        air = max(0.02, 0.08 * (max(bounds) - min(bounds)))
        return cls(
            left=(least if zero is None else zero) - 0.08 * span,
            right=most + 0.16 * span,
            low=max(0.0, min(bounds) - air),
            high=min(1.02, max(bounds) + air),
            zero=zero,
            free=max((mark.cost for mark in marks if mark.cost <= limit), default=0.0),
            width=width,
            height=height,
        )

    def across(self, cost: float) -> float:
        """Where a cost stands on the axis."""
        return math.log10(cost) if self.zero is None or cost > self.free else self.zero

    def pixel(self, mark: Mark) -> tuple[float, float]:
        """Left to right and top to bottom, from the upper left corner."""
        x = (self.across(mark.cost) - self.left) / (self.right - self.left) * self.width
        return x, self.pixel_up(mark.test.value)

    def pixel_up(self, share: float) -> float:
        """Top to bottom."""
        return (self.high - share) / (self.high - self.low) * self.height

    def shares(self, field: str) -> alt.Y:
        """The channel of values."""
        return svg.shares(field, (self.low, self.high), "Test, 95% interval")

    def costs(self, title: str) -> alt.X:
        """The channel of costs."""
        return alt.X("x:Q", scale=svg.fixed((self.left, self.right)), axis=self._cost_axis(title))

    def _cost_axis(self, title: str) -> alt.Axis:
        """Powers of ten, with more between them where there is room."""
        room = self.width / (self.right - self.left)
        least = self.left if self.zero is None else self.zero + 36 / room
        decades = range(math.floor(least), math.ceil(self.right) + 1)
        steps = next(steps for least_px, steps in _STEPS if room >= least_px)
        ticks = [decade + math.log10(step) for decade in decades for step in steps]
        kept = [tick for tick in ticks if least <= tick <= self.right]
        sign = "format(pow(10, datum.value), ',~r')"
        if self.zero is None:
            return alt.Axis(title=title, values=kept, labelExpr=sign, grid=False)
        name = f"\u2264 {significant(self.free)}" if self.free > 0 else "0"
        free = f"datum.value < {self.zero + 0.01} ? '{name}' : {sign}"
        return alt.Axis(title=title, values=[self.zero, *kept], labelExpr=free, grid=False)


def _break_layers(plane: Plane, title: str) -> list[alt.Chart]:
    """The sign that the axis is broken between what is next to free and the rest."""
    if plane.zero is None:
        return []
    x = plane.zero + 26 * (plane.right - plane.left) / plane.width
    row = {"x": x, "name": "//", "description": "The axis is broken here: what stands left of it costs next to nothing"}
    sign = alt.Chart(svg.rows([row])).mark_text(fontSize=15, color=svg.MUTED, fontWeight="bold")
    return [sign.encode(x=plane.costs(title), y=alt.value(plane.height), text=svg.NAME, description=svg.TOLD)]


def _mark_row(mark: Mark, plane: Plane) -> dict[str, Any]:
    style = svg.style(mark.family)
    test = mark.test
    return {
        "x": plane.across(mark.cost), "value": test.value, "low": test.low, "high": test.high,
        "colour": style.colour, "shape": style.shape, "recommended": mark.recommended,
        "description": f"{mark.name} ({mark.family}): {100 * test.value:.1f}%, 95% interval {100 * test.low:.1f} to "
        f"{100 * test.high:.1f}, n = {test.n}; cost {significant(mark.cost)}",
    }  # fmt: skip


def _level_layers(levels: Sequence[Level], plane: Plane) -> list[alt.Chart]:
    """Dashed lines, each named at its right end; names that would collide are put above and below."""
    layers: list[alt.Chart] = []
    for number, level in enumerate(sorted(levels, key=lambda item: -item.value)):
        row = {"value": level.value, "name": level.name, "description": f"{level.name}: {100 * level.value:.1f}%"}
        line_base = alt.Chart(svg.rows([row]), width=plane.width, height=plane.height).encode(y=plane.shares("value"))
        layers.append(line_base.mark_rule(strokeDash=[4, 4], color=svg.MUTED).encode(description=svg.TOLD))
        above = -6 if number == 0 else 8
        text = line_base.mark_text(align="right", dy=above, color=svg.MUTED, fontSize=11, aria=False)
        layers.append(text.encode(x=alt.value(plane.width), text=svg.NAME))
    return layers


_STEPS = ((240, (1, 2, 5)), (110, (1, 3)), (0, (1,)))
"""Pixels a power of ten has -> the ticks in it."""

Box = tuple[float, float, float, float]
Align = Literal["left", "right"]
Seat = tuple[Align, float, float]

_SEATS: tuple[Seat, ...] = (
    *(("left", 11, 0), ("right", -11, 0)),
    *(("left", 8, -13), ("left", 8, 13), ("right", -8, -13), ("right", -8, 13)),
    *(("left", 11, -24), ("left", 11, 24), ("right", -11, 24), ("right", -11, -24)),
)
"""Where a name may stand beside its mark: alignment and offset in pixels, best first."""

_LETTER, _LINE = 6.2, 13


def _name_layers(marks: Sequence[Mark], plane: Plane, title: str) -> list[alt.Chart]:
    """The candidates' names, each on the seat where it covers least; one layer for all that are set alike."""
    taken: list[Box] = [box for mark in marks for box in _mark_boxes(mark, plane)]
    alike: dict[tuple[Align, bool], list[dict[str, Any]]] = {}
    across, upwards = (plane.right - plane.left) / plane.width, (plane.high - plane.low) / plane.height
    for mark in sorted(marks, key=lambda item: not item.recommended):
        seats = [(align, dx * (1.5 if mark.recommended else 1), dy) for align, dx, dy in _SEATS]
        align, dx, dy = min(seats, key=lambda seat: _covered(_name_box(mark, plane, *seat), taken, plane))
        taken.append(_name_box(mark, plane, align, dx, dy))
        row = {"x": plane.across(mark.cost) + dx * across, "value": mark.test.value - dy * upwards}
        alike.setdefault((align, mark.recommended), []).append(row | {"name": line(mark.name, 24)})
    layers: list[alt.Chart] = []
    for (align, is_bold), rows in alike.items():
        weight: Literal["bold", "normal"] = "bold" if is_bold else "normal"
        text = alt.Chart(svg.rows(rows)).mark_text(align=align, baseline="middle", fontWeight=weight, aria=False)
        layers.append(text.encode(x=plane.costs(title), y=plane.shares("value"), text=svg.NAME))
    return layers


def _mark_boxes(mark: Mark, plane: Plane) -> list[Box]:
    x, y = plane.pixel(mark)
    bar = (x - 1, plane.pixel_up(mark.test.high), x + 1, plane.pixel_up(mark.test.low))
    return [(x - 7, y - 7, x + 7, y + 7), bar]


def _name_box(mark: Mark, plane: Plane, align: Align, dx: float, dy: float) -> Box:
    x, y = plane.pixel(mark)
    length = _LETTER * min(len(mark.name), 24)
    start = x + dx if align == "left" else x + dx - length
    return start, y + dy - _LINE / 2, start + length, y + dy + _LINE / 2


def _covered(box: Box, taken: Sequence[Box], plane: Plane) -> float:
    """Area under the box that is taken; what leaves the plane counts heavily."""
    outside = max(0.0, -box[0]) + max(0.0, box[2] - plane.width) + max(0.0, -box[1]) + max(0.0, box[3] - plane.height)
    return 100 * outside + sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
