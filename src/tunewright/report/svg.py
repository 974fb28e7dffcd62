"""A chart as inline SVG: themed by the page's CSS, readable by screen readers, with native tooltips and no script."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a family looks: never by colour alone."""

    colour: str
    shape: str


STYLES = {
    "no training": Style(colour="var(--no-training)", shape="circle"),
    "soft prompts": Style(colour="var(--soft-prompts)", shape="square"),
    "fine-tuning": Style(colour="var(--fine-tuning)", shape="diamond"),
    "outside": Style(colour="var(--outside)", shape="triangle-up"),
}

INK, MUTED, LINE, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
HIT, MISS = "var(--hit)", "var(--miss)"

TOLD = alt.Description(field="description", type="nominal")
NAME = alt.Text(field="name", type="nominal")
"""Channels spelled out: altair takes ten times as long over a shorthand such as `name:N`."""

_MARK = re.compile(r'<(path|line|rect|text)\b([^>]*)aria-label="([^"]*)"([^>]*?)/>')
_ROOT = re.compile(r"<svg\b[^>]*?\bviewBox=\"0 0 ([\d.]+) ([\d.]+)\"[^>]*>")


def render(chart: alt.LayerChart | alt.FacetChart, *, alt_text: str) -> Markup:
    """The chart as an `<svg>` element.

    Colours are CSS variables of the page, so that one drawing serves light, dark and paper. What a mark's
    `description` says is both its accessible name and its tooltip.
    """
    drawn: str = vl_convert.vegalite_to_svg(_themed(chart))
    assert "url(#" not in drawn, "ids would clash between charts on one page"
    labelled = _MARK.sub(r'<\1\2aria-label="\3"\4><title>\3</title></\1>', drawn)
    root = _ROOT.search(labelled)
    assert root is not None
    width, height = root.groups()
    opening = Markup('<svg role="img" aria-label="{}" width="{}" height="{}" viewBox="0 0 {} {}">')
    return opening.format(alt_text, width, height, width, height) + Markup(labelled[root.end() :])


def style(family: str) -> Style:
    """The family's look; a plain one for a family that is not known."""
    return STYLES.get(family, Style(colour=MUTED, shape="circle"))


def rows(records: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Data as Altair takes it without pandas."""
    return alt.InlineData(values=[dict(record) for record in records])


def shares(field: str, domain: tuple[float, float], title: str) -> alt.Y:
    """Shares upwards, in per cent. Every layer of a chart needs the same, or its own values widen the domain."""
    axis = alt.Axis(title=title, format=".0%", tickCount=6, grid=True)
    return alt.Y(f"{field}:Q", scale=fixed(domain), axis=axis)


def fixed(domain: tuple[float, float]) -> alt.Scale:
    """A linear scale that keeps to its domain."""
    return alt.Scale(domain=list(domain), nice=False, zero=False)


def _themed(chart: alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    """The chart's specification with the page's look."""
    axis: dict[str, Any] = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": LINE,
        "domain": False,
        "ticks": False,
        "aria": False,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "titlePadding": 8,
    }
    look = {"axis": axis, "view": {"stroke": None}, "text": {"fontSize": 11, "color": INK}}
    return {**chart.to_dict(validate=False), "background": "transparent", "padding": 4, "config": look}
