"""What goes wrong with a request, as JSON of one shape: OpenAI's error object."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tunewright.errors import AdapterError, DataError, ModelError, OutOfMemory, StateError

KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""Status -> OpenAI's `type`; other faults of the sender's are invalid requests, ours are server errors."""


class ErrorBody(BaseModel):
    """What an error says."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody


class Fault(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: Stable name in snake_case.
        message: One sentence for the sender.
        param: The field at fault.
        retry_after_s: After which asking again makes sense.
        headers: Others.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers) if headers is not None else {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(max(1, round(retry_after_s)))

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def as_fault(error: Exception) -> Fault:
    """An exception of a row, as what its sender hears; of ours nothing but that it was ours."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, DataError):
        return Fault(400, "invalid_input", str(error))
    if isinstance(error, AdapterError | ModelError):
        # Paths of the server are nobody's business outside; the log has the whole sentence.
        return Fault(503, "task_unavailable", "the task's adapter or base cannot be loaded. Ask who runs the server.")
    if isinstance(error, StateError):
        return Fault(503, "state_unavailable", "the server cannot store anything now.", retry_after_s=5)
    if isinstance(error, OutOfMemory):
        return Fault(503, "out_of_memory", "the row does not fit in memory.")
    return Fault(500, "internal_error", "the server failed; it is not the request's fault.")


def is_ours(error: Exception) -> bool:
    """Whether an exception of a row belongs in the log."""
    return not isinstance(error, Fault | DataError) or isinstance(error, AdapterError)


def of_validation(errors: Sequence[Mapping[str, Any]]) -> Fault:
    """What pydantic found, without what was sent: the first fault and how many there are."""
    # Where a body may be one of several kinds, what misses or is too much in one says less than a value that is wrong.
    first = min(errors, key=lambda error: error["type"] in ("missing", "extra_forbidden"))
    if first["type"] == "json_invalid":
        return Fault(400, "invalid_json", "the body is not valid JSON.")
    where = ".".join(str(part) for part in first["loc"] if part != "body" and not _is_kind(part))
    if where in ("messages", "messages.0.role"):
        message = "a task answers one message of the user; its instruction is part of it."
        return Fault(400, "invalid_messages", message, param="messages")
    more = f" ({len(errors)} faults in all)" if len(errors) > 1 else ""
    message = f"`{where}`: {first['msg']}{more}." if where else f"{first['msg']}{more}."
    return Fault(400, "invalid_value", message, param=where or None)


def _is_kind(part: object) -> bool:
    """Whether a part of a place is the name of a record, which no sender has written."""
    return isinstance(part, str) and part[:1].isupper()
