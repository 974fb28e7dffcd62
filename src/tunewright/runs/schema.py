"""Frozen records out of JSON, checked against their annotations by pydantic; unknown keys are ignored."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tunewright.errors import RunError

R = TypeVar("R")
_TODO = "Repeat the run or restore the file."


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_as(kind: type[R], content: object, where: str) -> R:
    """A JSON value as a record.

    Raises:
        RunError: Naming the place, what is there and what should be.
    """
    try:
        found: R = _reader(kind).validate_json(json.dumps(content), strict=True)  # type: ignore[arg-type]
        return found
    except ValidationError as error:
        faults = error.errors()
    first, at = faults[0], faults[0]["loc"]
    if first["type"] == "missing":
        beside = [each["loc"] for each in faults if each["type"] == "missing" and each["loc"][:-1] == at[:-1]]
        raise RunError(f"{_place(where, at[:-1])} lacks {', '.join(str(loc[-1]) for loc in beside)}. {_TODO}")
    rule = first["msg"].removeprefix("Input should be ")
    raise RunError(f"{_place(where, at)} must be {rule}. Got {first['input']!r:.80}. {_TODO}")


def _place(where: str, parts: Sequence[int | str]) -> str:
    return where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
