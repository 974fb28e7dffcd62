"""`comparison.json`, schema 1: the result of a run, as the report, the server and other tools read it.

Readers ignore unknown keys; a change of meaning raises the number. None stands where a number does not exist.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import RunError
from tunewright.files import read_json, write_json
from tunewright.runs.measurements import Calibration, Flips, Gap, Retention, Slice
from tunewright.runs.schema import read_as
from tunewright.types import Estimate, Family, Params, TaskKind

SCHEMA_VERSION = 1
FILE_NAME = "comparison.json"

Status = Literal["ok", "skipped", "failed"]

READERS = frozenset({"head", "verbalizer", "demonstrations", "decoding"})
"""Parts of which a candidate needs one to read the text at all, or to write one of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSummary:
    """What was asked, of how many rows."""

    name: str
    kind: TaskKind
    metric: str
    labels: tuple[str, ...]
    chance: float | None
    """The metric's best value without reading the texts, on the test rows; None where texts are generated."""
    n_train: int
    n_dev: int
    n_test: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSummary:
    """A base model of the comparison."""

    id: str
    name: str
    kind: str
    parameters: int | None
    """None of one that answers elsewhere and does not tell, as its precision."""
    sha256: str
    dtype: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedResult:
    """One artefact of a finalist; in a cross-validation one repeat, with the mean over its folds."""

    seed: int
    dev: float | None
    test: float | None
    shipped: bool
    trial: int | None = None
    """Number of the trial that it is; None where its setting was fitted again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Measured time of one call, from texts to answers, on the machine of the run."""

    batch: int
    """Rows of a call."""
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """What was asked of endpoints, as they bill it."""

    sent: int
    """That were answered, and are paid for."""
    known: int
    """Answered from the cache, for nothing."""
    retried: int
    """Tries that failed."""
    input_tokens: int
    cached_tokens: int
    """Of the input; billed for less."""
    output_tokens: int
    price: float | None
    """US dollars, with the most that requests may cost whose answers were lost; None where a model has no price."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a candidate took, and what it takes to serve."""

    tune_s: float | None = None
    train_s: float | None = None
    """Of what is shipped; where that is a trial, it is within those of tuning."""
    peak_memory_bytes: int | None = None
    adapter_bytes: int | None = None
    trainable_parameters: int | None = None
    extra_tokens_per_request: float | None = None
    latency_ms: float | None = None
    price: float | None = None
    """Modelled US dollars for 1000 requests."""
    predict_s: float | None = None
    """The pass over the test rows, of the shipped artefact."""
    tokens: int | None = None
    """Trained on, in all trials and refits."""
    latency: tuple[Latency, ...] = ()
    """At batch 1 and 32."""
    ownership: float | None = None
    """Modelled US dollars: tuning, training, memory and every request of the user's volume and months."""
    requests: Requests | None = None
    """To find, train and judge it; None of one that runs here."""


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
    """Of the shipped artefact, as `dev`; in a cross-validation of the method, and `dev` is None."""
    cost: Cost = Cost()
    calibration: Calibration | None = None
    slices: tuple[Slice, ...] = ()
    gaps: tuple[Gap, ...] = ()
    flips: tuple[Flips, ...] = ()
    retention: Retention | None = None
    """None where no reference text was given."""
    remarks: tuple[str, ...] = ()
    """What is said of the answers beside their value, such as how many queries failed, and what such ones count as."""
    illegal_share: float | None = None
    """Share of the test rows whose written answer is none of the labels; None where labels are scored."""
    unmet: tuple[str, ...] = ()
    """Requirements of the user's that it fails, each with its figure: such a candidate is not recommended."""

    @property
    def shipped_seed(self) -> int | None:
        """The seed whose artefact is judged and served; None where there is none."""
        return next((seed.seed for seed in self.seeds if seed.shipped), None)

    @property
    def judged_seed(self) -> int | None:
        """The seed whose answers stand for the candidate: the shipped one; else, in folds, the first repeat."""
        return self.shipped_seed if self.shipped_seed is not None else next((s.seed for s in self.seeds), None)

    @property
    def is_floor(self) -> bool:
        """True where no base reads the text: one label for all, the input itself, the nearest training row's target."""
        return self.family != "outside" and not READERS & set(self.parts)


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
    recommended: str | None
    """None where no candidate that meets the user's requirements can be recommended."""
    margin: float
    """Points of the metric, out of 100, that a cheaper candidate may lose."""
    prices: Mapping[str, float]
    not_separated: tuple[NotSeparated, ...]
    stability: float | None
    """Share of bootstrap replicates of the decision that recommend the same candidate."""
    corrected_value: float | None
    """The recommended one's value without the luck of being chosen on the same rows."""
    minimum_detectable_difference: float | None
    verdict: str
    reason: str
    requirements: tuple[str, ...] = ()
    """What the user requires of a candidate."""
    nearest_misses: tuple[str, ...] = ()
    """Where no candidate meets them: those that come nearest, each with what it lacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Something that was looked at because it can make a comparison worthless."""

    code: str
    """Stable kebab-case name; its page is `docs/guides/checks.md`."""
    passed: bool
    value: float | None
    sentence: str
    touches: tuple[str, ...] = ()
    """Candidates whose numbers it touches; empty for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyEffort:
    """What a family of methods got to tune itself, and what it made of it."""

    family: Family
    trials: int
    seconds: float
    price: float | None = None
    """Modelled US dollars."""
    best: tuple[float | None, ...] = ()
    """Best dev value so far after each of its trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """What the whole run took."""

    wall_s: float
    tuning_s: float
    refits_s: float
    test_s: float
    cpu_s: float | None = None
    """Of all cores."""
    gpu_s: float | None = None
    peak_memory_bytes: int | None = None
    tokens: int | None = None
    """Trained on."""
    stored_bytes: int | None = None
    """Of all adapters in the run folder."""
    price: float | None = None
    """Modelled US dollars; with what requests cost."""
    requests: Requests | None = None
    budget_s: float | None = None
    max_cost: float | None = None
    not_done: tuple[str, ...] = ()
    """What the budget left out, each a few words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How answers on unseen rows were obtained."""

    kind: Literal["holdout", "folds"] = "holdout"
    folds: int = 1
    repeats: int = 1
    reason: str | None = None
    """Why folds were chosen where the user did not ask for them."""


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

    schema_version: int = SCHEMA_VERSION
    task: TaskSummary
    backbones: tuple[BackboneSummary, ...]
    candidates: tuple[Candidate, ...]
    pairs: tuple[Pair, ...]
    decision: Decision | None
    """None where no candidate was finished."""
    test_reads: int
    provenance: Provenance
    protocol: Protocol = Protocol()
    effort: tuple[FamilyEffort, ...] = ()
    ledger: Ledger | None = None
    checks: tuple[Check, ...] = ()

    @property
    def winner(self) -> Candidate | None:
        """The recommended candidate."""
        chosen = None if self.decision is None else self.decision.recommended
        return next((each for each in self.candidates if each.id == chosen), None)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as what JSON can hold, schema version first."""
    return dataclasses.asdict(comparison)


def from_json(content: Any) -> Comparison:
    """The comparison in a JSON value; unknown keys are ignored.

    Raises:
        RunError: A newer schema, a missing key or a value of the wrong type.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        allowed = f"Allowed: up to {SCHEMA_VERSION}. Update tunewright to read this run."
        raise RunError(f"`schema_version` of {FILE_NAME} is {version}. {allowed}")
    return read_as(Comparison, content, FILE_NAME)


def save(comparison: Comparison, run_dir: Path) -> None:
    """Writes `comparison.json` into a run folder, whole or not at all."""
    write_json(run_dir / FILE_NAME, to_json(comparison))


def load(run_dir: Path) -> Comparison:
    """Reads `comparison.json` of a run folder.

    Raises:
        RunError: Missing, not JSON, or not this schema.
    """
    return from_json(read_json(run_dir / FILE_NAME))
