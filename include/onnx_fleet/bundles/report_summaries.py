"""Summaries: the reports of a stage -> what a manifest says of them, or the reason why there is nothing to publish."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError

from onnx_fleet import jsonio
from onnx_fleet.bundles.manifest import (
    CheckSummary,
    ProviderLatency,
    ProviderValidation,
    Regression,
    Validation,
    VariantSummary,
)
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import CPU, CUDA
from onnx_fleet.entities.regression_report import NAME, RegressionReport
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.variant_report import REPORT_NAME, VariantReport, VariantVerdict, require
from onnx_fleet.errors import ValidationFailed

Report = TypeVar("Report", ValidationReport, VariantReport, LatencyReport, RegressionReport)


def validation(stage: Stage) -> Validation:
    """Return what the validation reports of a stage say.

    Raises:
        ValidationFailed: no report says that the graphs passed on the CPU, or one says that they failed somewhere.
    """
    reports = _reports(stage, "validation", ValidationReport)
    by_provider = {report.provider: report for report in reports}
    required = by_provider.get(CPU)
    if required is None:
        raise ValidationFailed(
            f"{ref_of(stage.item)}: there is no validation report for the CPU; run `onnx-fleet validate {stage.folder}`"
            " before it is published"
        )
    for report in (required, *reports):
        if report.status == "failed" or (report is required and not report.passed):
            raise ValidationFailed(
                f"{ref_of(stage.item)}: validation on {report.provider} is {report.status} ({report.reason});"
                f" read {stage.folder}/reports, correct the export and validate again"
            )
    return Validation(
        passed=True,
        max_abs_diff=max((diff for report in reports if (diff := report.worst_abs_diff) is not None), default=None),
        gpu=_gpu(by_provider.get(CUDA)),
        providers=tuple(
            ProviderValidation(
                provider=report.provider,
                status=report.status,
                reason=report.reason,
                nodes_by_provider=dict(report.nodes_by_provider),
                rests_on=report.rests_on,
                why_full=report.why_full,
            )
            for report in reports
        ),
        checks=tuple(summary for report in reports for summary in summaries(report)),
    )


def variants(stage: Stage) -> tuple[VariantSummary, ...]:
    """Return what the report of a stage says of its variants.

    Raises:
        ValidationFailed: the entry wants some, and there is no report of this very version; or one that the entry
            requires missed its gates.
    """
    wanted = set(stage.item.model.entry.variants) - {FP32}
    reports = _reports(stage, REPORT_NAME, VariantReport) if wanted else ()
    on_cpu = next((report for report in reports if report.provider == CPU), None)
    judged = {verdict.variant for verdict in on_cpu.verdicts} if on_cpu else set()
    if wanted - judged:
        raise ValidationFailed(
            f"{ref_of(stage.item)}: {', '.join(sorted(wanted - judged))} was not evaluated; run"
            f" `onnx-fleet validate {stage.folder}` before it is published"
        )
    for report in reports:
        require(report)
    others = [report for report in reports if report is not on_cpu]
    on_gpu = {verdict.variant: verdict for report in others for verdict in report.verdicts}
    return tuple(_variant(each, on_gpu.get(each.variant)) for each in on_cpu.verdicts) if on_cpu else ()


def latency(stage: Stage) -> tuple[ProviderLatency, ...]:
    """Return what the latency reports of a stage say; nothing where nothing was measured."""
    return tuple(
        ProviderLatency(
            provider=report.provider,
            status=report.status,
            reason=report.reason,
            threads=report.threads,
            load_time_s=report.load_time_s,
            peak_memory_bytes=report.peak_memory_bytes,
            hardware=dict(report.hardware),
            runtime=dict(report.runtime),
            rows=report.rows,
            generation=report.generation,
            footprints=report.footprints,
            noise=report.noise,
            measured_at=report.measured_at,
            taken_over=report.taken_over,
            measured_anew=report.measured_anew,
            values_matter=report.values_matter,
        )
        for report in _reports(stage, "latency", LatencyReport)
    )


def regression(stage: Stage) -> Regression | None:
    """Return what the comparison with the version in use says; None where there was none."""
    found = _reports(stage, NAME, RegressionReport)
    if not found:
        return None
    (report,) = found
    return Regression(
        channel=report.channel,
        compared_with=report.compared_with,
        verdict=report.verdict,
        findings=report.findings,
    )


def _reports(stage: Stage, name: str, kind: type[Report]) -> tuple[Report, ...]:
    """Return each ``reports/<name>*.json``, the CPU's first, all of this very version."""
    reports = []
    for path in sorted((stage.folder / "reports").glob(f"{name}*.json")):
        try:
            report = jsonio.parse(kind, path.read_bytes())
        except (ValueError, ValidationError) as err:
            raise ValidationFailed(f"{path}: is not a {name} report; make it again") from err
        if (report.model_id, report.version) != (stage.item.model_id, stage.item.version):
            raise ValidationFailed(
                f"{path}: is about {ref_of(report)}, the stage is {ref_of(stage.item)}; make it again"
            )
        reports.append(report)
    return tuple(reports)


def _gpu(report: ValidationReport | None) -> str:
    if report is None:
        return "not validated on GPU: it was not asked for"
    return "validated on GPU" if report.passed else f"not validated on GPU: {report.reason}"


def summaries(report: ValidationReport) -> Iterable[CheckSummary]:
    """Return one row per check, graph and output, in the report's order."""
    groups: dict[tuple[str, str, str], list[CheckRow]] = {}
    for row in report.rows:
        groups.setdefault((row.check, row.graph, row.output), []).append(row)
    for (check, graph, output), rows in groups.items():
        worst = max(rows, key=lambda row: (not row.passed, row.max_abs_diff or 0.0))
        yield CheckSummary(
            provider=report.provider,
            check=check,
            graph=graph,
            output=output,
            passed=all(row.passed for row in rows),
            cases=len(rows),
            cases_passed=sum(row.passed for row in rows),
            worst_case=worst.case,
            max_abs_diff=_largest(row.max_abs_diff for row in rows),
            max_rel_diff=_largest(row.max_rel_diff for row in rows),
            atol=worst.atol,
            rtol=worst.rtol,
        )


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _variant(verdict: VariantVerdict, on_gpu: VariantVerdict | None) -> VariantSummary:
    """Summarise one variant on both providers: one that misses its gates on either is in no bundle."""
    missed_there = on_gpu is not None and on_gpu.status == "missed"
    here = sum(graph.weights.layers for graph in verdict.graphs)
    fp32 = sum(graph.fp32_weights.layers for graph in verdict.graphs)
    return VariantSummary(
        variant=verdict.variant,
        status="published" if verdict.status == "published" and not missed_there else "missed",
        reason=verdict.reason if on_gpu is None or not missed_there else f"on a GPU: {on_gpu.reason}",
        gpu=_variant_on_gpu(on_gpu),
        layers_ratio=here / fp32 if fp32 else None,
        kept=tuple(dict.fromkeys(name for graph in verdict.graphs for name in graph.kept)),
    )


def _variant_on_gpu(verdict: VariantVerdict | None) -> str:
    if verdict is None:
        return ""
    said = {"published": "good on a GPU", "missed": "not good on a GPU", "not_run": "not for a GPU"}[verdict.status]
    return f"{said}: {verdict.reason}"
