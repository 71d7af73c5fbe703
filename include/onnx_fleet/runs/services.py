"""What the steps work with: the store, the Hub, a folder of this machine, and the limits of a step's process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.sizing import Capacity
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.export import cache
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.store import ObjectStore

if TYPE_CHECKING:
    from onnx_fleet.source.hub_client import Hub

EXPORT_IMPORTS = (
    "torch._dynamo",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
    "onnxscript.optimizer",
    "onnxscript.rewriter",
    "transformers.exporters.exporter_onnx",
    "onnx_fleet.export.exporter",
    "onnx_fleet.export.model_tracing",
)
"""The modules of an export, which a process to fork steps from imports beside torch and transformers."""
STEP_IMPORTS = (
    "onnx",
    "transformers.generation.utils",
    "transformers.modeling_layers",
    "transformers.pipelines",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "onnx_fleet.source.families.loading",
    "onnx_fleet.validation.checks",
    "onnx_fleet.validation.pipelines",
    "onnx_fleet.runs.proving",
    "onnx_fleet.runs.measuring",
)
"""The modules of validate and measure, but for onnxruntime: importing that starts a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The services that every step of a run gets."""

    store: ObjectStore
    hub: Hub
    work_dir: Path
    """The folder of the stages: on one machine, or on a volume that all workers of a run see."""
    limits: Limits
    """The limits of each process that loads a model."""
    cache_bytes: int = cache.LIMIT_BYTES
    """The size limit of the store's export cache, in bytes; 0 keeps nothing."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    """The GPU of the machine that is used where one is asked for, and how much of it."""
    largest_worker: Capacity = field(default_factory=Capacity)
    """What the largest worker has: a model that is predicted to need more is refused by the plan."""

    @property
    def export_limits(self) -> Limits:
        """Return the limits of an export's process, with the modules that it has imported where it is forked."""
        return replace(self.limits, imports=EXPORT_IMPORTS)

    @property
    def step_limits(self) -> Limits:
        """Return the limits of another step's process, with the modules that it has imported where it is forked."""
        return replace(self.limits, imports=STEP_IMPORTS)

    def stage(self, item: WorkItem) -> Stage:
        """Return the stage of an item's bundle; nothing is made yet."""
        return Stage(self.work_dir / "stages" / item.model_id / item.version, item)
