"""How OpenAI's two kinds of answers look, whole or as a stream, with log-probabilities."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tunewright.serve.ask import Answer, Label, Piece, Usage, Written
from tunewright.serve.faults import Fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token of an answer; of a task that classifies its label."""

    text: str
    log_prob: float
    top: tuple[tuple[str, float], ...]
    """What could have stood there, the most probable first."""


def usage_of(rows: Sequence[Usage], completion: int) -> dict[str, Any]:
    """Tokens of a request, and of what was answered."""
    prefix = sum(row.prefix_tokens for row in rows)
    prompt = prefix + sum(row.text_tokens for row in rows)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"prefix_tokens": prefix, "cached_tokens": sum(row.kept_tokens for row in rows)},
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Form(ABC):
    """One kind of answer."""

    kind: ClassVar[str]
    chunk: ClassVar[str]
    """Kind of a piece of a stream."""
    prefix: ClassVar[str]
    """Of ids."""
    num_top: int | None
    """Alternatives told of each token; None where no log-probabilities are asked for."""

    @abstractmethod
    def choice(self, k: int, answer: Answer) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def _delta(self, k: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        """A piece of one."""

    def _begin(self, k: int) -> list[dict[str, Any]]:  # noqa: ARG002
        """What comes before the first piece of a row."""
        return []

    async def stream(
        self, head: dict[str, Any], events: AsyncIterator[tuple[int, Label | Piece | Fault]], *, wants_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events."""
        usage: dict[int, Usage] = {}
        completion, begun = 0, ""
        nothing = {"usage": None} if wants_usage else {}
        async for k, event in events:
            if isinstance(event, Fault):
                yield _line(event.body())
                return
            if k not in usage:
                usage[k], begun = event.usage, ""
                for choice in self._begin(k):
                    yield _line(head | {"choices": [choice]} | nothing)
            completion += 1
            text = event.label if isinstance(event, Label) else event.text
            text = text if begun else text.lstrip()  # the answer has no white space around it
            begun += text
            reason = "stop" if isinstance(event, Label) else event.finish_reason
            choice = self._delta(k, text, self._tokens(event), reason)
            yield _line(head | {"choices": [choice]} | nothing)
        if wants_usage:
            yield _line(head | {"choices": [], "usage": usage_of(list(usage.values()), completion)})
        yield "data: [DONE]\n\n"

    def _tokens(self, answer: Answer | Piece) -> list[Token]:
        """With their alternatives; those of written tokens were refused before."""
        if self.num_top is None:
            return []
        if isinstance(answer, Label):
            ranked = tuple(_ranked(answer))
            return [Token(text=answer.label, log_prob=dict(ranked)[answer.label], top=ranked[: self.num_top])]
        pieces = answer.pieces if isinstance(answer, Written) else [answer]
        return [Token(text=piece.token, log_prob=piece.log_prob, top=()) for piece in pieces]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatForm(Form):
    """Of chat/completions."""

    kind = "chat.completion"
    chunk = "chat.completion.chunk"
    prefix = "chatcmpl"

    def choice(self, k: int, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.answer, "refusal": None}
        logprobs = self._logprobs(self._tokens(answer))
        return {"index": k, "message": message, "finish_reason": _reason(answer), "logprobs": logprobs}

    def _begin(self, k: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [{"index": k, "delta": delta, "finish_reason": None, "logprobs": None}]

    def _delta(self, k: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        return {"index": k, "delta": {"content": text}, "finish_reason": reason, "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.num_top is None:
            return None
        content = [
            _entry(token.text, token.log_prob) | {"top_logprobs": [_entry(*each) for each in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionForm(Form):
    """Of completions."""

    kind = "text_completion"
    chunk = "text_completion"
    prefix = "cmpl"

    def choice(self, k: int, answer: Answer) -> dict[str, Any]:
        return self._delta(k, answer.answer, self._tokens(answer), _reason(answer))

    def _delta(self, k: int, text: str, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        return {"index": k, "text": text, "finish_reason": reason, "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.num_top is None:
            return None
        ends = [0]
        for token in tokens:
            ends.append(ends[-1] + len(token.text))
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens],
            "text_offset": ends[:-1],
        }


def _reason(answer: Answer) -> str:
    return "stop" if isinstance(answer, Label) else answer.finish_reason


def _entry(token: str, log_prob: float) -> dict[str, Any]:
    return {"token": token, "logprob": log_prob, "bytes": list(token.encode())}


def _ranked(label: Label) -> Iterator[tuple[str, float]]:
    """Labels with log-probabilities, the most probable first; the one answered before its equals."""
    pairs = zip(label.labels, label.probabilities, strict=True)
    for name, p in sorted(pairs, key=lambda pair: (-pair[1], pair[0] != label.label)):
        # As OpenAI has it, nothing is less probable than e^-9999.
        yield name, math.log(p) if p > 0 else -9999.0


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
