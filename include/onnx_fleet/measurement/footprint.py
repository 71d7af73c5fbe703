"""The time and memory that loading a graph and running it once costs a process that serves it.

Called through onnx_fleet.processes.isolation, and torch is never imported here: the peak is the graph's, not PyTorch's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.latency_report import Footprint
from onnx_fleet.graphs.session import open_session, require_provider
from onnx_fleet.graphs.text_frame import Frame
from onnx_fleet.processes import gpu, peak_memory
from onnx_fleet.processes.gpu import GpuOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintRequest:
    """The request that names the graphs to load, and what to run on them."""

    stage_dir: Path
    graphs: tuple[GraphInfo, ...]
    """The graphs of one variant: all are held in memory together, as a consumer holds them."""
    provider: str
    threads: int
    batch_size: int
    sequence_length: int
    frame: Frame = field(default_factory=Frame)
    """The special tokens around a text."""
    gpu: GpuOptions = field(default_factory=GpuOptions)


def take(request: FootprintRequest) -> Footprint:
    """Load every graph, and run each once for every kind of its work.

    Raises:
        GpuUnavailable, ValidationFailed: a graph does not load or run.
    """
    from onnx_fleet.graphs import text_inputs, workloads

    space = text_inputs.of_one_word(request.frame)
    device_id = request.gpu.device_id if require_provider(request.provider).memory == "cuda" else None
    before = None if device_id is None else gpu.memory_used_bytes(device_id)
    sessions = [
        open_session(
            request.stage_dir / info.path,
            provider=request.provider,
            threads=request.threads,
            libraries=info.libraries,
            gpu=request.gpu,
        )
        for info in request.graphs
    ]
    for info, session in zip(request.graphs, sessions, strict=True):
        for work in workloads.of(info, batch_size=request.batch_size, length=request.sequence_length, space=space):
            session.run(work.feeds(info, seed=0))
    after = None if device_id is None else gpu.memory_used_bytes(device_id)
    return Footprint(
        variant=request.graphs[0].variant,
        load_time_s=sum(session.load_time_s for session in sessions),
        peak_memory_bytes=peak_memory.peak_bytes(),
        gpu_memory_bytes=None if before is None or after is None else after - before,
    )
