"""What is measured of a candidate beside its metric, as `comparison.json` has it.

None stands where a number does not exist.
"""

from dataclasses import dataclass

from tunewright.types import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What is answered, and how well, when answers below a threshold are left to somebody else."""

    threshold: float
    """Least probability of an answer that is given."""
    coverage: float
    """Share of the rows answered."""
    risk: float
    """Share of wrong answers among those."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Rows of a reliability diagram: about as sure of their answers."""

    confidence: float
    """Mean probability of the answers."""
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Whether probabilities mean what they say, on the test rows."""

    temperature: float
    """Logits are divided by it; fitted on dev (Guo et al. 2017, section 4.2)."""
    error_before: float
    """Expected calibration error without the temperature."""
    error: float
    """And with it."""
    bins: tuple[Bin, ...] = ()
    """Those of `error`, the least sure first."""
    threshold: float | None = None
    """Abstain below it: chosen on dev."""
    curve: tuple[Coverage, ...] = ()
    """Risk against coverage on test."""
    mean_error_cost: float | None = None
    """Mean cost of an answer under the user's cost matrix, when the answer of least expected cost is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The metric on some of the test rows."""

    rule: str
    """`lang=de` or `len>200`."""
    value: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """The worst slice of a column or rule against all other rows."""

    rule: str
    difference: float
    """Its metric minus that of the rows outside it."""
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Flips:
    """How often swapping a pair of terms changes the answer."""

    terms: tuple[str, ...]
    """The two."""
    rows: int
    """Test rows that hold one of them."""
    flipped: Estimate
    """Share of those whose answer changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """What the base forgets on a reference text of the user's, of the shipped artefact; nats per token."""

    base: float | None = None
    """Mean loss of the bare base; None where it was not measured."""
    attached: float | None = None
    """How much it rises with the adapter."""
    detached: float | None = None
    """And once the adapter is taken off again: 0, or the base was changed."""
    tokens: int = 0
    reason: str | None = None
    """Why it was not measured."""
