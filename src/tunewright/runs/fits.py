"""What was trained: a line for each trial of the search, and one for each refit of a finalist."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tunewright.files import read_lines
from tunewright.types import DevScore, Family, Params

TrialStatus = Literal["complete", "pruned", "failed", "cut", "unanswered"]
"""`cut`: stopped because the time ran out; never a finalist, for its refits would be cut as well. `unanswered`: its
base elsewhere did not answer any more; a resumed run repeats it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One line of `trials.jsonl`."""

    candidate: str
    method: str
    family: Family
    backbone: str
    trial: int
    """Number within the candidate, from 0."""
    params: Params
    status: TrialStatus
    dev: tuple[dict[str, float], ...]
    """`{"epoch", "value", "loss"}` after each epoch; epoch 0 for a method that does not train."""
    value: float | None
    """The best of them."""
    seconds: float
    epochs: int
    num_tokens: int
    reason: str
    needed_s: float | None = None
    """Seconds that it was expected to take by its pace, where it was cut."""
    usd: float = 0.0
    """Paid for requests."""

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Trial":
        """From a line."""
        return cls(**{**record, "dev": tuple(record["dev"])})

    @property
    def best(self) -> DevScore | None:
        """The epoch that counts."""
        scores = [DevScore(epoch=int(d["epoch"]), value=d["value"], loss=d["loss"]) for d in self.dev]
        return max(scores, key=lambda s: (s.value, -s.loss), default=None)


@dataclass(frozen=True, kw_only=True)
class Refit:
    """One line of `finalists.jsonl`."""

    candidate: str
    seed: int
    params: Params
    dev: float
    loss: float
    epochs: int
    seconds: float
    stopped: str
    num_tokens: int
    trainable: int
    peak_memory_bytes: int | None
    adapter_bytes: int
    adapter_sha256: str

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Refit":
        """From a line."""
        return cls(**{f.name: record[f.name] for f in fields(cls)})


def trials(run_dir: Path) -> list[Trial]:
    """Those that ended, in their order."""
    return [Trial.read(line) for line in read_lines(run_dir / "trials.jsonl")]


def refits(run_dir: Path) -> list[Refit]:
    """Those that are finished, in their order."""
    return [Refit.read(line) for line in read_lines(run_dir / "finalists.jsonl")]


def shipped(found: Sequence[Refit]) -> Refit:
    """The one that is best on dev: what the decision is about."""
    return max(found, key=lambda r: (r.dev, -r.loss, -r.seed))


def finalist(found: Sequence[Trial]) -> Trial | None:
    """The best complete trial: highest dev value, then lowest dev loss, then the earliest."""
    complete = [t for t in found if t.status == "complete" and t.best is not None]
    return max(complete, key=_rank, default=None)


def _rank(trial: Trial) -> tuple[float, float, int]:
    assert trial.best is not None
    return (trial.best.value, -trial.best.loss, -trial.trial)
