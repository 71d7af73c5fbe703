"""Records: each model of a run ends with one, and it says plainly what was proven and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onnx_fleet.bundles import manifest
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.entities.work_item import Refusal, WorkItem
from onnx_fleet.errors import (
    DuplicateModel,
    ExportUnsupported,
    HubUnavailable,
    LicenceRefused,
    ModelGated,
    ModelInvalid,
    ModelNotFound,
    ModelTooLarge,
    OnnxFleetError,
    UnsafeModel,
)
from onnx_fleet.runs import record


def work_item(*, providers: tuple[str, ...] = ("cpu",)) -> WorkItem:
    model = ResolvedModel(
        entry=Entry(repo_id="acme/tiny", providers=providers),
        repo_id="acme/tiny",
        commit="3f2a1c0" + "0" * 33,
        task="fill-mask",
        architecture="BertForMaskedLM",
        model_type="bert",
        licence="mit",
        gated=False,
        files=(),
        needed=(),
    )
    return WorkItem(
        model=model,
        family="encoder",
        fingerprint="ab" * 32,
        version="3f2a1c00-abababab",
        state="new",
        reason="nothing is published yet",
        toolchain={"torch": "2.13.0"},
    )


def validated(*diffs: float, status: str = "passed", reason: str = "", provider: str = "cpu") -> ValidationReport:
    rows = tuple(
        CheckRow(
            check="parity", graph="onnx/model.onnx", case="batch_size 1", output="logits", passed=True, finding="equal",
            max_abs_diff=diff, max_rel_diff=diff, atol=1e-4, rtol=1e-3,
        )
        for diff in diffs
    )  # fmt: skip
    return ValidationReport(
        model_id="acme/tiny",
        version="3f2a1c00-abababab",
        provider=provider,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        rows=rows,
        nodes_by_provider={"CUDAExecutionProvider": 140, "CPUExecutionProvider": 2} if provider == "cuda" else {},
        duration_s=1.0,
    )


def golden(*points: tuple[int, int, float]) -> Manifest:
    """The golden manifest with another latency grid: batch size, length, p50."""
    made = manifest.read((Path(__file__).parents[1] / "golden/manifest-v1.json").read_bytes())
    (cpu,) = (each for each in made.latency if each.provider == "cpu")
    rows = tuple(
        replace(
            cpu.rows[0], batch_size=batch, sequence_length=length, latency_ms_p50=p50, latency_ms_p95=p50 * 2,
            ratio_to_torch=0.5,
        )
        for batch, length, p50 in points
    )  # fmt: skip
    return replace(made, latency=(replace(cpu, rows=rows),))


def test_a_bundle_tells_the_worst_difference_and_the_latency_of_one_row_at_full_length() -> None:
    standing = golden((8, 128, 40.0), (1, 16, 2.0), (1, 128, 5.0))
    made = record.of_bundle(
        work_item(),
        state="published",
        location="s3://fleet/models/acme/tiny/3f2a1c00-abababab",
        manifest=standing,
        spent={"export": StepCost(memory_bytes=700, disk_bytes=900, seconds=8.5)},
    )
    assert (made.state, made.version, made.location) == (
        "published",
        "3f2a1c00-abababab",
        "s3://fleet/models/acme/tiny/3f2a1c00-abababab",
    )
    assert made.worst_abs_diff == standing.validation.max_abs_diff
    assert made.size_bytes == standing.size_bytes
    assert (made.latency_ms_p50, made.latency_ms_p95, made.ratio_to_torch) == (5.0, 10.0, 0.5)
    assert made.latency_at == "batch 1 × 128 tokens"
    assert made.gpu == "not asked for"
    assert made.reason == "nothing is published yet"
    assert (made.seconds, made.memory_bytes, made.disk_bytes) == ({"export": 8.5}, {"export": 700}, {"export": 900})


def test_without_a_measurement_there_are_no_numbers() -> None:
    made = record.of_bundle(work_item(), state="unchanged", location="x", manifest=golden())
    assert (made.state, made.latency_ms_p50, made.latency_at) == ("unchanged", None, None)


@pytest.mark.parametrize(
    ("report", "statement"),
    [
        (None, "not validated on GPU: no report came from the GPU queue"),
        (validated(status="not_run", reason="no GPU worker", provider="cuda"), "not validated on GPU: no GPU worker"),
        (validated(0.5, status="failed", reason="logits differ", provider="cuda"), "wrong on GPU: logits differ"),
        (
            validated(1e-6, provider="cuda"),
            "validated on cuda: 2 nodes on CPUExecutionProvider, 140 nodes on CUDAExecutionProvider",
        ),
    ],
)
def test_the_gpu_statement_says_what_ran_there(report: ValidationReport | None, statement: str) -> None:
    assert record.gpu_statement(work_item(providers=("cpu", "cuda")), report) == statement


def test_a_gpu_report_that_nobody_asked_for_is_not_claimed() -> None:
    assert record.gpu_statement(work_item(), validated(provider="cuda")) == "not asked for"


def test_a_failed_validation_keeps_how_far_the_outputs_were_apart() -> None:
    made = record.of_failure(
        work_item(), step="validate", error="ValidationFailed", message="logits differ", validation=validated(0.25)
    )
    assert (made.state, made.step, made.error) == ("failed", "validate", "ValidationFailed")
    assert made.worst_abs_diff == 0.25
    assert made.version == "3f2a1c00-abababab"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (LicenceRefused("no"), "refused"),
        (ModelTooLarge("no"), "refused"),
        (UnsafeModel("no"), "refused"),
        (DuplicateModel("no"), "refused"),
        (HubUnavailable("no"), "failed"),
        (ModelNotFound("no"), "failed"),
        (ModelGated("no"), "failed"),
        (ModelInvalid("no"), "failed"),
        (ExportUnsupported("no"), "failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OnnxFleetError) else value,
)
def test_only_a_rule_of_the_catalogue_refuses_a_model(error: OnnxFleetError, state: str) -> None:
    made = record.of_refusal(Refusal.of("a/b", error, step="resolve"))
    assert (made.state, made.step, made.error, made.message) == (state, "resolve", type(error).__name__, "no")
    later = record.of_failure(work_item(), step="export", error=type(error).__name__, message="no")
    assert (later.state, later.step) == (state, "export")


def test_an_error_that_nobody_foresaw_is_a_failure() -> None:
    assert record.of_failure(work_item(), step="export", error="ZeroDivisionError", message="no").state == "failed"
