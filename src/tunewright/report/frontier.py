"""Quality against each cost that the reader may care about, drawn once for every axis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunewright.report import text
from tunewright.report.plane import Level, Mark, scatter
from tunewright.runs.comparison import Candidate
from tunewright.runs.record import RunRecord

SIZES = (("wide", 900, 440), ("narrow", 285, 400))


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A cost that can stand on the axis."""

    key: str
    name: str
    title: str
    value: Callable[[Candidate], float | None]


def latency_p95_ms(candidate: Candidate) -> float | None:
    """At batch 1; the mean where percentiles were not measured."""
    percentiles = (found.p95_ms for found in candidate.cost.latency if found.batch == 1)
    return next(percentiles, candidate.cost.latency_ms)


AXES = (
    Axis(key="price", name="Price of requests", title="Modelled price of 1,000 requests in US dollars, log scale",
         value=lambda c: c.cost.price),
    Axis(key="ownership", name="Cost of ownership", title="Modelled cost of ownership in US dollars, log scale",
         value=lambda c: c.cost.ownership),
    Axis(key="latency", name="Latency", title="95th percentile of the latency of one request in ms, log scale",
         value=latency_p95_ms),
    Axis(key="stored", name="Bytes stored", title="Bytes stored, log scale", value=lambda c: c.cost.adapter_bytes),
    Axis(key="training", name="Training time", title="Seconds to train, log scale", value=lambda c: c.cost.train_s),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """The plane with one cost on its axis."""

    key: str
    name: str
    drawings: tuple[tuple[str, Markup], ...]
    """(size, drawing), for wide and for narrow screens."""
    left_out: tuple[str, ...]
    """Candidates with a value but without this cost."""


def frontier(run: RunRecord) -> list[Panel]:
    """One panel for each cost that at least one candidate with a test value has."""
    measured = [candidate for candidate in run.comparison.candidates if candidate.test is not None]
    return [_panel(run, axis, measured) for axis in AXES if any(axis.value(c) is not None for c in measured)]


def _panel(run: RunRecord, axis: Axis, measured: Sequence[Candidate]) -> Panel:
    marks = [mark for candidate in measured for mark in _mark(candidate, axis, is_chosen=candidate == run.winner)]
    chance = run.comparison.task.chance
    levels = [] if chance is None else [Level(name=f"chance {100 * chance:.1f}%", value=chance)]
    return Panel(
        key=axis.key,
        name=axis.name,
        drawings=tuple(
            (size, scatter(marks, levels, title=axis.title, width=width, height=height))
            for size, width, height in SIZES
        ),
        left_out=tuple(text.line(c.id) for c in measured if axis.value(c) is None),
    )


def _mark(candidate: Candidate, axis: Axis, *, is_chosen: bool) -> list[Mark]:
    cost = axis.value(candidate)
    if cost is None or candidate.test is None:
        return []
    name = text.line(candidate.id)
    return [Mark(name=name, family=candidate.family, cost=cost, test=candidate.test, recommended=is_chosen)]
