"""Frozen dataclasses to JSON and back, and the one canonical JSON form that digests are taken of."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")

Json = dict[str, Any]


_adapters: dict[type, TypeAdapter[Any]] = {}


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """Building one takes milliseconds, so each is built once, and not before it is used."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def to_json(value: object) -> Json:
    """A dataclass as plain JSON values: tuples become lists, nested dataclasses become objects."""
    dumped: Json = adapter(type(value)).dump_python(value, mode="json")
    return dumped


def from_json(kind: type[T], data: object) -> T:
    """The inverse of to_json.

    Raises:
        pydantic.ValidationError: data does not describe a ``kind``.
    """
    return adapter(kind).validate_python(data)


def canonical(data: object) -> bytes:
    """Sorted keys, UTF-8, one trailing newline, two-space indent: equal data gives equal bytes.

    Raises:
        ValueError: data holds a float that is not finite.
    """
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2)
    return f"{text}\n".encode()
