"""OpenAI's protocol: each task is a model. One that classifies answers with its label, as the one token of a text."""

import base64
import json
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tunewright.serve.ask import Label
from tunewright.serve.ask import Usage as RowUsage
from tunewright.serve.faults import ErrorReply
from tunewright.serve.gate import context_of
from tunewright.serve.openai_records import (
    Chat,
    ChatMessage,
    ChatRequest,
    Completion,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Model,
    Models,
    Sampling,
)
from tunewright.serve.records import TaskName, example_of
from tunewright.serve.service import Service
from tunewright.serve.tasks import Served
from tunewright.types import Example

_STARTED_S = int(time.time())
_STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", responses={"default": {"model": ErrorReply, "description": "what went wrong"}})

    @routes.get("/models", response_model=Models)
    async def models(request: Request) -> Response:
        """The tasks that may be asked."""
        found = [service.tasks.live(name) for name in service.names(request)]
        return JSONResponse({"object": "list", "data": [_model(served) for served in found if served is not None]})

    @routes.get("/models/{model}", response_model=Model)
    async def model(request: Request, model: TaskName) -> Response:
        """One task."""
        return JSONResponse(_model(service.find(request, model)))

    @routes.post("/chat/completions", response_model=Chat, responses=_STREAMS)
    async def chat(request: Request, asked: ChatRequest) -> Response:
        """The task's answer to the user's message."""
        served = service.find(request, asked.model)
        (label,) = await service.answers(request, served, [_row(asked.messages[0])], may_cut=False)
        top = _top(asked.logprobs, asked.top_logprobs)
        writer = _Writer(request=request, served=served, kind="chat.completion", prefix="chatcmpl")
        logprobs = None if top is None else {"content": [_chat_token(label, top)], "refusal": None}
        if asked.stream:
            return _stream(writer, asked, [_chat_pieces(label, logprobs)], [label.usage])
        message = {"role": "assistant", "content": label.label, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
        return writer.whole([choice], [label.usage])

    @routes.post("/completions", response_model=Completion, responses=_STREAMS)
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        """The task's answers to some texts."""
        served = service.find(request, asked.model)
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        rows = [example_of(k, text) for k, text in enumerate(prompts)]
        labels = await service.answers(request, served, rows, may_cut=False)
        writer = _Writer(request=request, served=served, kind="text_completion", prefix="cmpl")
        choices = [
            {
                "index": k,
                "text": label.label,
                "finish_reason": "stop",
                "logprobs": None if asked.logprobs is None else _completion_logprobs(label, asked.logprobs),
            }
            for k, label in enumerate(labels)
        ]
        usage = [label.usage for label in labels]
        if asked.stream:
            return _stream(writer, asked, [choices], usage)
        return writer.whole(choices, usage)

    @routes.post("/embeddings", response_model=Embeddings)
    async def embeddings(request: Request, asked: EmbeddingRequest) -> Response:
        """Features of some texts under the task's adapter."""
        served = service.find(request, asked.model)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        found = await service.features(request, served, [example_of(k, text) for k, text in enumerate(texts)])
        encode = _base64 if asked.encoding_format == "base64" else list
        data = [{"object": "embedding", "index": k, "embedding": encode(f.values)} for k, f in enumerate(found)]
        tokens = sum(f.usage.text_tokens + f.usage.prefix_tokens for f in found)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": served.task, "data": data, "usage": usage})

    return routes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Writer:
    """What stands around the choices, in one piece or in many."""

    request: Request
    served: Served
    kind: str
    prefix: str

    def head(self, kind: str) -> dict[str, Any]:
        """Of an answer or of a chunk of one."""
        return {
            "id": f"{self.prefix}-{context_of(self.request.scope).request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": self.served.task,
            "system_fingerprint": f"{self.served.task}@{self.served.version}",
        }

    def whole(self, choices: Sequence[dict[str, Any]], rows: Sequence[RowUsage]) -> Response:
        """In one piece."""
        return JSONResponse(self.head(self.kind) | {"choices": list(choices), "usage": _usage(rows)})


def _stream(
    writer: _Writer, asked: Sampling, pieces: Sequence[Sequence[dict[str, Any]]], rows: Sequence[RowUsage]
) -> Response:
    """As server-sent events."""
    kind = "chat.completion.chunk" if writer.kind == "chat.completion" else writer.kind
    head = writer.head(kind)
    wants_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)

    async def events() -> AsyncIterator[str]:
        for piece in (each for some in pieces for each in some):
            yield _event(head | {"choices": [piece]} | ({"usage": None} if wants_usage else {}))
        if wants_usage:
            yield _event(head | {"choices": [], "usage": _usage(rows)})
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _chat_pieces(label: Label, logprobs: dict[str, Any] | None) -> list[dict[str, Any]]:
    common = {"index": 0, "finish_reason": None, "logprobs": None}
    return [
        common | {"delta": {"role": "assistant", "content": ""}},
        common | {"delta": {"content": label.label}, "logprobs": logprobs},
        common | {"delta": {}, "finish_reason": "stop"},
    ]


def _row(message: ChatMessage) -> Example:
    if isinstance(message.content, str):
        return example_of(0, message.content)
    texts = [part.text for part in message.content]
    return example_of(0, texts[0], texts[1] if len(texts) > 1 else None)


def _model(served: Served) -> dict[str, Any]:
    common = {"object": "model", "created": _STARTED_S, "owned_by": "tunewright"}
    return {"id": served.task, "version": served.version} | common


def _top(wanted: bool | None, num_top: int | None) -> int | None:
    """How many labels stand beside the one answered; None where no log-probabilities are asked for."""
    if not wanted:
        return None
    return 0 if num_top is None else num_top


def _ranked(label: Label) -> Iterator[tuple[str, float]]:
    """Labels with log-probabilities, the most probable first; the one answered before its equals."""
    pairs = zip(label.labels, label.probabilities, strict=True)
    for name, p in sorted(pairs, key=lambda pair: (-pair[1], pair[0] != label.label)):
        yield name, _log(p)


def _log(probability: float) -> float:
    """As OpenAI has it, nothing is less probable than e^-9999."""
    return math.log(probability) if probability > 0 else -9999.0


def _chat_token(label: Label, num_top: int) -> dict[str, Any]:
    ranked = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in _ranked(label)]
    mine = next(each for each in ranked if each["token"] == label.label)
    return mine | {"top_logprobs": ranked[:num_top]}


def _completion_logprobs(label: Label, num_top: int) -> dict[str, Any]:
    ranked = list(_ranked(label))
    return {
        "tokens": [label.label],
        "token_logprobs": [dict(ranked)[label.label]],
        "top_logprobs": [dict(ranked[:num_top])],
        "text_offset": [0],
    }


def _usage(rows: Sequence[RowUsage]) -> dict[str, Any]:
    prefix = sum(row.prefix_tokens for row in rows)
    prompt, completion = prefix + sum(row.text_tokens for row in rows), len(rows)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"prefix_tokens": prefix, "cached_tokens": 0},
    }


def _base64(values: Sequence[float]) -> str:
    """Little-endian fp32, as OpenAI's client decodes it."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")
