"""Regression: compare a stage with the bundle that its channel points at -> RegressionReport."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from onnx_fleet.bundles import bundle, channels, pull
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities import regression_report
from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import CPU
from onnx_fleet.entities.regression_report import (
    NAME,
    Completeness,
    ContractChange,
    Differences,
    Finding,
    RegressionReport,
)
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import (
    BundleCorrupt,
    BundleNotFound,
    FolderOccupied,
    StepCrashed,
    StepTimedOut,
    WorkerOutOfResources,
)
from onnx_fleet.measurement import gates, io_contract, version_diff
from onnx_fleet.measurement.version_diff import DifferencesRequest, Side
from onnx_fleet.processes import hardware, isolation
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.processes.machine_lock import Alone
from onnx_fleet.store import ObjectStore

log = logging.getLogger(__name__)

IN_USE = "in-use"
"""The subfolder of a work folder that holds bundles in use while they are compared."""


def compare(
    stage: Stage,
    *,
    store: ObjectStore,
    work_dir: Path,
    limits: Limits,
    channel: str = bundle.LATEST,
    alone: Alone = nullcontext,
) -> RegressionReport | None:
    """Compare a stage with the bundle that the channel points at, and write the report into the stage.

    A bundle in use that is missing, corrupt or does not run is named in the report and holds nothing up.

    Args:
        work_dir: the folder that holds the bundle in use while it is compared.
        limits: the limits of the process that runs both.
        alone: keeps other work away while the two are timed.
    Returns:
        None where the channel points at nothing, or at this very version.
    Raises:
        BundleNotFound: nothing was exported into the stage.
        StoreUnavailable, StoreDenied: the store cannot be asked.
    """
    started = time.monotonic()
    item = stage.item
    pointer = channels.find(store, item.model_id, channel)
    stage.report(NAME).unlink(missing_ok=True)
    if pointer is None or pointer.version == item.version:
        return None
    (work_dir / IN_USE).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{pointer.version}-", dir=work_dir / IN_USE) as corner:
        folder = Path(corner) / "bundle"
        made = _attempt(stage, pointer=pointer, store=store, folder=folder, limits=limits, alone=alone)
    report = RegressionReport(
        model_id=item.model_id,
        version=item.version,
        channel=channel,
        compared_with=pointer.version,
        status=made.status,
        reason=made.reason,
        verdict=regression_report.verdict(made.findings),
        findings=made.findings,
        gates=item.model.entry.gates,
        alike=made.alike,
        contract=made.contract,
        latencies_of=made.latencies_of,
        measured=made.measured,
        hardware=hardware.hardware(),
        runtime=hardware.versions(),
        duration_s=time.monotonic() - started,
    )
    stage.write_report(NAME, report)
    log.info("compared %s with %s: %s", ref_of(item), pointer.version, report.verdict)
    return report


def is_due(stage: Stage, *, store: ObjectStore, channel: str) -> bool:
    """Say whether a stage still has to be compared with what the channel points at now."""
    item = stage.item
    pointer = channels.find(store, item.model_id, channel)
    if pointer is None or pointer.version == item.version:
        return False
    report = stage.read_report(NAME, RegressionReport)
    return report is None or (report.version, report.compared_with) != (item.version, pointer.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What a comparison has found so far."""

    status: Completeness
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    alike: bool = False
    contract: tuple[ContractChange, ...] = ()
    latencies_of: str = ""
    measured: Differences = field(default_factory=Differences)


def _attempt(
    stage: Stage, *, pointer: Channel, store: ObjectStore, folder: Path, limits: Limits, alone: Alone
) -> _Made:
    item, record = stage.item, stage.read_export()
    wanted = item.model.entry.gates
    ref = Ref(model_id=item.model_id, channel=None, version=pointer.version)
    try:
        old = bundle.find(ref, store=store)
    except (BundleNotFound, BundleCorrupt) as err:
        reason = f"the version in use cannot be read: {err}"
        return _Made(status="not_compared", reason=reason, findings=(gates.of_failure(reason, holds=False),))
    changes = io_contract.changes(old.manifest.graphs, record.graphs)
    broken, alike = gates.of_contract(changes, gates=wanted), _alike(old, item)
    if wanted.policy == "off":
        return _Made(
            status="contract_only", reason="gates.policy is off", findings=broken, alike=alike, contract=changes
        )
    try:
        pull.pull(ref, store=store, to=folder)
        with alone():
            measured = _measure(stage, record, old=old, folder=folder, limits=limits)
    except (BundleNotFound, BundleCorrupt, FolderOccupied) as err:
        failed = gates.of_failure(f"the version in use cannot be run: {err}", holds=False)
    except (StepCrashed, StepTimedOut, WorkerOutOfResources) as err:
        # Nobody knows then whether the new version is worse, and to block is to move for what is known to be good.
        failed = gates.of_failure(f"the comparison failed: {type(err).__name__}: {err}", holds=wanted.policy == "block")
    else:
        full = [info.path for info in record.graphs if info.variant == gates.FULL_PRECISION]
        findings = (*broken, *gates.of_differences(measured, gates=wanted, full=full, alike=alike))
        reason = (
            ""
            if measured.latency or measured.equal_graphs
            else "latency was not compared: the two versions were not measured at any common size"
        )
        return _Made(
            status="compared",
            reason=reason,
            findings=findings,
            alike=alike,
            contract=changes,
            latencies_of=_common_origin(old, stage),
            measured=measured,
        )
    return _Made(
        status="contract_only", reason=failed.message, findings=(*broken, failed), alike=alike, contract=changes
    )


def _measure(stage: Stage, record: ExportRecord, *, old: Bundle, folder: Path, limits: Limits) -> Differences:
    entry = stage.item.model.entry
    one = entry.tolerances or Tolerances()
    tolerances = Tolerances(atol=one.atol * entry.gates.max_drift, rtol=one.rtol * entry.gates.max_drift)
    request = DifferencesRequest(
        old=Side(folder=folder, graphs=old.manifest.graphs),
        new=Side(folder=stage.folder, graphs=record.graphs),
        tolerances=tolerances,
        grid=entry.latency,
    )
    log_file = stage.private / "compare.log"
    return isolation.run(version_diff.find, request, limits=limits, log=log_file).value


def _common_origin(old: Bundle, stage: Stage) -> str:
    """Return the bundle whose measurement both versions' latency reports show; empty where there is none."""
    report = stage.read_report("latency", LatencyReport)
    before = next((each for each in old.manifest.latency if each.provider == CPU), None)
    if report is None or before is None:
        return ""
    new_of = next((ref_of(each) for each in report.taken_over if each.variant == FP32), None)
    old_of = next((ref_of(each) for each in before.taken_over if each.variant == FP32), ref_of(old.manifest.bundle))
    return old_of if new_of == old_of else ""


def _alike(old: Bundle, item: WorkItem) -> bool:
    """Say whether both were made of the same weights to do the same."""
    made = old.manifest
    before = (made.source.revision, made.task, made.export.recipe, made.export.recipe_digest)
    return before == (item.model.commit, item.model.task, item.model.entry.recipe, item.recipe_digest)
