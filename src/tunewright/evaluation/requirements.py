"""What the user requires of a candidate: read, and held against each candidate's figures.

    quality>=0.9, latency_p50_ms<=20, latency_p95_ms<=50, bytes<=5MB, memory<=2GB, price<=0.01, ownership<=100,
    extra_tokens<=20, trainable_parameters<=1000000, local, editable

A figure that nobody measured meets nothing.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewright.errors import ConfigError, unknown
from tunewright.runs.comparison import Candidate

NOT_MET = "no candidate meets the requirements"
"""The verdict where none is left."""

_NEAREST = 3
"""Misses that are shown."""

_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}

EDITABLE_PARTS = frozenset({"verbalizer", "demonstrations", "retriever", "template"})
"""Parts made of text that a person can write: phrases, labelled examples."""
_LEARNED_PARTS = frozenset({"soft_prompt", "prefix", "lora", "tuner", "weights", "head"})
"""Parts whose numbers only a training can change."""


def _latency(share: Literal["p50_ms", "p95_ms"]) -> Callable[[Candidate], float | None]:
    """One request at a time."""
    return lambda candidate: next((getattr(each, share) for each in candidate.cost.latency if each.batch == 1), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figure:
    """Something that is required to be at least or at most a number."""

    read: Callable[[Candidate], float | None]
    sign: Literal[">=", "<="] = "<="
    unit: str = ""
    example: str


_FIGURES: Mapping[str, _Figure] = {
    "quality": _Figure(read=lambda c: None if c.test is None else c.test.value, sign=">=", example="quality>=0.9"),
    "latency_p50_ms": _Figure(read=_latency("p50_ms"), unit=" ms", example="latency_p50_ms<=20"),
    "latency_p95_ms": _Figure(read=_latency("p95_ms"), unit=" ms", example="latency_p95_ms<=50"),
    "bytes": _Figure(read=lambda c: c.cost.adapter_bytes, unit="B", example="bytes<=5MB"),
    "memory": _Figure(read=lambda c: c.cost.peak_memory_bytes, unit="B", example="memory<=2GB"),
    "price": _Figure(read=lambda c: c.cost.price, unit=" USD for 1000 requests", example="price<=0.01"),
    "ownership": _Figure(read=lambda c: c.cost.ownership, unit=" USD", example="ownership<=100"),
    "extra_tokens": _Figure(read=lambda c: c.cost.extra_tokens_per_request, example="extra_tokens<=20"),
    "trainable_parameters": _Figure(
        read=lambda c: c.cost.trainable_parameters, example="trainable_parameters<=1000000"
    ),
}

_CONDITIONS: Mapping[str, tuple[Callable[[Candidate], bool], str]] = {
    "local": (lambda c: c.family != "outside", "is answered elsewhere"),
    "editable": (
        lambda c: bool(EDITABLE_PARTS & set(c.parts)) and not _LEARNED_PARTS & set(c.parts),
        "cannot be changed by editing text",
    ),
}
"""Name -> whether a candidate has it, and what is said of one that has not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """One thing that is required."""

    name: str
    text: str
    """As the user wrote it, without spaces."""
    limit: float | None = None
    """None for a condition."""

    def shortfall(self, candidate: Candidate) -> float:
        """0 where it is met, else how far off relative to the limit; infinite where it cannot be measured."""
        if self.limit is None:
            return 0.0 if _CONDITIONS[self.name][0](candidate) else 1.0
        figure, value = _FIGURES[self.name], _FIGURES[self.name].read(candidate)
        if value is None:
            return math.inf
        beyond = self.limit - value if figure.sign == ">=" else value - self.limit
        return max(0.0, beyond) / (abs(self.limit) if self.limit else 1.0)

    def failure(self, candidate: Candidate) -> str | None:
        """Why a candidate fails it, with its figure; None where it does not."""
        if self.shortfall(candidate) == 0:
            return None
        if self.limit is None:
            return f"{self.name}: it {_CONDITIONS[self.name][1]}"
        figure, value = _FIGURES[self.name], _FIGURES[self.name].read(candidate)
        bound = "at least" if figure.sign == ">=" else "at most"
        got = "not measured" if value is None else _shown(value, figure.unit)
        return f"{self.name} {got}, required {bound} {_shown(self.limit, figure.unit)}"


def parse(terms: Sequence[str]) -> tuple[Requirement, ...]:
    """Requirements from their text.

    Raises:
        ConfigError: With every fault at once: unknown names, wrong signs, no numbers, the same twice.
    """
    found: list[Requirement] = []
    faults: list[str] = []
    for term in terms:
        try:
            found.append(_parse_one("".join(term.split())))
        except ConfigError as error:
            faults += error.faults
    names = [each.name for each in found]
    faults += [f"`require` names {name} twice. Give it once." for name in dict.fromkeys(names) if names.count(name) > 1]
    if faults:
        raise ConfigError(faults)
    return tuple(found)


def _parse_one(text: str) -> Requirement:
    match = re.fullmatch(r"([^<>=]+)(?:([<>=]+)(.*))?", text)
    name, sign, number = ("", None, None) if match is None else match.groups()
    if name in _CONDITIONS:
        if sign is not None:
            raise ConfigError(f"`require`: {name} takes no number. Got {text!r}. Write {name}.")
        return Requirement(name=name, text=text)
    if name not in _FIGURES:
        raise ConfigError(unknown("requirement", name or text, [*_FIGURES, *_CONDITIONS]))
    figure = _FIGURES[name]
    limit = _number(number, _BYTES if figure.unit == "B" else {"": 1.0})
    if sign != figure.sign or limit is None or (name == "quality" and limit > 1):
        number_is = "a number from 0 to 1" if name == "quality" else "a number of at least 0"
        units = ", with B, kB, MB or GB if wanted" if figure.unit == "B" else ""
        raise ConfigError(
            f"`require`: {name} needs {figure.sign} and {number_is}{units}. Got {text!r}. Write {figure.example}."
        )
    return Requirement(name=name, text=text, limit=limit)


def _number(text: str | None, units: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)([A-Za-z]*)", text or "")
    if match is None or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]


def unmet(requirements: Sequence[Requirement], candidate: Candidate) -> tuple[str, ...]:
    """What a candidate fails, each with its figure; empty where it meets all."""
    return tuple(said for each in requirements if (said := each.failure(candidate)) is not None)


def nearest_misses(requirements: Sequence[Requirement], candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The measured candidates that come nearest, each with what it lacks: fewest failures first, then the smallest."""

    def distance(candidate: Candidate) -> tuple[int, float]:
        short = [each.shortfall(candidate) for each in requirements]
        return sum(s > 0 for s in short), sum(short)

    measured = sorted((c for c in candidates if c.test is not None), key=distance)
    return tuple(f"{c.id} lacks {'; '.join(unmet(requirements, c))}" for c in measured[:_NEAREST])


def doubts(requirements: Sequence[Requirement], candidate: Candidate) -> str:
    """What is said where a required quality is met by the measured value and not by its whole interval; else empty."""
    least = next((each.limit for each in requirements if each.name == "quality"), None)
    if least is None or candidate.test is None or candidate.test.low >= least:
        return ""
    return (
        f" The required {least * 100:g}% is met by the measured value; the interval reaches below it, to "
        f"{candidate.test.low * 100:.1f}%."
    )


def _shown(value: float, unit: str) -> str:
    """A figure as a person reads it."""
    if unit != "B":
        return f"{value:.4g}{unit}"
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {name}"
    return f"{value:g} B"
