"""The server's own protocol: rows in, labels with all probabilities out; and what machines ask about the server."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field

from tunewright.serve.ask import Answer, Label, Sampling
from tunewright.serve.faults import ErrorReply, Fault
from tunewright.serve.gate import context_of
from tunewright.serve.records import Choices, Fields, Strict, TaskName, Text, example_of
from tunewright.serve.request_ids import row_ids
from tunewright.serve.service import Service

Number = Annotated[int, Field(ge=1, le=999_999_999)]


class Row(Strict):
    """One of several rows."""

    text: Text
    text_pair: Text | None = None
    fields: Fields = Field(default_factory=dict)
    choices: Choices = Field(default_factory=list)


class OneText(Row):
    """A row."""

    version: Number | None = None
    """Of the task; the live one when absent."""


class ManyRows(Strict):
    """Several rows, answered in their order."""

    rows: list[Row] = Field(min_length=1, max_length=256)
    version: Number | None = None


class RowAnswer(BaseModel):
    """What a task answers to one row."""

    id: str
    """For feedback on this row."""
    label: str | None
    """None where the task writes."""
    probabilities: dict[str, float] | None
    text: str | None
    """None where the task classifies."""
    text_tokens: int
    num_cut: int
    """Tokens of the text that did not fit."""


class Answers(BaseModel):
    """The rows' answers, in their order."""

    request_id: str
    task: str
    version: int
    answers: list[RowAnswer]


class Health(BaseModel):
    """How the server is."""

    status: str


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(responses={"default": {"model": ErrorReply, "description": "what went wrong"}})

    @routes.post("/v1/tasks/{task}/predict", response_model=Answers)
    async def predict(request: Request, task: Annotated[TaskName, Path()], asked: OneText | ManyRows) -> Response:
        """Answers one row, or many."""
        rows: Sequence[Row] = asked.rows if isinstance(asked, ManyRows) else [asked]
        served = await service.find(request, task, len(rows), asked.version)
        examples = [
            replace(example_of(k, row.text, row.text_pair), fields=row.fields, choices=tuple(row.choices))
            for k, row in enumerate(rows)
        ]
        found = await service.answers(request, served, examples, may_cut=True, sampling=Sampling(seed=0))
        request_id = context_of(request.scope).request_id
        ids = row_ids(request_id, len(found))
        answers = [_answer(row_id, answer) for row_id, answer in zip(ids, found, strict=True)]
        head = {"request_id": request_id, "task": task, "version": served.version}
        return JSONResponse(head | {"answers": answers})

    @routes.get("/healthz", response_model=Health)
    async def healthz() -> Response:
        """Whether the process runs."""
        return JSONResponse({"status": "ok"})

    @routes.get("/readyz", response_model=Health)
    async def readyz() -> Response:
        """Whether a request would be answered at once."""
        if not service.is_ready:
            message = "no base is in memory: it is being loaded, or cannot be, and the server's log says why."
            raise Fault(503, "not_ready", message, retry_after_s=1)
        return JSONResponse({"status": "ready"})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Figures for Prometheus, of all tasks: for a key that is for all of them."""
        key = context_of(request.scope).key
        if key is not None and key.entry.tasks is not None:
            raise Fault(403, "metrics_not_allowed", f"key {key.entry.name!r} is not for all tasks. Use one that is.")
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return routes


def _answer(row_id: str, answer: Answer) -> dict[str, Any]:
    """A row's, as JSON values."""
    found: dict[str, Any] = {"id": row_id, "label": None, "probabilities": None, "text": None}
    if isinstance(answer, Label):
        found["label"] = answer.label
        found["probabilities"] = dict(zip(answer.labels, answer.probabilities, strict=True))
    else:
        found["text"] = answer.answer
    return found | {"text_tokens": answer.usage.text_tokens, "num_cut": answer.usage.num_cut}
