"""The report of a measurement: latencies beside PyTorch's, load time, memory, and the machine's noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from pydantic import AwareDatetime, ConfigDict

from onnx_fleet.entities.naming import ref_of

Interval: TypeAlias = tuple[float, float]
"""The two ends of an interval, the lower one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One graph at one point of the grid. An interval is one of 95 %, or None where the runs are too few for it."""

    graph: str
    role: str = ""
    """The graph's role, which all variants have alike; empty in older reports."""
    variant: str
    phase: str = "forward"
    """``forward``; ``prompt`` and ``step`` of a graph with a cache; ``encode`` of an encoder before a decoder."""
    batch_size: int
    sequence_length: int | None
    """The number of tokens in a row: of the prompt, of the encoder's input, or up to the end of the step. None where
    there are none."""
    warmup_runs: int | None = None
    settled: bool | None = None
    """Whether both sides had stopped becoming faster when the clock started."""
    timed_runs: int
    """The runs of each side; fewer than the entry asks for where the point's time ran out, or where they are as precise
    as it wants them."""
    latency_ms_p50: float
    latency_ms_p50_interval: Interval | None = None
    latency_ms_p90: float
    latency_ms_p95: float
    latency_ms_p95_interval: Interval | None = None
    latency_ms_p99: float
    throughput_per_s: float
    """The rows of a batch that are done in a second, at p50."""
    torch_latency_ms_p50: float
    """PyTorch eager on the same inputs and threads, interleaved in the same run."""
    torch_latency_ms_p50_interval: Interval | None = None
    ratio_to_torch: float
    """latency_ms_p50 / torch_latency_ms_p50: below 1 is faster than PyTorch."""
    ratio_to_torch_interval: Interval | None = None

    @property
    def at(self) -> str:
        """Name the point for people: ``batch 1 × 16 tokens``, ``step, batch 1 × 16 tokens``."""
        return _point(self.phase, self.batch_size, self.sequence_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRow:
    """What a user of a generative model waits for, at one point of the grid; sampling is not in it."""

    variant: str
    batch_size: int
    sequence_length: int | None
    first_token_ms_p50: float
    """The time of the prompt, or of the encoder and the decoder's first call."""
    first_token_ms_p50_interval: Interval | None
    torch_first_token_ms_p50: float
    tokens_per_s: float
    """The tokens a second of all rows together: each row makes one a step, behind a cache of sequence_length."""
    tokens_per_s_interval: Interval | None
    torch_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """Every point of the grid on one provider."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    version: str
    measured_at: AwareDatetime | None = None
    """When this report was made; the figures that it has from another bundle are older, as taken_over says."""
    provider: str
    status: Literal["measured", "not_run"]
    reason: str
    """Why nothing was measured, or what to beware of: a noisy machine."""
    rows: tuple[LatencyRow, ...]
    taken_over: tuple[TakenOver, ...] = ()
    """The variants whose figures were measured on another bundle's graphs, which are the same but for their weights."""
    measured_anew: tuple[MeasuredAnew, ...] = ()
    """The variants of which there were such figures, and which were measured nevertheless."""
    values_matter: str = ""
    """Why the values of these weights may decide how long a call takes, so that nothing is taken over from this bundle
    or by it; empty where they do not, and where nothing may be taken over anyway."""
    generation: tuple[GenerationRow, ...] = ()
    """The rows of a model that generates with a cache; others have none."""
    skipped: tuple[SkippedPoint, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """The variants that have nodes which compute and do not run on this provider."""
    io_binding: bool = False
    """Whether inputs and outputs stayed where the graphs compute."""
    footprints: tuple[Footprint, ...] = ()
    """What each variant takes to be loaded and run."""
    load_time_s: float | None
    """Seconds to make the sessions of the first variant, once, from the files on disk."""
    peak_memory_bytes: int | None
    """The memory of a process without torch that loads the first variant's graphs and runs the largest point."""
    noise: Noise | None = None
    """What else the machine did while the rows were taken."""
    threads: int
    hardware: Mapping[str, str | int]
    runtime: Mapping[str, str]
    """The versions of the packages, and the method in words."""
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A few calls of a bundle's own graph, beside a figure that was measured on another bundle's."""

    graph: str
    variant: str
    phase: str
    batch_size: int
    sequence_length: int | None
    timed_runs: int
    latency_ms_p50: float
    latency_ms_p50_interval: Interval
    measured_ms_p50: float
    """The figure that these calls are held to."""
    allowed_ratio: float
    """The factor by which the two medians' intervals may be apart, by the noise of the machine then and now."""
    agrees: bool

    @property
    def at(self) -> str:
        """Name the point for people, as LatencyRow.at does."""
        return _point(self.phase, self.batch_size, self.sequence_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """Where the figures of one variant come from, which were not measured on this bundle's own graphs."""

    variant: str
    model_id: str
    version: str
    measured_at: AwareDatetime
    hardware: Mapping[str, str | int]
    noise: Noise | None = None
    """What else the machine did while they were measured."""
    confirmations: tuple[Confirmation, ...]
    """The calls of this bundle's graphs that agree with them; empty for a variant that is not timed."""

    @property
    def origin(self) -> str:
        """Name the measurement for people: ``acme/tiny@0123abcd-4567ef01, measured on 2026-11-29``."""
        return f"{ref_of(self)}, measured on {self.measured_at:%Y-%m-%d}"


def by_origin(taken_over: Iterable[TakenOver]) -> dict[str, tuple[str, ...]]:
    """Return the variants that come from each origin, in their order."""
    found: dict[str, tuple[str, ...]] = {}
    for each in taken_over:
        found[each.origin] = (*found.get(each.origin, ()), each.variant)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAnew:
    """One variant of which there were another bundle's figures that were not taken over."""

    variant: str
    reason: str
    """Why they were not, for people."""
    confirmations: tuple[Confirmation, ...] = ()
    """The calls that did not agree with them, and those that did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedPoint:
    """A point of the grid that the model cannot take."""

    batch_size: int
    sequence_length: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A variant that is not timed."""

    variant: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What else the machine did."""

    verdict: Literal["quiet", "noisy"]
    reason: str
    """The figures, and what they must not pass, for people."""
    spread: float
    """How much longer than the fastest the slowest tenth of the kernel's runs took: 0.1 is a tenth longer."""
    waiting_share: float
    """The share of the kernel's time in which its threads waited for a core."""
    kernel_ms_fastest: float
    kernel_runs: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one variant takes to be loaded and run."""

    variant: str
    load_time_s: float
    """The seconds that sessions take to be made of files that are in the page cache."""
    peak_memory_bytes: int
    """The resident memory, with Python and onnxruntime themselves."""
    gpu_memory_bytes: int | None = None
    """The GPU's memory that was taken afterwards, by the process's context too: onnxruntime returns nothing before
    its end. None where no GPU computed. Other processes must leave the GPU alone meanwhile."""


def _point(phase: str, batch_size: int, sequence_length: int | None) -> str:
    size = f"batch {batch_size}" + (f" × {sequence_length} tokens" if sequence_length else "")
    return size if phase == "forward" else f"{phase}, {size}"
