"""What answers rows in text step by step, as it is asked of any base."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunewright.backbones.base import FinishReason, Request


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """One more token of a row."""

    id: Hashable
    """Of the request."""
    token: int
    log_prob: float
    """By the model itself, before temperature and top-p."""
    text: str
    """What is sure of the text now and was not before: less than the token where a stop text may have begun."""
    finish_reason: FinishReason | None
    """`stop` at an end-of-text token or a stop text, `length` where there is no room for more."""


class Stepwise(Protocol):
    """Rows join by `add`, get a token with each `step`, and leave when they finish or by `remove`."""

    def __len__(self) -> int:
        """Rows that are being answered or have tokens to be told of."""
        ...

    def add(self, requests: Sequence[Request]) -> None:
        """Rows join, all or none."""
        ...

    def step(self) -> list[Emitted]:
        """One more token for every row."""
        ...

    def remove(self, ids: Sequence[Hashable]) -> None:
        """Rows leave."""
        ...
