"""What answers from elsewhere come to: what they are billed for, and how long they took."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What an endpoint bills a request for, in its own tokens."""

    input_tokens: int = 0
    cached_tokens: int = 0
    """Those of the input that it had seen shortly before, and bills for less."""
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """An answer from elsewhere."""

    usage: Usage
    prompt_bytes: int
    waited_ms: float
    """When it was asked for."""
    illegal: bool | None = None
    """Whether it is none of the labels that it was asked for; None where it was scored or free."""
