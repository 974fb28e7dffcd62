"""OpenAI's protocol: each task is a model. One that classifies answers with its label, as the one token of a text."""

import base64
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tunewright.serve import openai_records as openai
from tunewright.serve.ask import Sampling, Written
from tunewright.serve.faults import ErrorReply
from tunewright.serve.gate import context_of
from tunewright.serve.openai_forms import ChatForm, CompletionForm, Form, usage_of
from tunewright.serve.records import TaskName, example_of
from tunewright.serve.service import Service
from tunewright.serve.tasks import Served
from tunewright.types import Example

_STARTED_S = int(time.time())
_STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", responses={"default": {"model": ErrorReply, "description": "what went wrong"}})

    @routes.get("/models", response_model=openai.Models)
    async def models(request: Request) -> Response:
        """The tasks that may be asked."""
        found = [service.tasks.live(name) for name in service.names(request)]
        return JSONResponse({"object": "list", "data": [_model(served) for served in found if served is not None]})

    @routes.get("/models/{model}", response_model=openai.Model)
    async def model(request: Request, model: TaskName) -> Response:
        """One task."""
        return JSONResponse(_model(await service.find(request, model, 1)))

    @routes.post("/chat/completions", response_model=openai.Chat, responses=_STREAMS)
    async def chat(request: Request, asked: openai.ChatRequest) -> Response:
        """The task's answer to the user's message."""
        served = await service.find(request, asked.model, 1)
        num_top = None if not asked.logprobs else 0 if asked.top_logprobs is None else asked.top_logprobs
        form = ChatForm(num_top=num_top)
        most = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        return await reply(request, served, asked, form, [_row(asked.messages[0])], most)

    @routes.post("/completions", response_model=openai.Completion, responses=_STREAMS)
    async def completions(request: Request, asked: openai.CompletionRequest) -> Response:
        """The task's answers to some texts."""
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        served = await service.find(request, asked.model, len(prompts))
        rows = [example_of(k, text) for k, text in enumerate(prompts)]
        return await reply(request, served, asked, CompletionForm(num_top=asked.logprobs), rows, asked.max_tokens)

    async def reply(
        request: Request, served: Served, asked: openai.Sampling, form: Form, rows: list[Example], most: int | None
    ) -> Response:
        sampling = _sampling(asked, most, form.num_top)
        if asked.stream:
            events = await service.stream(request, served, rows, sampling)
            wants_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
            lines = form.stream(_head(request, served, form.chunk, form.prefix), events, wants_usage=wants_usage)
            return StreamingResponse(lines, media_type="text/event-stream", headers={"cache-control": "no-store"})
        answers = await service.answers(request, served, rows, may_cut=False, sampling=sampling)
        choices = [form.choice(k, answer) for k, answer in enumerate(answers)]
        head = _head(request, served, form.kind, form.prefix)
        num_written = sum(len(a.pieces) if isinstance(a, Written) else 1 for a in answers)
        return JSONResponse(head | {"choices": choices, "usage": usage_of([a.usage for a in answers], num_written)})

    @routes.post("/embeddings", response_model=openai.Embeddings)
    async def embeddings(request: Request, asked: openai.EmbeddingRequest) -> Response:
        """Features of some texts under the task's adapter."""
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        served = await service.find(request, asked.model, len(texts))
        found = await service.features(request, served, [example_of(k, text) for k, text in enumerate(texts)])
        encode = _base64 if asked.encoding_format == "base64" else list
        data = [{"object": "embedding", "index": k, "embedding": encode(f.values)} for k, f in enumerate(found)]
        tokens = sum(f.usage.text_tokens + f.usage.prefix_tokens for f in found)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": served.task, "data": data, "usage": usage})

    return routes


def _head(request: Request, served: Served, kind: str, prefix: str) -> dict[str, Any]:
    """Of an answer, or of each chunk of one."""
    return {
        "id": f"{prefix}-{context_of(request.scope).request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": served.task,
        "system_fingerprint": f"{served.task}@{served.version}",
    }


def _sampling(asked: openai.Sampling, most: int | None, num_top: int | None) -> Sampling:
    stop = (asked.stop,) if isinstance(asked.stop, str) else asked.stop
    return Sampling(
        max_new_tokens=most,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=None if stop is None else tuple(stop),
        seed=asked.seed,
        num_top=0 if num_top is None else num_top,
    )


def _row(message: openai.ChatMessage) -> Example:
    if isinstance(message.content, str):
        return example_of(0, message.content)
    texts = [part.text for part in message.content]
    return example_of(0, texts[0], texts[1] if len(texts) > 1 else None)


def _model(served: Served) -> dict[str, Any]:
    common = {"object": "model", "created": _STARTED_S, "owned_by": "tunewright"}
    return {"id": served.task, "version": served.version} | common


def _base64(values: Sequence[float]) -> str:
    """Little-endian fp32, as OpenAI's client decodes it."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")
