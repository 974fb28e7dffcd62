"""What goes wrong with a request, as JSON of one shape: OpenAI's error object."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tunewright.errors import AdapterError, DataError, ModelError, OutOfMemory, StateError, VectorStoreError

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


# Paths of the server are nobody's business outside; the log has the whole sentence.
_UNAVAILABLE = (
    (
        (AdapterError, ModelError),
        "task_unavailable",
        "the task's adapter or base cannot be loaded. Ask who runs the server.",
        None,
    ),
    (StateError, "state_unavailable", "the server cannot reach its registry now. Ask again later.", 5.0),
    (VectorStoreError, "vector_store_unavailable", "the task's vector store does not answer. Ask again later.", 5.0),
    (OutOfMemory, "out_of_memory", "the row does not fit in memory.", None),
)


def as_fault(error: Exception) -> Fault:
    """An exception of a row, as what its sender hears; of ours nothing but that it was ours."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, DataError):
        return Fault(400, "invalid_input", str(error))
    for kinds, code, message, retry_after_s in _UNAVAILABLE:
        if isinstance(error, kinds):
            return Fault(503, code, message, retry_after_s=retry_after_s)
    return Fault(500, "internal_error", "the server failed; it is not the request's fault.")


def is_ours(error: Exception) -> bool:
    """Whether an exception of a row belongs in the log."""
    return not isinstance(error, Fault | DataError) or isinstance(error, AdapterError)


def of_validation(errors: Sequence[Mapping[str, Any]]) -> Fault:
    """What pydantic found, without what was sent: the first fault, fields that are none, and how many there are."""
    if errors[0]["type"] == "json_invalid":
        return Fault(400, "invalid_json", "the body is not valid JSON.")
    found = _of_nearest_form(errors)
    where = _place(found[0])
    if where in ("messages", "messages.0.role"):
        message = "a task answers one message of the user; its instruction is part of it."
        return Fault(400, "invalid_messages", message, param="messages")
    # A field that is none is mostly the missing one misspelt.
    told = [found[0], *[each for each in found[1:] if each["type"] == "extra_forbidden"][:2]]
    more = f" ({len(found)} faults in all)" if len(found) > len(told) else ""
    return Fault(400, "invalid_value", f"{'; '.join(map(_sentence, told))}{more}.", param=where or None)


def _place(error: Mapping[str, Any]) -> str:
    """The field at fault, as its sender knows it."""
    return ".".join(str(part)[:80] for k, part in enumerate(error["loc"]) if part != "body" and not _is_form(error, k))


def _sentence(error: Mapping[str, Any]) -> str:
    is_no_object = error["type"] in ("model_type", "model_attributes_type")
    what = "Input should be a JSON object" if is_no_object else error["msg"]
    return f"`{where}`: {what}" if (where := _place(error)) else what


def _is_form(error: Mapping[str, Any], k: int) -> bool:
    """Whether part k of a fault's place is one of the forms of a value, which pydantic names as Python does."""
    loc = error["loc"]
    is_sent = k == len(loc) - 1 and error["type"] == "extra_forbidden"
    return isinstance(loc[k], str) and not is_sent and re.fullmatch("[a-z][a-z0-9_]*", loc[k]) is None


def _of_nearest_form(errors: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Where a value may have several forms: the faults of the one that it misses least, and no others."""
    forms = [next((k for k in range(len(e["loc"])) if _is_form(e, k)), None) for e in errors]
    at = forms[0]
    if at is None:
        return errors
    groups: dict[str, list[Mapping[str, Any]]] = {}
    others = []
    for error, k in zip(errors, forms, strict=True):
        if k == at and error["loc"][:k] == errors[0]["loc"][:k]:
            groups.setdefault(error["loc"][k], []).append(error)
        else:
            others.append(error)
    # A string where a list should be, another verdict or a foreign field speak for another form.
    other_kinds = (
        ("string_type", at + 1),
        ("list_type", at + 1),
        ("literal_error", at + 2),
        ("extra_forbidden", at + 2),
    )
    nearest = min(groups.values(), key=lambda g: (sum((e["type"], len(e["loc"])) in other_kinds for e in g), len(g)))
    words = [e for g in groups.values() for e in g if (e["type"], len(e["loc"])) == ("literal_error", at + 2)]
    if len(words) == len(groups) > 1 and len({e["loc"][-1] for e in words}) == 1:  # none of the forms knows the word
        *most, last = re.findall("'[^']*'", " ".join(e["ctx"]["expected"] for e in words))
        nearest = [{**e, "msg": f"Input should be {', '.join(most)} or {last}"} if e in words else e for e in nearest]
    return [*nearest, *others]
