"""Run one function in a process of its own, with a memory and a time limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one isolated call may use; None is no limit."""

    memory_bytes: int | None = None
    timeout_s: float | None = None
