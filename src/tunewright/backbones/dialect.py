"""How an OpenAI-compatible endpoint is spoken to, as far as it understands it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

CHAT, COMPLETIONS = "chat/completions", "completions"
_TOPS = {CHAT: (20, 5, 0), COMPLETIONS: (5, 0)}
"""Alternatives to ask for with each token, as far as endpoints grant them."""

OPTIONAL = ("seed", "stop", "top_p")
"""Settings of a request that are left out where they are refused."""

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is wanted of a prompt."""

    prompt: str
    max_tokens: int
    tells: bool = False
    """Whether probabilities of tokens are wanted, where they are offered."""
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What an endpoint understands, found out by asking."""

    path: str = CHAT
    num_top: int = _TOPS[CHAT][0]
    """Alternatives that it tells with each token; 0 where it tells no probabilities."""
    length: str = "max_tokens"
    tempered: bool = True
    """Whether it takes a temperature."""

    def body(self, model: str, ask: Ask) -> dict[str, Any]:
        """Of a request."""
        body: dict[str, Any] = {"model": model, self.length: ask.max_tokens}
        if self.path == CHAT:
            body["messages"] = [{"role": "user", "content": ask.prompt}]
        else:
            body["prompt"] = ask.prompt
        if self.tempered:
            body["temperature"] = ask.temperature
        if ask.tells and self.num_top > 0:
            body |= (
                {"logprobs": True, "top_logprobs": self.num_top} if self.path == CHAT else {"logprobs": self.num_top}
            )
        if ask.stop:
            body["stop"] = list(ask.stop[:4])
        if ask.temperature > 0:
            body |= {} if ask.top_p == 1 else {"top_p": ask.top_p}
            body |= {} if ask.seed is None else {"seed": ask.seed}
        return body

    def plainer(self, fault: str) -> "Dialect | None":
        """Without what a refusal names; None where it names nothing of ours."""
        fault = fault.lower()
        if self.length == "max_tokens" and "max_completion_tokens" in fault:
            return replace(self, length="max_completion_tokens")
        if "temperature" in fault and self.tempered:
            return replace(self, tempered=False)
        if "logprob" in fault and self.num_top > 0:
            return replace(self, num_top=next(top for top in _TOPS[self.path] if top < self.num_top))
        return None
