"""What the benchmarks measured, as JSON: every single run, so that any figure can be made of it afterwards."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from benchmarks.processes import Cost
from onnx_fleet import jsonio

T = TypeVar("T")

Way = Literal["first", "repeated", "validate", "optimum", "optimum-unchecked"]
"""How a bundle was made: by us with an empty store, with a store that has seen the architecture; our validation of it;
optimum-cli as it is; the same without the validation that it does by itself."""
STEPS = ("export", "validate", "measure", "compare", "publish")
"""The steps of a flow by their names in records, in their order."""
FlowWay = Literal["first", "repeated", "optimum"]
"""How a model went through all steps: by us with an empty store, as a fine-tune of what the store has; optimum-cli."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and when figures were taken."""

    hardware: Mapping[str, str | int]
    load_average_1m: float
    """When the benchmark began."""
    taken_at: str
    """UTC, to the minute."""
    ours: Mapping[str, str]
    """Package -> version."""
    peer: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A checkpoint that was measured."""

    name: str
    title: str
    weight_bytes: int
    layers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRun:
    """One process that exported or validated one checkpoint."""

    subject: str
    way: Way
    turn: int
    cost: Cost
    written_bytes: int
    """What it left in its output folder; 0 for a validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What benchmarks.export measured."""

    machine: Machine
    subjects: tuple[Subject, ...]
    runs: tuple[ExportRun, ...]

    def of(self, subject: str, way: Way) -> list[ExportRun]:
        """A checkpoint's runs of one way, by turn."""
        found = [run for run in self.runs if (run.subject, run.way) == (subject, way)]
        return sorted(found, key=lambda run: run.turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRun:
    """One turn of one checkpoint: the same tokens from both graphs."""

    subject: str
    turn: int
    ours_tokens_per_s: float
    peer_tokens_per_s: float
    new_tokens: int
    agreeing_tokens: int
    """How many of the new tokens are the same before the first that is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """What benchmarks.generate measured."""

    machine: Machine
    subjects: tuple[Subject, ...]
    threads: int
    prompt_tokens: int
    runs: tuple[GenerateRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """One model through all of our steps by one process, or through optimum-cli."""

    way: FlowWay
    variants: tuple[str, ...]
    """The precisions that were made."""
    turn: int
    cost: Cost
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Step -> wall time, as the record has it."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Step -> the most resident memory, as the record has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResult:
    """What benchmarks.fleet measured of one model and a fine-tune of it."""

    machine: Machine
    subject: Subject
    runs: tuple[FlowRun, ...]

    def of(self, way: str, variants: tuple[str, ...]) -> list[FlowRun]:
        """The runs of one way with some precisions, by turn."""
        found = [run for run in self.runs if (run.way, run.variants) == (way, variants)]
        return sorted(found, key=lambda run: run.turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResult:
    """What benchmarks.fleet measured of a fleet of fine-tunes."""

    machine: Machine
    title: str
    weight_bytes: int
    """Of one checkpoint."""
    ours: Cost
    """The one run over all of them."""
    seconds: tuple[Mapping[str, float], ...]
    """For each model in the order of the run: step -> wall time."""
    store_bytes: int
    """All that lies in the store afterwards."""
    peer: tuple[Cost, ...]
    """One process each."""
    peer_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRun:
    """One run of the sleeping fleet."""

    scenario: str
    """``local-staged``, ``celery-2-fused``: the executor, its workers, the tasks of a model; ``cli`` has none."""
    models: int
    step_s: float
    """How long each of three steps slept."""
    ready_s: float = 0.0
    """The seconds until every service was ready."""
    plan_s: float = 0.0
    """The seconds from the trigger to the first model's first task."""
    wall_s: float
    """The seconds of the whole run."""
    cpu_s: Mapping[str, float]
    """Service -> seconds of a core during the run, the tasks that it ran included."""
    peak_bytes: Mapping[str, int]
    """Service -> the most resident memory, added up over its processes."""
    database: Mapping[str, float] = field(default_factory=dict)
    """What the run added: ``xcom_bytes``, ``rows`` of task instances, ``transactions`` where the database counts."""
    store_bytes: int
    """What lies in the store afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One plan of a catalogue of which nothing is published yet, and one of it when everything is known."""

    models: int
    first: Cost
    again: Cost
    """The same, with the Hub's files in the cache."""
    hub_requests: int
    """What the Hub was asked by the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleResult:
    """What benchmarks.scale measured."""

    machine: Machine
    runs: tuple[ScaleRun, ...] = ()
    scans: tuple[Scan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Minimum, median and maximum of some figures."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one figure."""
        listed = sorted(values)
        return cls(least=listed[0], median=statistics.median(listed), most=listed[-1])

    def __str__(self) -> str:
        return f"{self.least:.2f} / {self.median:.2f} / {self.most:.2f}"


def ratios(ours: Iterable[float], peer: Iterable[float]) -> Spread:
    """Ours / peer, turn by turn: what the machine did meanwhile met both sides of a turn alike.

    Raises:
        ValueError: one side has more turns than the other.
    """
    return Spread.of(mine / theirs for mine, theirs in zip(ours, peer, strict=True))


def write(result: object, path: Path) -> None:
    """Keep a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonio.canonical(jsonio.to_json(result)))


def read(kind: type[T], path: Path) -> T | None:
    """A kept result; None where that benchmark has not run."""
    return jsonio.parse(kind, path.read_bytes()) if path.is_file() else None
