"""Dataclasses to JSON and back, the JSON of a model's files, and the one canonical form that digests are taken of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from onnx_fleet.errors import ModelInvalid

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


def parse(kind: type[T], data: bytes | str) -> T:
    """Read a value from JSON as it lies in a file or a store, as from_json does from plain values.

    Raises:
        ValueError: data is not JSON, or does not describe a ``kind``.
    """
    return from_json(kind, json.loads(data))


def read(path: Path, *, subject: str) -> Any:
    """The value in a JSON file of a model's author.

    Args:
        subject: the model, as the message names it.
    Raises:
        ModelInvalid: the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as err:
        raise ModelInvalid(f"{subject}: {path.name} is not JSON ({err}); name a revision where it is") from err


def read_object(path: Path, *, subject: str) -> Json:
    """Read the object in a JSON file of a model's author, as read does any value.

    Raises:
        ModelInvalid: the file is not JSON, or holds something else.
    """
    data = read(path, subject=subject)
    if not isinstance(data, dict):
        raise ModelInvalid(f"{subject}: {path.name} is not a JSON object; name a revision where it is")
    return data


def canonical(data: object) -> bytes:
    """Sorted keys, UTF-8, one trailing newline, two-space indent: equal data gives equal bytes.

    Raises:
        ValueError: data holds a float that is not finite.
    """
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2)
    return f"{text}\n".encode()
