"""What a check of a store has found: whether the store can do each thing, what was seen, and what that means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Answer = Literal["yes", "no", "not tried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One thing that a store may be able to do."""

    supported: Answer
    seen: str
    """A statement of what was seen when it was tried."""
    means: str
    """A statement of what onnx-fleet does about it."""
    needed: bool = False
    """Whether onnx-fleet cannot do without it, as the store is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCheck:
    """What was found of a store."""

    address: str
    usable: bool
    """Whether nothing is missing that is needed."""
    capabilities: Mapping[str, Capability]
    """By name, such as ``conditional_create``, in the order in which they were tried."""
    left: tuple[str, ...]
    """The addresses of objects of the check that could not be removed."""


def found(address: str, capabilities: Mapping[str, Capability], *, left: tuple[str, ...]) -> StoreCheck:
    """Return what was found of a store, and whether it can be used."""
    missing = [each for each in capabilities.values() if each.needed and each.supported == "no"]
    return StoreCheck(address=address, usable=not missing, capabilities=capabilities, left=left)


ONE_WINS = "Two writers cannot overwrite each other: one wins, and the other is told."
_INSTEAD = "Use another server, or see to it that one process at a time writes, and set single_writer."
IS_AN_ERROR = f"Each such write is an error (StoreUnsafe): two writers could overwrite each other. {_INSTEAD}"
IS_IGNORED = f"The first such write of a process is an error (StoreUnsafe): it finds the same. {_INSTEAD}"
ONE_WRITER = "single_writer is set: onnx-fleet looks, writes and reads back, which is right as long as one writes."
