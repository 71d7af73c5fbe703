"""What went wrong in a run, each cause once: a failure that forty models share is one line with forty names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from onnx_fleet.runs.record import Record

_ANY: Final = "org/name"
"""What stands for a model's own id where a message is about several models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause, and the models that it befell."""

    records: tuple[Record, ...]
    """The records, in the order of the report; at least one."""
    message: str
    """The message of a single model; where there are several, the one that they share, about ``org/name``."""


def of(records: Iterable[Record]) -> tuple[Cause, ...]:
    """Return what befell the models that have a message, in the order of the records."""
    found: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if record.message:
            about = (record.state, record.step, record.error, record.findings, _without_names(record))
            found.setdefault(about, []).append(record)
    return tuple(
        Cause(records=tuple(group), message=group[0].message if len(group) == 1 else _without_names(group[0]))
        for group in found.values()
    )


def _without_names(record: Record) -> str:
    """Return a record's message with what is its model's own taken out: its id, its commit, its version, its folder."""
    name = re.escape(record.model_id)
    version = re.escape(record.version) if record.version else r"[0-9a-f]{8}-[0-9a-f]{8}"
    said = re.sub(rf"{name}@(?:{version}|[0-9a-f]{{8,40}})", _ANY, record.message)
    said = re.sub(rf"{name}(?![\w.-]*\w)", _ANY, said)
    return re.sub(rf"(?<![0-9a-f]){version}(?![0-9a-f])", "VERSION", said)
