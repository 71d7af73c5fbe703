"""How the graphs of a stage were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onnx_fleet.entities.graph_info import GraphInfo

Way = Literal["full", "unrolled", "cached"]
"""How the graphs came to be: traced whole, traced shallow and repeated, or taken from the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Something that was tried first and did not hold."""

    what: str
    """``optimizer on -> off``."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """How the graphs of a stage were made."""

    graphs: tuple[GraphInfo, ...]
    settings: Mapping[str, str | int | bool]
    recipe: str | None
    recipe_digest: str | None = None
    """SHA-256 of the file that the recipe is in; None for a built-in one."""
    fallbacks: tuple[Fallback, ...]
    traced: Way = "full"
    graph_key: str | None = None
    """The key of the graphs in the cache; None where no other model can take them."""
    toolchain: Mapping[str, str]
    duration_s: float
    peak_memory_bytes: int
