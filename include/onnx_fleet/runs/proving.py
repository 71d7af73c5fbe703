"""The step validate: a stage's fp32 graphs beside PyTorch, then its variants, which are made here, beside these.

The commands for single steps, the rows of STEPS and audits call these functions.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from onnx_fleet.bundles.kept_documents import PROOFS
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.kept_proof import KeptProof
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import Provider, report_name
from onnx_fleet.entities.validation_report import FullProof, ValidationReport
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.variant_report import REPORT_NAME, VariantReport, require
from onnx_fleet.processes import profiling
from onnx_fleet.runs import exporting, step_process
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.step_process import Subject
from onnx_fleet.validation import validator

if TYPE_CHECKING:
    from onnx_fleet.variants import conversion
    from onnx_fleet.variants.conversion import Made

log = logging.getLogger(__name__)

ONE_IN: Final = 20
"""One bundle of so many is compared whole all the same, although its graphs are proven already."""
FULL_AFTER: Final = timedelta(days=7)
"""The age of a whole proof at which the next bundle with its graphs is compared whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The findings of a validation on one provider."""

    graphs: ValidationReport
    """The comparison of the fp32 graphs with PyTorch."""
    variants: VariantReport | None = None
    """The comparison of the variants with fp32; None where the entry wants none, or the fp32 graphs are wrong."""


def validate(stage: Stage, *, services: Services) -> Proof:
    """Prove a stage: its fp32 graphs beside PyTorch, then the variants that its entry wants beside these.

    Graphs that were not traced from this very model, whole, and are not right get a second chance that way, unless
    someone has changed them since. A variant that misses its gates is taken out of the stage, and its report says so.
    Wrong fp32 graphs raise nothing here: the report tells, and validation_report.require_passed raises.

    Raises:
        ValidationFailed: an entry's required variant missed its gates.
    """
    report = validate_graphs(stage, services=services)
    if not report.passed and stage.read_export().traced != "full" and not stage.is_changed():
        item, traced = stage.item, stage.read_export().traced
        log.warning("%s: its %s graphs do not match PyTorch; tracing it whole", ref_of(item), traced)
        exporting.export(stage, services=services, whole=True)
        report = validate_graphs(stage, services=services)
    return Proof(graphs=report, variants=make_variants(stage, services=services) if report.passed else None)


def validate_on_gpu(stage: Stage, *, services: Services) -> Proof:
    """Prove a stage that is right on the CPU on the GPU too.

    A variant that misses its gates there is taken out of the stage; one that CUDA has not all the operators of stays.

    Raises:
        ValidationFailed: an entry's required variant missed its gates.
    """
    report = validate_graphs(stage, services=services, provider="cuda")
    return Proof(graphs=report, variants=_judge_on_gpu(stage, services=services) if report.passed else None)


def validate_graphs(
    stage: Stage, *, services: Services, provider: Provider = "cpu", full: bool = False
) -> ValidationReport:
    """Compare a stage's fp32 graphs with PyTorch, in a process that never saw the export.

    Graphs that the store has a whole proof of, with other weights, are compared in part: with all that the weights and
    the files beside the graphs decide. Where that finds a fault, they are compared whole, and that counts. The GPU is
    always compared whole.

    Args:
        full: compare them whole, whatever the store has.
    """
    from onnx_fleet.validation import proof_key  # imports numpy

    with profiling.timed("validate"):
        about = step_process.subject(stage, services=services, provider=provider)
        key = proof_key.of_stage(stage, source_dir=about.source_dir) if provider == "cpu" else None
        standing = next(iter(PROOFS.find([key], store=services.store)), None) if key else None
        rests_on, why_full = standing.named if standing else None, ""
        if rests_on is not None:
            why_full = "that was asked for" if full else _why_full(stage, rests_on, now=datetime.now(UTC))
        if rests_on is not None and not why_full:
            report = _compared(_Request(about=about, rests_on=rests_on), services=services)
            if report.passed:
                return report
            why_full = f"the proof of {rests_on.origin}, repeated with these weights, failed: {report.reason}"
            log.warning("%s: %s", ref_of(stage.item), why_full)
        report = _compared(_Request(about=about, why_full=why_full), services=services)
        if key and report.passed:
            PROOFS.keep(KeptProof(key=key, proven_at=datetime.now(UTC), report=report), store=services.store)
        return report


def make_variants(stage: Stage, *, services: Services) -> VariantReport | None:
    """Make the variants that a proven stage's entry wants, and judge each in a process that never saw it made.

    Returns:
        None where the entry wants no variants.
    Raises:
        ValidationFailed: an entry's required variant missed its gates.
    """
    from onnx_fleet.variants import conversion

    if set(stage.item.model.entry.variants) == {FP32}:
        return None
    stage.report(report_name(REPORT_NAME, "cuda")).unlink(missing_ok=True)  # it is about those before
    made = _made(conversion.MakingRequest(stage=stage, searches=False), services=services)
    report = judge_variants(stage, services=services, made=made)
    if missed := _improvable(report, made):
        log.info("%s: looking for what to leave in float32 in %s", ref_of(stage.item), ", ".join(missed))
        better = _made(conversion.MakingRequest(stage=stage, only=missed), services=services)
        report = judge_variants(stage, services=services, made=better, only=missed)
    require(report)
    return report


def _made(request: conversion.MakingRequest, *, services: Services) -> tuple[Made, ...]:
    from onnx_fleet.variants import conversion

    with profiling.timed("variants"):
        return step_process.run(
            conversion.make, request, stage=request.stage, provider="cpu", services=services, step="variants"
        ).made


def _improvable(report: VariantReport, made: tuple[Made, ...]) -> tuple[str, ...]:
    """Return the variants that missed their gates and could be made."""
    impossible = {each.variant for each in made if each.fault}
    missed = (verdict.variant for verdict in report.verdicts if verdict.status == "missed")
    return tuple(variant for variant in missed if variant not in impossible)


def judge_variants(
    stage: Stage,
    *,
    services: Services,
    made: tuple[Made, ...] = (),
    only: tuple[str, ...] | None = None,
    provider: Provider = "cpu",
) -> VariantReport:
    """Hold the variants of a stage to its fp32 graphs, in a process that never saw them made.

    One that misses its gates is taken out of the stage, and the report says so.

    Args:
        made: what is known of how they were made.
        only: those that were made anew since all were judged; None judges all.
    """
    from onnx_fleet.variants import evaluation

    request = evaluation.JudgingRequest(stage=stage, made=made, only=only, provider=provider, gpu=services.gpu)
    with profiling.timed("variants"):
        return step_process.run(
            evaluation.judge, request, stage=stage, provider=provider, services=services, step="variants"
        )


def without_gpu(stage: Stage, *, reason: str) -> None:
    """Record in a stage that nothing ran on a GPU, and why."""
    report = ValidationReport(
        model_id=stage.item.model_id,
        version=stage.item.version,
        provider="cuda",
        status="not_run",
        reason=reason,
        rows=(),
        nodes_by_provider={},
        duration_s=0.0,
    )
    stage.write_report(report_name("validation", "cuda"), report)


def _judge_on_gpu(stage: Stage, *, services: Services) -> VariantReport | None:
    if {info.variant for info in stage.read_export().graphs} == {FP32}:
        return None
    report = judge_variants(stage, services=services, provider="cuda")
    require(report)
    return report


def is_sampled(ref: str) -> bool:
    """Say whether a bundle, ``model@version``, is one of those that are compared whole for a sample."""
    return int(hashlib.sha256(ref.encode()).hexdigest(), 16) % ONE_IN == 0


def _why_full(stage: Stage, proven: FullProof, *, now: datetime) -> str:
    """Return why a bundle is compared whole whose graphs are proven; empty where it need not be."""
    from onnx_fleet.validation import calibration_feeds  # imports numpy

    item, entry = stage.item, stage.item.model.entry
    if entry.proof == "full":
        return "its entry says proof: full"
    if item.rebuild is not None:
        return "somebody asked for this bundle to be made again"
    if set(entry.variants) != {FP32} and not calibration_feeds.asks(stage):
        return "its variants are tuned with what a whole proof feeds the graphs"
    if now - proven.proven_at > FULL_AFTER:
        return f"the proof of {proven.origin} is more than {FULL_AFTER.days} days old"
    if is_sampled(ref_of(item)):
        return f"one in {ONE_IN} is compared whole"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the process that compares is given."""

    about: Subject
    rests_on: FullProof | None = None
    why_full: str = ""


def _compared(request: _Request, *, services: Services) -> ValidationReport:
    about = request.about
    return step_process.run(
        _validate, request, stage=about.stage, provider=about.provider, services=services, step="validate"
    )


def _validate(request: _Request) -> ValidationReport:
    about = request.about
    return validator.validate(
        about.stage,
        source_dir=about.source_dir,
        provider=about.provider,
        gpu=about.gpu,
        rests_on=request.rests_on,
        why_full=request.why_full,
    )
