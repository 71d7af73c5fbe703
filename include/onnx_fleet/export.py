"""Export: a work item and its source files -> a stage with graphs, tokenizer and configuration."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet import graph, isolated, stage, tokenizer, toolchain, weights
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graph import GraphInfo
from onnx_fleet.isolated import Limits
from onnx_fleet.plan import WorkItem
from onnx_fleet.stage import ExportRecord, Fallback

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_fleet.families import GraphSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What the export's process is told."""

    item: WorkItem
    source_dir: Path
    stage: Path


def export(item: WorkItem, *, source_dir: Path, stage_dir: Path, limits: Limits) -> ExportRecord:
    """Fill a stage; whatever an earlier attempt left in it is removed first.

    Args:
        source_dir: the model's files, as hub.download gives them.
        limits: of the process that traces.
    Raises:
        ExportUnsupported: the exporter refuses the model, an axis or input would be lost, or this worker has other
            packages than the plan was made with.
        ModelInvalid: the source's weights or tokenizer cannot be used.
        WorkerOutOfResources, StepTimedOut, StepCrashed: the process passed a limit or died.
    """
    _require_toolchain(item)
    if stage_dir.exists():
        shutil.rmtree(stage_dir)
    stage.write_work(stage_dir, item)
    request = ExportRequest(item=item, source_dir=source_dir, stage=stage_dir)
    outcome = isolated.run(fill, request, limits=limits, log=stage_dir / stage.PRIVATE / "export.log")
    record = replace(outcome.value, duration_s=outcome.duration_s, peak_memory_bytes=outcome.peak_memory_bytes)
    stage.write_export(stage_dir, record)
    log.info(
        "exported %s@%s in %.1f s, %d MB", item.model_id, item.model.commit[:8], record.duration_s,
        record.peak_memory_bytes >> 20,
    )  # fmt: skip
    return record


def fill(request: ExportRequest) -> ExportRecord:
    """What the export's process does; imports torch."""
    from onnx_fleet import families

    item = request.item
    tokenizer.pack(item.model, source_dir=request.source_dir, stage=request.stage)
    family = families.family(item.family)
    module = family.load(item, request.source_dir)
    graphs: list[GraphInfo] = []
    fallbacks: list[Fallback] = []
    for spec in family.graphs(item, module):
        model, taken = trace(spec, opset=item.model.entry.opset)
        fallbacks += taken
        graph.finish(
            model,
            inputs=spec.inputs,
            outputs=spec.outputs,
            parameter_prefix=spec.parameter_prefix,
            metadata=_metadata(item),
        )
        path = request.stage / "onnx" / f"{spec.role}.onnx"
        weights.save(model, path)
        graph.check(path)
        graphs.append(graph.describe(path, role=spec.role, variant="fp32", bundle=request.stage))
    return ExportRecord(
        graphs=tuple(graphs),
        settings={"opset": item.model.entry.opset, "attention": "eager", "optimize": not fallbacks},
        recipe=item.model.entry.recipe,
        fallbacks=tuple(fallbacks),
        toolchain=item.toolchain,
        duration_s=0.0,
        peak_memory_bytes=0,
    )


def trace(spec: GraphSpec, *, opset: int) -> tuple[ir.Model, tuple[Fallback, ...]]:
    """Trace one graph, with the optimizer where it holds.

    Raises:
        ExportUnsupported: neither way works; the message carries the exporter's reason.
    """
    try:
        return _trace(spec, opset=opset, optimize=True), ()
    except Exception as err:  # the exporter raises anything, from any layer of torch
        log.warning("tracing with the optimizer failed: %s", err, exc_info=err)
        reason = _first_line(err)
    try:
        model = _trace(spec, opset=opset, optimize=False)
    except Exception as err:
        raise ExportUnsupported(
            f"{spec.role}: the model cannot be traced ({_first_line(err)}); give it a recipe, another task or another "
            f"opset"
        ) from err
    return model, (Fallback(what="optimizer on -> off", why=reason),)


def _trace(spec: GraphSpec, *, opset: int, optimize: bool) -> ir.Model:
    import torch
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    dynamic = {
        name: {axis: torch.export.Dim.AUTO for axis, symbol in enumerate(shape) if isinstance(symbol, str)}
        for name, shape in spec.inputs.items()
    }
    config = OnnxConfig(dynamic=True, dynamic_shapes=dynamic, opset_version=opset, optimize=optimize)
    exporter = OnnxExporter()  # type: ignore[no-untyped-call]
    exported = exporter.export(spec.module, dict(spec.example_inputs), config)  # type: ignore[arg-type]
    program: ir.Model = exported.program
    return program


def _require_toolchain(item: WorkItem) -> None:
    """The fingerprint names the packages; graphs that others made must not stand under it."""
    installed = toolchain.versions()
    differing = [
        f"{name} {version} (here {installed.get(name)})"
        for name, version in item.toolchain.items()
        if installed.get(name) != version
    ]
    if differing:
        raise ExportUnsupported(
            f"{item.model_id}: planned with {', '.join(differing)}; install the same requirements.txt on every worker"
        )


def _metadata(item: WorkItem) -> Mapping[str, str]:
    return {
        "onnx_fleet.model_id": item.model_id,
        "onnx_fleet.commit": item.model.commit,
        "onnx_fleet.task": item.model.task,
        "onnx_fleet.fingerprint": item.fingerprint,
    }


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0] if lines else 'no message'}"
