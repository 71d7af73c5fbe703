"""What loading a graph and running it once costs a process that serves it: time and memory.

Called through onnx_fleet.isolated, and torch is never imported here: the peak is the graph's, not PyTorch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_fleet import inputs, isolated, runtime
from onnx_fleet.inputs import ModelLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintRequest:
    """Which graphs to load, and the point to run them at."""

    stage_dir: Path
    graphs: tuple[str, ...]
    """Relative to the stage; all are held in memory together, as a consumer holds them."""
    provider: str
    threads: int
    limits: ModelLimits
    batch_size: int
    sequence_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What it cost."""

    load_time_s: float
    """To make the sessions from files that are in the page cache."""
    peak_memory_bytes: int
    """Resident, with Python and onnxruntime themselves."""


def take(request: FootprintRequest) -> Footprint:
    """Load every graph, run each one once.

    Raises:
        GpuUnavailable, ValidationFailed: a graph does not load or run.
    """
    space = inputs.token_space(request.stage_dir, request.limits, bound=request.sequence_length)
    batch = inputs.random_batch(space, batch_size=request.batch_size, length=request.sequence_length, seed=0)
    sessions = [
        runtime.open_session(request.stage_dir / path, provider=request.provider, threads=request.threads)
        for path in request.graphs
    ]
    for session in sessions:
        session.run(batch.feeds)
    return Footprint(
        load_time_s=sum(session.load_time_s for session in sessions),
        peak_memory_bytes=isolated.peak_memory_bytes(),
    )
