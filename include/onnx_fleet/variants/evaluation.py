"""Judge the variants of a stage by its fp32 graphs, on the half of the corpus that nothing was tuned on.

It runs in a process that never saw how they were made. What misses its gates is taken out of the stage.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import report_name
from onnx_fleet.entities.variant import FP32, VARIANTS
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
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.graphs.session import Session
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.progress import Count
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.variants import accuracy, conversion, preprocessing, weight_error, weight_size
from onnx_fleet.variants.accuracy import Remembering
from onnx_fleet.variants.conversion import Made
from onnx_fleet.variants.preprocessing import Prepared

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingRequest:
    """The request that the process which judges gets."""

    stage: Stage
    made: tuple[Made, ...] = ()
    """The known facts of how the variants were made."""
    only: tuple[str, ...] | None = None
    """The variants that were made since the others were judged; None judges all."""
    provider: str = "cpu"
    """The provider of both sides; the fp32 graphs were proven on it before."""
    gpu: GpuOptions = field(default_factory=GpuOptions)


def judge(request: JudgingRequest) -> VariantReport:
    """Compare variants with fp32, take those that miss their gates out of the stage, and write the report into it.

    Raises:
        BundleNotFound: nothing was exported into the stage.
    """
    started = time.perf_counter()
    stage, report_file = request.stage, report_name(REPORT_NAME, request.provider)
    item, record = stage.item, stage.read_export()
    standing = stage.read_report(report_file, VariantReport) if request.only is not None else None
    known = {verdict.variant: verdict for verdict in standing.verdicts} if standing else {}
    names = tuple(name for name in VARIANTS if name in item.model.entry.variants)
    asked = names if request.only is None else request.only
    judged = _Judged(request=request)
    fp32 = [info for info in record.graphs if info.variant == FP32]
    made = [info for info in record.graphs if info.variant in asked]
    count = Count(len(made), "variants judged")
    for original in fp32:
        beside = _Original(request=request, info=original)
        for info in count.each(info for info in made if info.role == original.role):
            judged.take(info, beside)
    for name in asked:
        if request.provider == "cpu" or any(info.variant == name for info in made):  # else it missed before
            known[name] = judged.verdict(name, graphs=len(fp32))
            log.info("%s: %s %s: %s", ref_of(item), name, known[name].status, known[name].reason)
    verdicts = tuple(known[name] for name in names if name in known)
    conversion.remove(stage, record, [verdict.variant for verdict in verdicts if verdict.status == "missed"])
    report = VariantReport(
        model_id=item.model_id,
        version=item.version,
        provider=request.provider,
        verdicts=verdicts,
        duration_s=time.perf_counter() - started + (standing.duration_s if standing else 0),
    )
    stage.write_report(report_file, report)
    return report


@dataclass(kw_only=True)
class _Original:
    """The fp32 graph of a role, which every variant of it is held to: read once, and run once on each sample."""

    request: JudgingRequest
    info: GraphInfo

    @property
    def path(self) -> Path:
        return self.request.stage.folder / self.info.path

    @cached_property
    def source(self) -> Prepared:
        return preprocessing.load(self.path)

    @cached_property
    def tables(self) -> frozenset[str]:
        return preprocessing.embeddings(self.source.model.graph)

    @cached_property
    def weights(self) -> WeightBytes:
        return weight_size.weight_bytes(self.path, tables=self.tables)

    @cached_property
    def session(self) -> Remembering:
        return Remembering(partial(_open, self.request, self.info))

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(recorded_feeds.read(self.request.stage.folder, self.info.role, "judging"))


@dataclass(kw_only=True)
class _Judged:
    """The verdicts so far."""

    request: JudgingRequest
    graphs: dict[str, tuple[GraphVerdict, ...]] = field(default_factory=dict)
    """The graphs that were judged, by their variant."""
    not_run: dict[str, str] = field(default_factory=dict)
    """Why a variant does not run on the provider."""

    def take(self, info: GraphInfo, original: _Original) -> None:
        """Judge one graph, unless another one of its variant does not run."""
        if info.variant in self.not_run:
            return
        try:
            judged = self._judge(info, original)
        except GpuUnavailable as err:
            self.not_run[info.variant] = str(err)
        else:
            self.graphs[info.variant] = (*self.graphs.get(info.variant, ()), judged)

    def verdict(self, name: str, *, graphs: int) -> VariantVerdict:
        """Return what follows for a variant.

        Args:
            graphs: the number that it has to have.
        """
        entry = self.request.stage.item.model.entry
        judged = self.graphs.get(name, ())
        faults = {made.variant: f"{made.role}: {made.fault}" for made in self.request.made if made.fault}
        status: Status = "published" if len(judged) == graphs and all(graph.passed for graph in judged) else "missed"
        reason = faults.get(name) or (said(judged) if judged else "it was not made")
        if name in self.not_run:
            judged, status, reason = (), "not_run", self.not_run[name]
        return VariantVerdict(
            variant=name, status=status, required=name in entry.required_variants, reason=reason, graphs=judged
        )

    def _judge(self, info: GraphInfo, original: _Original) -> GraphVerdict:
        """Judge one graph of a variant.

        Raises:
            GpuUnavailable: nodes of the variant that compute do not run on the provider.
        """
        request, stage_dir, samples = self.request, self.request.stage.folder, original.samples
        gates = request.stage.item.model.entry.variant_gates.get(info.variant, VARIANTS[info.variant].gates)
        kept = {(made.variant, made.role): made.kept for made in request.made}
        measures: tuple[Measure, ...] = ()
        weights = WeightBytes(layers=0, embeddings=0)
        fault = "" if samples else "nothing was fed to its fp32 graph, so there is nothing to compare it with"
        try:
            session = _open(request, info)
            fault = fault or _differing(stage_dir, info, original.info)
            weights = weight_size.weight_bytes(stage_dir / info.path, tables=original.tables)
            if not fault:
                rounded, found = beside(
                    partial(weight_error.measure, stage_dir / info.path, fp32=original.source, variant=info.variant),
                    partial(accuracy.between, original.session, session, samples),
                )
                small = weight_size.unavoidable_bytes(original.source.model.graph)
                size = weight_size.measure(weights, fp32=original.weights, unavoidable=small, gates=gates)
                measures = (rounded, *found.against(gates), size)
        except ValidationFailed as err:
            fault = str(err)
        return GraphVerdict(
            role=info.role,
            path=info.path,
            measures=measures,
            fault=fault,
            samples=len(samples),
            kept=kept.get((info.variant, info.role), ()),
            weights=weights,
            fp32_weights=original.weights,
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
