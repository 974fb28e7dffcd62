"""Two versions that answered the same requests: how often they agree, and which is right more often.

May be looked at after every request: all intervals hold at every moment.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tunewright.evaluation.sequential import always_valid
from tunewright.types import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One request, answered by both."""

    live: str
    shadow: str
    verdict: Literal["right", "wrong", "corrected"] | None = None
    """What was said of the live answer; None where nothing was."""
    corrected: str | None = None
    """The right answer, with the verdict `corrected`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shadowing:
    """What the requests say of a version that answers silently."""

    agreement: Estimate
    """Share of all requests with the same answer."""
    difference: Estimate | None
    """How much more often the silent version is right, on requests with feedback; None without any."""
    num_unclear: int
    """Of those: requests where the live answer is wrong and the silent one another, of which nothing is known; they
    count as wrong too, so that the lower bound holds."""


def compare(requests: Iterable[Answered]) -> Shadowing:
    """All requests, in the order they came.

    Only what people bother to judge has feedback, so the difference is that on such requests.
    """
    asked = list(requests)
    judged = [each for each in asked if each.verdict is not None]
    unclear = [each for each in judged if each.verdict == "wrong" and each.shadow != each.live]
    return Shadowing(
        agreement=always_valid([float(each.live == each.shadow) for each in asked], 0, 1),
        difference=always_valid([_gain(each) for each in judged], -1, 1) if judged else None,
        num_unclear=len(unclear),
    )


def _gain(each: Answered) -> float:
    """Right silently less right live: -1, 0 or 1."""
    if each.verdict == "wrong" or each.live == each.shadow:
        return 0.0
    truth = each.live if each.verdict == "right" else each.corrected
    return float(each.shadow == truth) - float(each.live == truth)
