"""What the registry knows, as records. Times are ISO 8601 in UTC."""

import re
from dataclasses import dataclass
from typing import Literal

from tunewright.errors import counted
from tunewright.types import Estimate

DEFAULT_STATE = "tunewright.db"
"""In the working folder."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of a task, as it stands in a URL."""

Verdict = Literal["right", "wrong", "corrected"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "corrected")

Action = Literal["promote", "rollback"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The comparison a version comes from: where its answers to unseen rows are."""

    run: str
    """Run folder."""
    candidate: str
    seed: int
    metric: str
    test: Estimate
    test_sha256: str
    """Of the test rows: only versions with the same one can be compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Which adapter of which base."""

    folder: str
    adapter_sha256: str
    base_name: str
    base_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Version(Identity):
    """One adapter of a task."""

    task: str
    version: int
    """From 1; a number is never given again."""
    added_at: str
    added_by: str
    measured: Measured | None
    """None where it comes from no comparison."""

    @property
    def name(self) -> str:
        """`task@version`."""
        return f"{self.task}@{self.version}"

    @property
    def quality(self) -> str:
        """How it did on the test rows of its comparison, in words."""
        if self.measured is None:
            return "from no comparison"
        test = self.measured.test
        return f"{self.measured.metric} {test.value:.3f}, {test.low:.3f} to {test.high:.3f}, {counted(test.n, 'row')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEntry:
    """A task: which version answers, and which one answers silently beside it."""

    name: str
    live: Version | None
    shadow: Version | None
    shadow_share: float
    """Of the requests."""
    num_versions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """One change of what is live."""

    task: str
    version: int
    previous: int | None
    action: Action
    at: str
    who: str
    reason: str
    """On which comparison, or why without."""
    forced: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What somebody said of an answer."""

    request_id: str
    task: str
    version: int
    verdict: Verdict
    answer: str | None = None
    """What was answered; None where nobody says."""
    corrected: str | None = None
    """What should have been answered; there exactly where the verdict is `corrected`."""
    comment: str | None = None
    text: str | None = None
    """The request's text, only where its sender sends it again."""
    text_pair: str | None = None
    at: str = ""
    """Set when it is stored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowPair:
    """What the live version and the silent one answered to the same request."""

    request_id: str
    task: str
    version: int
    shadow: int
    answer: str
    shadow_answer: str
    at: str = ""
    """Set when it is stored."""
