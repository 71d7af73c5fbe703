"""Judge the variants of a stage by its fp32 graphs, on the half of the corpus that nothing was tuned on.

It runs in a process that never saw how they were made. What misses its gates is taken out of the stage.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import report_name
from onnx_fleet.entities.variant import FP32, VARIANTS, VariantGates
from onnx_fleet.entities.variant_report import (
    REPORT_NAME,
    GraphVerdict,
    Measure,
    Status,
    VariantReport,
    VariantVerdict,
    WeightBytes,
    said,
)
from onnx_fleet.errors import GpuUnavailable, ValidationFailed
from onnx_fleet.graphs import description, recorded_feeds, session, text_inputs, workloads
from onnx_fleet.graphs.session import Session
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.progress import Count
from onnx_fleet.variants import accuracy, conversion, preprocessing, weight_error, weight_size
from onnx_fleet.variants.conversion import Made

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingRequest:
    """The request that the process which judges gets."""

    stage: Stage
    made: tuple[Made, ...] = ()
    """The known facts of how the variants were made."""
    provider: str = "cpu"
    """The provider of both sides; the fp32 graphs were proven on it before."""
    gpu: GpuOptions = field(default_factory=GpuOptions)


def judge(request: JudgingRequest) -> VariantReport:
    """Compare every variant with fp32, take those that miss their gates out of the stage, and write the report into it.

    Raises:
        BundleNotFound: nothing was exported into the stage.
    """
    started = time.perf_counter()
    stage = request.stage
    item, record = stage.item, stage.read_export()
    entry = item.model.entry
    fp32 = {info.role: info for info in record.graphs if info.variant == FP32}
    kept = {(made.variant, made.role): made.kept for made in request.made}
    faults = {made.variant: f"{made.role}: {made.fault}" for made in request.made if made.fault}
    verdicts = []
    names = tuple(name for name in VARIANTS if name in entry.variants)
    for name in Count(len(names), "variants judged").each(names):
        gates = entry.variant_gates.get(name, VARIANTS[name].gates)
        own = [info for info in record.graphs if info.variant == name]
        if request.provider != "cpu" and not own:
            continue  # it missed before
        graphs: tuple[GraphVerdict, ...] = ()
        status: Status = "missed"
        try:
            graphs = tuple(
                _judge(request, info, fp32[info.role], gates=gates, kept=kept.get((name, info.role), ()))
                for info in own
            )
            reason = faults.get(name) or (said(graphs) if graphs else "it was not made")
            if len(graphs) == len(fp32) and all(graph.passed for graph in graphs):
                status = "published"
        except GpuUnavailable as err:
            status, reason = "not_run", str(err)
        verdicts.append(
            VariantVerdict(
                variant=name,
                status=status,
                required=name in entry.required_variants,
                reason=reason,
                graphs=graphs,
            )
        )
        log.info("%s: %s %s: %s", ref_of(item), name, verdicts[-1].status, verdicts[-1].reason)
    conversion.remove(stage, record, [verdict.variant for verdict in verdicts if verdict.status == "missed"])
    report = VariantReport(
        model_id=item.model_id,
        version=item.version,
        provider=request.provider,
        verdicts=tuple(verdicts),
        duration_s=time.perf_counter() - started,
    )
    stage.write_report(report_name(REPORT_NAME, request.provider), report)
    return report


def _judge(
    request: JudgingRequest, info: GraphInfo, fp32: GraphInfo, *, gates: VariantGates, kept: tuple[str, ...]
) -> GraphVerdict:
    """Judge one graph of a variant.

    Raises:
        GpuUnavailable: nodes of the variant that compute do not run on the provider.
    """
    stage_dir = request.stage.folder
    source = preprocessing.load(stage_dir / fp32.path)
    tables = preprocessing.embeddings(source.graph)
    samples = list(recorded_feeds.read(stage_dir, info.role, "judging"))
    measures: tuple[Measure, ...] = ()
    weights, fp32_weights = (
        WeightBytes(layers=0, embeddings=0),
        weight_size.weight_bytes(stage_dir / fp32.path, tables=tables),
    )
    fault = "" if samples else "nothing was fed to its fp32 graph, so there is nothing to compare it with"
    try:
        sessions = [_open(request, each) for each in (fp32, info)]
        fault = fault or _differing(stage_dir, info, fp32)
        weights = weight_size.weight_bytes(stage_dir / info.path, tables=tables)
        if not fault:
            rounded = weight_error.measure(stage_dir / info.path, fp32=source, variant=info.variant)
            found = accuracy.between(sessions[0], sessions[1], samples)
            small = weight_size.unavoidable_bytes(source.graph)
            size = weight_size.measure(weights, fp32=fp32_weights, unavoidable=small, gates=gates)
            measures = (rounded, *found.against(gates), size)
    except ValidationFailed as err:
        fault = str(err)
    return GraphVerdict(
        role=info.role,
        path=info.path,
        measures=measures,
        fault=fault,
        samples=len(samples),
        kept=kept,
        weights=weights,
        fp32_weights=fp32_weights,
    )


def _open(request: JudgingRequest, info: GraphInfo) -> Session:
    limits = text_inputs.limits_of_files(request.stage.folder, graphs=(info,))
    space = None if limits is None else text_inputs.token_space(request.stage.folder, limits)
    return session.open_placed(
        request.stage.folder / info.path,
        feeds=workloads.shortest(info, space=space).feeds(info, seed=0),
        provider=request.provider,
        threads=1,
        libraries=info.libraries,
        gpu=request.gpu,
    )


def _differing(stage_dir: Path, info: GraphInfo, fp32: GraphInfo) -> str:
    """Say what differs in names, types and axes from the fp32 graph, as consumers exchange one file for the other."""
    found = description.describe(stage_dir / info.path, role=info.role, variant=info.variant, bundle=stage_dir)
    for what in ("inputs", "outputs"):
        ours, other = getattr(fp32, what), getattr(found, what)
        if ours != other:
            names = {spec.name for spec in set(ours) ^ set(other)}
            return f"its {what} are not those of {fp32.path}: {', '.join(sorted(names)) or 'another order'}"
    return ""
