"""Frozen records as JSON and back, checked against their annotations; unknown keys are ignored."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from tunewright.errors import RunError


def to_plain(value: Any) -> Any:
    """Records as dicts and tuples as lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def read_as(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the annotated type.

    Raises:
        RunError: Naming the place, what is there and what should be.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _read_record(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(read_as(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: read_as(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, value, where)
    return _read_scalar(kind, value, where)


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as a scalar or one of a few words; a whole number may stand for a float."""
    words = typing.get_args(kind)
    if value in words if words else type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    allowed = ", ".join(map(str, words)) if words else getattr(kind, "__name__", str(kind))
    raise RunError(f"{where} must be {allowed}. Got {value!r:.80}. Repeat the run or restore the file.")


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """The member of a union whose JSON type is the value's; else the first, for its error."""
    if value is None and types.NoneType in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not types.NoneType]
    exact = [kind for kind in kinds if kind is type(value)]
    return read_as(exact[0] if exact else kinds[0], value, where)


def _read_record(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    """A record from the keys it knows.

    Raises:
        RunError: A key without a default is missing.
    """
    kinds = typing.get_type_hints(kind)
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in value]
    if missing:
        raise RunError(f"{where} lacks {', '.join(missing)}. Repeat the run or restore the file.")
    return kind(**{name: read_as(kinds[name], value[name], f"{where}.{name}") for name in kinds if name in value})
