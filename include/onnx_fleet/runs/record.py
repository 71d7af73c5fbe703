"""The record: how one model ended in one run. Every model of a run gets exactly one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from onnx_fleet import errors
from onnx_fleet.bundles.manifest import Manifest, ProviderValidation, Regression, VariantSummary
from onnx_fleet.entities.latency_report import LatencyRow
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.sizing import Estimate, StepCost
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.work_item import Refusal, WorkItem

RecordState = Literal["failed", "refused", "held", "waiting", "published", "unchanged"]
"""The states in reading order, the most urgent first.

``refused``: by a rule of the catalogue; ``held``: published, and its gates keep the channel from it; ``waiting``: for
its turn in a rollout.
"""

GPU_NOT_ASKED = "not asked for"


class _Spent(TypedDict):
    """The fields of a record that say what the steps took."""

    seconds: Mapping[str, float]
    memory_bytes: Mapping[str, int]
    disk_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRecord:
    """The outcome of one variant of a bundle."""

    variant: str
    status: Literal["published", "missed"]
    """Whether the variant is in the bundle; ``missed``: it is not."""
    reason: str
    """The variant's figures and their gates; of one that missed, the figures that did."""
    layers_ratio: float | None
    """The bytes of the layers' weights as a share of their bytes in fp32."""
    latency_ms_p50: float | None
    """The median latency at the point that ``latency_at`` of the record names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The outcome of one model in one run."""

    model_id: str
    state: RecordState
    commit: str | None = None
    """The source's commit, 40 hex digits; None when the model was not resolved."""
    version: str | None = None
    """The bundle's version; of a failed model, the one that it would have had."""
    renamed_from: str | None = None
    """The id that the entry names, where the Hub has another one by now: what was published stays under that one."""
    task: str | None = None
    reason: str = ""
    """A statement of why the plan took the model as new, changed or unchanged."""
    step: str | None = None
    """The step that refused the model or failed: resolve, plan, export, validate, measure, compare, publish."""
    error: str | None = None
    """The error class's name."""
    message: str = ""
    """A statement of what happened, where, and what to do next, of a refusal, a failure or a held version."""
    worst_abs_diff: float | None = None
    """The largest absolute difference of all comparisons with PyTorch."""
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    latency_noisy: bool = False
    """Whether the machine was noisy meanwhile: another run may find other figures."""
    proof_from: str | None = None
    """The bundle whose whole proof this one's rests on; None where everything was compared with its own weights."""
    latency_from: str | None = None
    """The version whose graphs the percentiles were measured on, ``acme/tiny@0123abcd-4567ef01``, which are the same
    but for their weights; None where they are this bundle's own."""
    latency_at: str | None = None
    """The point of the grid that the percentiles are of: ``batch 1 × 128 tokens``."""
    ratio_to_torch: float | None = None
    """The ratio of p50 to PyTorch's p50 at that point: below 1 is faster than PyTorch."""
    size_bytes: int | None = None
    """The size of the published bundle."""
    location: str | None = None
    """The bundle's address."""
    variants: tuple[VariantRecord, ...] = ()
    """The variants that were asked for beside fp32."""
    compared_with: str | None = None
    """The version that was in use when this one was published."""
    findings: tuple[str, ...] = ()
    """The findings that are worse than in that version, ``latency: …``; empty for an unchanged model."""
    gpu: str = GPU_NOT_ASKED
    """A statement for people: ``not asked for``, ``validated on …``, ``not validated on GPU: …``."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """The wall time of each step, without its wait for the tasks that had its machine."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """The most memory that each step had, its task's process and a step's own together, without mapped files."""
    disk_bytes: Mapping[str, int] = field(default_factory=dict)
    """The bytes of checkpoint and stage at the end of each step; of one that failed in Airflow they are not known."""
    predicted: Estimate | None = None
    """What the plan predicted for the steps; None where nothing was to be made."""

    @property
    def ended_as(self) -> str:
        """The state, with the step that it ended at: ``failed at export``."""
        return f"{self.state} at {self.step}" if self.step else self.state


def of_refusal(refusal: Refusal) -> Record:
    """Return the record of an entry without a work item: refused by a rule of the catalogue, or failed."""
    return Record(
        model_id=refusal.repo_id,
        state=refusal.state,
        commit=refusal.commit,
        step=refusal.step,
        error=refusal.error,
        message=refusal.message,
    )


def of_waiting(item: WorkItem, *, rollout_id: str) -> Record:
    """Return the record of a model that this run leaves as it is, since its turn in a rollout has not come."""
    return Record(
        model_id=item.model_id,
        state="waiting",
        commit=item.model.commit,
        version=item.version,
        renamed_from=item.model.renamed_from,
        task=item.model.task,
        reason=f"it waits for the rollout {rollout_id}; {item.reason}",
    )


def of_bundle(
    item: WorkItem,
    *,
    state: Literal["held", "published", "unchanged"],
    location: str,
    manifest: Manifest,
    spent: Mapping[str, StepCost] | None = None,
) -> Record:
    """Return the record of a model whose bundle stands in the store: this run published it, or found it there.

    Args:
        spent: what its steps took, by their names in records.
    """
    regression = manifest.regression
    cpu = next((each for each in manifest.latency if each.provider == "cpu"), None)
    row = headline([row for row in cpu.rows if row.variant == FP32] if cpu else ())
    gpu = next((each for each in manifest.validation.providers if each.provider == "cuda"), None)
    return Record(
        model_id=item.model_id,
        state=state,
        commit=item.model.commit,
        version=item.version,
        renamed_from=item.model.renamed_from,
        task=item.model.task,
        reason=item.reason,
        message=_held(item, regression) if state == "held" and regression else "",
        compared_with=regression.compared_with if regression else None,
        findings=told(regression) if state != "unchanged" else (),
        worst_abs_diff=manifest.validation.max_abs_diff,
        latency_ms_p50=row.latency_ms_p50 if row else None,
        latency_ms_p95=row.latency_ms_p95 if row else None,
        latency_noisy=bool(row and cpu and cpu.noise and cpu.noise.verdict == "noisy"),
        proof_from=next((ref_of(each.rests_on) for each in manifest.validation.providers if each.rests_on), None),
        latency_from=next((ref_of(each) for each in cpu.taken_over if each.variant == FP32), None) if cpu else None,
        latency_at=row.at if row else None,
        ratio_to_torch=row.ratio_to_torch if row else None,
        size_bytes=manifest.size_bytes,
        location=location,
        variants=tuple(_variant(each, cpu.rows if cpu else ()) for each in manifest.variants),
        gpu=gpu_statement(item, gpu),
        **_spent(spent or {}),
        predicted=item.estimate,
    )


def _spent(costs: Mapping[str, StepCost]) -> _Spent:
    return {
        "seconds": {name: cost.seconds for name, cost in costs.items()},
        "memory_bytes": {name: cost.memory_bytes for name, cost in costs.items()},
        "disk_bytes": {name: cost.disk_bytes for name, cost in costs.items() if cost.disk_bytes},
    }


def told(regression: Regression | None) -> tuple[str, ...]:
    """Return what is worse than in the version that was in use, one line for each finding."""
    return tuple(f"{finding.gate}: {finding.message}" for finding in regression.findings) if regression else ()


def _variant(summary: VariantSummary, rows: Sequence[LatencyRow]) -> VariantRecord:
    row = headline([row for row in rows if row.variant == summary.variant])
    return VariantRecord(
        variant=summary.variant,
        status=summary.status,
        reason=summary.reason,
        layers_ratio=summary.layers_ratio,
        latency_ms_p50=row.latency_ms_p50 if row else None,
    )


def of_failure(
    item: WorkItem,
    *,
    step: str,
    error: str,
    message: str,
    validation: ValidationReport | None = None,
    gpu: ValidationReport | None = None,
    spent: Mapping[str, StepCost] | None = None,
) -> Record:
    """Return the record of a model that a step failed on, or that a rule of the catalogue refused during a step.

    Args:
        error: the error class's name.
        validation: the report of the CPU, where there is one; a failed one tells how far the outputs are apart.
        spent: what its steps took, by their names in records.
    """
    return Record(
        model_id=item.model_id,
        state=errors.ending(error),
        commit=item.model.commit,
        version=item.version,
        renamed_from=item.model.renamed_from,
        task=item.model.task,
        reason=item.reason,
        step=step,
        error=error,
        message=message,
        worst_abs_diff=validation.worst_abs_diff if validation else None,
        gpu=gpu_statement(item, gpu),
        **_spent(spent or {}),
        predicted=item.estimate,
    )


def _held(item: WorkItem, regression: Regression) -> str:
    return (
        f"{ref_of(item)} is published, but {regression.channel} does not point to it, because it is worse than"
        f" {regression.compared_with}. Read its reports/regression.json; to use it nevertheless, run"
        f" `onnx-fleet channel set {item.model_id} {regression.channel} {item.version}`"
    )


def headline(rows: Sequence[LatencyRow]) -> LatencyRow | None:
    """Return the row that stands for a whole grid: the smallest batch at the longest length; None for an empty grid."""
    return min(rows, key=lambda row: (row.batch_size, -(row.sequence_length or 0)), default=None)


def gpu_statement(item: WorkItem, report: ValidationReport | ProviderValidation | None) -> str:
    """Say what is known of the graphs on a GPU, so that nobody takes a CPU run for a GPU run."""
    if "cuda" not in item.model.entry.providers:
        return GPU_NOT_ASKED
    if report is None:
        return "not validated on GPU: no report came from the GPU queue"
    if report.status == "not_run":
        return f"not validated on GPU: {report.reason}"
    if report.status == "failed":
        return f"wrong on GPU: {report.reason}"
    nodes = ", ".join(f"{count} nodes on {name}" for name, count in sorted(report.nodes_by_provider.items()))
    return f"validated on {report.provider}: {nodes}"
