"""`comparison.json`, schema 1: the result of a run, as the report, the server and other tools read it.

Readers ignore unknown keys; a change of meaning raises the number. None stands where a number does not exist.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import RunError
from tunewright.files import read_json, write_json
from tunewright.types import Estimate, Family, Params, TaskKind

SCHEMA_VERSION = 1
FILE_NAME = "comparison.json"

Status = Literal["ok", "skipped", "failed"]

READERS = frozenset({"head", "verbalizer", "demonstrations"})
"""Parts of which a candidate needs one to read the text at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSummary:
    """What was asked, of how many rows."""

    name: str
    kind: TaskKind
    metric: str
    labels: tuple[str, ...]
    chance: float
    """The metric's best value without reading the texts, on the test rows."""
    n_train: int
    n_dev: int
    n_test: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSummary:
    """A base model of the comparison."""

    id: str
    name: str
    kind: str
    parameters: int
    sha256: str
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedResult:
    """One refit of a finalist."""

    seed: int
    dev: float | None
    test: float | None
    shipped: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a candidate took, and what it takes to serve."""

    tune_s: float | None = None
    train_s: float | None = None
    peak_memory_bytes: int | None = None
    adapter_bytes: int | None = None
    trainable_parameters: int | None = None
    extra_tokens_per_request: float | None = None
    latency_ms: float | None = None
    price: float | None = None
    """Modelled US dollars for 1000 requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One method on one base: what came of it, or why nothing did."""

    id: str
    method: str
    family: Family
    backbone: str
    status: Status
    reason: str | None = None
    """Why it was skipped or failed."""
    params: Params = dataclasses.field(default_factory=dict)
    parts: tuple[str, ...] = ()
    trials: int = 0
    seeds: tuple[SeedResult, ...] = ()
    dev: Estimate | None = None
    test: Estimate | None = None
    """Of the shipped artefact, as `dev`."""
    cost: Cost = Cost()

    @property
    def shipped_seed(self) -> int | None:
        """The seed whose artefact is judged and served; None where there is none."""
        return next((seed.seed for seed in self.seeds if seed.shipped), None)

    @property
    def reads_text(self) -> bool:
        """False for a floor, whose answers do not depend on the text."""
        return bool(READERS & set(self.parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodDifference:
    """Mean metric over seeds of `a` minus that of `b`: what seeds and rows together say of the methods."""

    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Metric of `a` minus metric of `b` on the test rows, of the shipped artefacts."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    methods: MethodDifference | None = None
    """None where one of the two has a single seed, which says nothing about a method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotSeparated:
    """A candidate that is not shown to differ from the best. That is not the same as being equal to it."""

    id: str
    difference: float
    """Its metric minus the best's."""
    rows_needed: int | None
    """Test rows that would show a difference of this size; None where none was seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to take, and how sure that is."""

    best: str
    recommended: str
    margin: float
    """Points of the metric, out of 100, that a cheaper candidate may lose."""
    prices: Mapping[str, float]
    not_separated: tuple[NotSeparated, ...]
    stability: float | None
    """Share of bootstrap replicates of the choice, given that something works, that recommend the same candidate."""
    corrected_value: float | None
    """The recommended one's value without the luck of being chosen on the same rows."""
    minimum_detectable_difference: float | None
    verdict: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the numbers come from."""

    command: str
    version: str
    versions: Mapping[str, str]
    seed: int
    started: str
    """ISO 8601, UTC."""
    data_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The whole result of a run."""

    task: TaskSummary
    backbones: tuple[BackboneSummary, ...]
    candidates: tuple[Candidate, ...]
    pairs: tuple[Pair, ...]
    decision: Decision | None
    """None where no candidate was finished."""
    test_reads: int
    provenance: Provenance
    schema_version: int = SCHEMA_VERSION


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values, schema version first."""
    content = _plain(comparison)
    return {"schema_version": content.pop("schema_version"), **content}


def from_json(content: Any) -> Comparison:
    """The comparison in a JSON value; unknown keys are ignored.

    Raises:
        RunError: A newer schema, a missing key or a value of the wrong type.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        allowed = f"Allowed: up to {SCHEMA_VERSION}. Update tunewright to read this run."
        raise RunError(f"`schema_version` of {FILE_NAME} is {version}. {allowed}")
    comparison = _read(Comparison, content, FILE_NAME)
    assert isinstance(comparison, Comparison)
    return comparison


def save(comparison: Comparison, run_dir: Path) -> None:
    """Writes `comparison.json` into a run folder, whole or not at all."""
    write_json(run_dir / FILE_NAME, to_json(comparison))


def load(run_dir: Path) -> Comparison:
    """Reads `comparison.json` of a run folder.

    Raises:
        RunError: Missing, not JSON, or not this schema.
    """
    return from_json(read_json(run_dir / FILE_NAME))


def _plain(value: Any) -> Any:
    """Records as dicts and tuples as lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _read(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the annotated type.

    Raises:
        RunError: Naming the place, what is there and what should be.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _read_record(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, value, where)
    return _read_scalar(kind, value, where)


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as a scalar or one of a few words; a whole number may stand for a float."""
    words = typing.get_args(kind)
    if value in words if words else type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    allowed = ", ".join(map(str, words)) if words else getattr(kind, "__name__", str(kind))
    raise RunError(f"{where} must be {allowed}. Got {value!r:.80}. Repeat the run or restore {FILE_NAME}.")


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """The member of a union whose JSON type is the value's; else the first, for its error."""
    if value is None and types.NoneType in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not types.NoneType]
    exact = [kind for kind in kinds if kind is type(value)]
    return _read(exact[0] if exact else kinds[0], value, where)


def _read_record(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    """A record from the keys it knows.

    Raises:
        RunError: A key without a default is missing.
    """
    kinds = typing.get_type_hints(kind)
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in value]
    if missing:
        raise RunError(f"{where} lacks {', '.join(missing)}. Repeat the run or restore {FILE_NAME}.")
    return kind(**{name: _read(kinds[name], value[name], f"{where}.{name}") for name in kinds if name in value})
