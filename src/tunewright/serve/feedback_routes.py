"""What people say of answers, kept with the version that gave them."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tunewright.errors import RegistryError, unknown
from tunewright.releases.entries import Feedback
from tunewright.serve.faults import ErrorReply, Fault
from tunewright.serve.gate import context_of
from tunewright.serve.records import Strict, Text
from tunewright.serve.service import Service
from tunewright.serve.tasks import labels_of

Words = Annotated[str, Field(min_length=1, max_length=10_000)]


class Said(Strict):
    """What every word on an answer has."""

    request_id: Annotated[str, Field(max_length=160)]
    """`request_id` of a request of one row, or `request_id/k` of row k; also the `id` of a chat or completion."""
    answer: Words | None = None
    """What was answered, where the sender knows; the server does for its latest answers."""
    comment: Words | None = None
    text: Text | None = None
    """The request's text: kept because it is sent here."""
    text_pair: Text | None = None


class Judged(Said):
    """Right or wrong."""

    verdict: Literal["right", "wrong"]


class Corrected(Said):
    """Wrong, and what would have been right."""

    verdict: Literal["corrected"]
    corrected: Words


class Stored(BaseModel):
    """What is on disk now."""

    request_id: str
    task: str
    version: int
    at: str


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", responses={"default": {"model": ErrorReply, "description": "what went wrong"}})

    @routes.post("/feedback", response_model=Stored)
    async def feedback(request: Request, said: Judged | Corrected) -> Response:
        """Stores a word on an answer; it is on disk when this returns."""
        answered = service.ids.parse(said.request_id)
        if service.state is None:
            raise Fault(404, "no_state", "this server keeps no feedback: its tasks come from folders, not a registry.")
        if answered is None:
            raise Fault(404, "unknown_request", "there is no such request.", param="request_id")
        key = context_of(request.scope).key
        if key is not None:
            key.check_task(answered.task)
        known = service.memory.find(answered.row_id)
        answer = said.answer if known is None else known.answer
        corrected = said.corrected if isinstance(said, Corrected) else None
        served = await asyncio.to_thread(service.tasks.version, answered.task, answered.version)
        labels = () if served is None else await asyncio.to_thread(labels_of, served)
        for field, label in (("answer", answer), ("corrected", corrected)):
            if labels and label is not None and label not in labels:
                raise Fault(400, "unknown_label", f"`{field}`: {unknown('label', label[:80], labels)}", param=field)
        given = Feedback(
            request_id=answered.row_id,
            task=answered.task,
            version=answered.version,
            verdict=said.verdict,
            answer=answer,
            corrected=corrected,
            comment=said.comment,
            text=said.text if known is None or known.text is None else known.text,
            text_pair=said.text_pair if known is None or known.text is None else known.text_pair,
        )
        try:
            stored = await asyncio.to_thread(service.state.add_feedback, given)
        except RegistryError:
            raise Fault(404, "unknown_request", "there is no such request.", param="request_id") from None
        return JSONResponse(Stored.model_validate(stored, from_attributes=True).model_dump())

    return routes
