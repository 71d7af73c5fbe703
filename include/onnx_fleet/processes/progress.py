"""How far a step is: what it has done of all that it has to do, told by the step and shown by whoever listens.

A step in a process of its own leaves it in a file beside its answer, which its parent reads (isolation). Nobody has to
listen, and telling never fails a step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from onnx_fleet import jsonio


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``12 of 40 checks``."""

    done: int
    total: int
    unit: str
    """What is counted, in the plural."""
    waits_for: str = ""
    """What the step waits for instead: others' work, whose time is not its own; empty where it works."""

    def __str__(self) -> str:
        if self.waits_for:
            return f"waiting for {self.waits_for}"
        return f"{self.done} of {self.total} {self.unit}" if self.total else ""


T = TypeVar("T")
Listener = Callable[[Progress], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener told what the steps in the block tell, those in processes of their own too."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(progress: Progress) -> None:
    """Say how far a step is, to whoever listens."""
    if listener := _listener.get():
        listener(progress)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say that the step waits for the work of others until the block ends."""
    tell(Progress(done=0, total=0, unit="", waits_for=what))
    try:
        yield
    finally:
        tell(Progress(done=0, total=0, unit=""))


class Count:
    """What a step has to do so many times: it tells how many, and each one that is done."""

    def __init__(self, total: int, unit: str) -> None:
        self._done, self._total, self._unit = 0, total, unit
        self._tell()

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items of a loop; each is done when the next one is asked for."""
        for item in items:
            yield item
            self._done += 1
            self._tell()

    def _tell(self) -> None:
        tell(Progress(done=self._done, total=self._total, unit=self._unit))


def writing(path: Path) -> Listener:
    """A listener for a step's own process: it keeps the last that was told in a file, which is always whole."""
    partial = path.with_name(f"{path.name}.partial")

    def write(progress: Progress) -> None:
        with suppress(OSError):
            partial.write_text(json.dumps(jsonio.to_json(progress)))
            partial.replace(path)

    return write


def read(path: Path) -> Progress | None:
    """What a step has told last; None where it has told nothing yet."""
    try:
        return jsonio.from_json(Progress, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
