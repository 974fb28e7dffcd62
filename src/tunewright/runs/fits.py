"""What was trained: a line for each trial of the search, and one for each artefact of a finalist."""

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
class Fit:
    """A training, and what it took."""

    candidate: str
    params: Params
    seconds: float
    epochs: int
    num_tokens: int
    trainable: int = 0
    """Numbers that trained."""
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Trial(Fit):
    """One line of `trials.jsonl`."""

    method: str
    family: Family
    backbone: str
    trial: int
    """Number within the candidate, from 0."""
    status: TrialStatus
    dev: tuple[dict[str, float], ...]
    """`{"epoch", "value", "loss"}` after each epoch; epoch 0 for a method that does not train."""
    value: float | None
    """The best of them."""
    reason: str
    needed_s: float | None = None
    """Seconds that it was expected to take by its pace, where it was cut."""
    usd: float = 0.0
    """Paid for requests."""
    num_cut: int = 0
    """Train and dev rows whose texts were cut."""

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
class Refit(Fit):
    """One line of `finalists.jsonl`: an artefact that answers the test rows."""

    seed: int
    dev: float
    loss: float
    stopped: str
    adapter_bytes: int
    adapter_sha256: str
    trial: int | None = None
    """Number of the trial that it is, whose seconds and tokens these are; None where its setting was fitted again."""

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Refit":
        """From a line; unknown keys are ignored."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})


def trials(run_dir: Path) -> list[Trial]:
    """Those that ended, in their order."""
    return [Trial.read(line) for line in read_lines(run_dir / "trials.jsonl")]


def refits(run_dir: Path) -> list[Refit]:
    """Those that are finished, in their order."""
    return [Refit.read(line) for line in read_lines(run_dir / "finalists.jsonl")]


def again(found: Sequence[Refit]) -> list[Refit]:
    """Those that took a training beyond the trials."""
    return [refit for refit in found if refit.trial is None]


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
