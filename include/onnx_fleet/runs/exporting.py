"""The step export: a work item becomes a stage with graphs."""

from __future__ import annotations

from contextlib import nullcontext

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.export import exporter
from onnx_fleet.export.cache import Cache
from onnx_fleet.export.exporter import Turn
from onnx_fleet.processes import isolation, profiling
from onnx_fleet.runs.services import Services
from onnx_fleet.store import Progress


def export(
    stage: Stage,
    *,
    services: Services,
    whole: bool = False,
    turn: Turn = nullcontext,
    progress: Progress | None = None,
) -> ExportRecord:
    """Download what is needed and fill a stage; what an earlier export left in it is replaced.

    Args:
        whole: trace this very model with all of its layers, whatever the cache has.
        turn: keeps others from tracing meanwhile what this model traces for all like it.
    """
    from onnx_fleet.source import download

    isolation.prepare(services.limits)
    with profiling.timed("download"):
        source_dir = download.download(stage.item.model, hub=services.hub, progress=progress)
    return exporter.export(
        stage,
        source_dir=source_dir,
        limits=services.export_limits,
        cached=Cache(store=services.store, limit_bytes=services.cache_bytes),
        whole=whole,
        turn=turn,
        link=stage.folder.is_relative_to(services.work_dir),  # a person's folder is theirs to change
    )
