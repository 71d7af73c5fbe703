"""Where the time of an export goes: seconds and peak memory by stage. Nothing is counted until someone records.

A stage inside another one stops the outer one's clock, so that the stages add up to what the whole took.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args

from onnx_fleet import jsonio
from onnx_fleet.processes import peak_memory

Stage = Literal[
    "imports", "plan", "download", "tokenizer", "load", "trace", "decompose", "translate", "optimise", "unroll",
    "write", "validate", "variants", "measure", "compare", "publish", "other",
]  # fmt: skip
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one stage cost, all of its turns together."""

    stage: Stage
    seconds: float
    peak_memory_bytes: int
    """The most that a process had resident in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What every stage cost, in the order of an export."""

    stages: tuple[Cost, ...]

    @property
    def seconds(self) -> float:
        """The seconds from beginning to end."""
        return sum(cost.seconds for cost in self.stages)

    @property
    def peak_memory_bytes(self) -> int:
        """The memory of the process that had the most."""
        return max(cost.peak_memory_bytes for cost in self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProfile:
    """The profile of a run over several models."""

    run_id: str
    whole: Profile
    """What all models cost together, and the run around them."""
    models: Mapping[str, Profile]
    """The profile of each model, by its id; one that was published already has none."""


class Profiler:
    """Counts for one thread of one process, and takes what its child processes counted."""

    def __init__(self, *, since: float) -> None:
        """Args:
        since: time.perf_counter() of the moment from which on everything belongs to a stage.
        """
        self._seconds: dict[Stage, float] = {}
        self._peak_bytes: dict[Stage, int] = {}
        self._inside: list[Stage] = ["other"]
        self._since = since

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Count one turn of a stage."""
        self.settle()
        self._inside.append(stage)
        try:
            yield
        finally:
            self.settle()
            self._inside.pop()

    def settle(self, stage: Stage | None = None) -> None:
        """Count the time since the last call for a stage: by default for the one that is on."""
        stage, now = stage or self._inside[-1], time.perf_counter()
        self._add(stage, now - self._since, peak_memory.restart_peak())
        self._since = now

    def settle_start(self) -> None:
        """Count the time since the last call for the imports; inside a stage, for that stage."""
        self.settle("imports" if self._inside[-1] == "other" else None)

    def take(self, child: Profile) -> None:
        """Count a child's stages, for which this process waited; inside a stage they are all that stage's."""
        self.settle()
        current = self._inside[-1]
        for cost in child.stages:
            if current == "other":
                self._add(cost.stage, cost.seconds, cost.peak_memory_bytes)
                self._add("other", -cost.seconds, 0)
            else:
                self._add(current, 0.0, cost.peak_memory_bytes)

    def profile(self) -> Profile:
        """Return the cost of every stage so far."""
        self.settle()
        return _profile(self._seconds, self._peak_bytes)

    def _add(self, stage: Stage, seconds: float, peak_bytes: int) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        self._peak_bytes[stage] = max(self._peak_bytes.get(stage, 0), peak_bytes)


_recorder: ContextVar[Profiler | None] = ContextVar("recorder", default=None)


@contextmanager
def recording(*, from_start: bool = False) -> Iterator[Profiler]:
    """Count what happens in the block.

    Args:
        from_start: count what the process did before too, as imports.
    """
    now = time.perf_counter()
    recorder = Profiler(since=now - _age_s() if from_start else now)
    if from_start:
        recorder.settle("imports")
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)


@contextmanager
def part() -> Iterator[Profiler | None]:
    """Count a part of the whole by itself too, where someone counts."""
    whole = _recorder.get()
    if whole is None:
        yield None
        return
    with recording() as recorder:
        yield recorder
    whole.take(recorder.profile())


def active() -> Profiler | None:
    """Return who counts; None where nobody asked."""
    return _recorder.get()


@contextmanager
def starting() -> Iterator[None]:
    """Count what goes before a child process that counts itself, where someone counts."""
    recorder = _recorder.get()
    if recorder:
        recorder.settle()
    yield
    if recorder:
        recorder.settle_start()


def timed(stage: Stage) -> AbstractContextManager[None]:
    """Count a turn of a stage, where someone counts."""
    recorder = _recorder.get()
    return recorder.timed(stage) if recorder else nullcontext()


@contextmanager
def timed_calls(functions: Mapping[tuple[Any, str], Stage]) -> Iterator[None]:
    """Count the calls of functions that are not ours, where someone counts.

    Args:
        functions: (module, name) -> the stage that a call of it is.
    """
    if _recorder.get() is None:
        yield
        return
    before = {(module, name): getattr(module, name) for module, name in functions}
    try:
        for (module, name), stage in functions.items():
            setattr(module, name, _counted(before[module, name], stage))
        yield
    finally:
        for (module, name), function in before.items():
            setattr(module, name, function)


def write(path: Path, profile: Profile | RunProfile) -> None:
    """Keep a profile as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonio.canonical(jsonio.to_json(profile)))


def _profile(seconds: Mapping[Stage, float], peak_bytes: Mapping[Stage, int]) -> Profile:
    return Profile(
        stages=tuple(
            Cost(stage=stage, seconds=max(0.0, seconds[stage]), peak_memory_bytes=peak_bytes[stage])
            for stage in STAGES
            if stage in seconds
        )
    )


def _counted(function: Callable[..., Any], stage: Stage) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: object, **kwargs: object) -> Any:
        with timed(stage):
            return function(*args, **kwargs)

    return call


def _age_s() -> float:
    """Return the seconds since this process was started."""
    stat = Path("/proc/self/stat")
    if stat.exists():  # by one clock, which nobody sets: the wall's may have been set since the machine was started
        started_ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # man 5 proc: starttime
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
    import psutil

    return max(0.0, time.time() - psutil.Process().create_time())
