"""Audit: published bundles, hashed and proven again with the packages that are installed now -> Audit.

    audits/<org>/<name>/<version>/<time>.json     each result stays; nothing under models/ is written

What a bundle is held to is what it was published with: the tolerances and gates that its manifest and reports tell.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime, ConfigDict

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, channels, listing, manifest, pull, report_summaries, verify
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import CheckSummary, Manifest
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.verify import FileFault
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.variant import FP32
from onnx_fleet.errors import (
    BundleCorrupt,
    BundleNotFound,
    CatalogueInvalid,
    ExportUnsupported,
    HubFileCorrupt,
    HubRateLimited,
    HubUnavailable,
    ModelGated,
    ModelInvalid,
    ModelNotFound,
    StepCrashed,
    StepTimedOut,
    UnsafeModel,
    ValidationFailed,
    VersionConflict,
)
from onnx_fleet.planning import toolchain
from onnx_fleet.processes import isolation
from onnx_fleet.runs import proving, restored_stage
from onnx_fleet.runs.restored_stage import Trust
from onnx_fleet.runs.services import Services
from onnx_fleet.store import ObjectStore, Progress, layout

log = logging.getLogger(__name__)

AuditVerdict = Literal["failed", "not_compared", "passed"]
"""The verdicts in reading order, the most urgent first; ``not_compared``: no fault was found, without PyTorch."""

_UNASKED = (
    ModelNotFound, ModelGated, ModelInvalid, UnsafeModel, ExportUnsupported, CatalogueInvalid,
    HubUnavailable, HubRateLimited, HubFileCorrupt, StepCrashed, StepTimedOut,
)  # fmt: skip
"""The errors that prevent a comparison and are not the bundle's fault; whether a crash is, a trial tells."""
_FAULTS_IN_REASON: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One bundle to audit."""

    model_id: str
    version: str
    trust: Trust = field(default_factory=Trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRun:
    """One graph that was loaded and run by itself."""

    graph: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantVerdict:
    """One variant, held to the fp32 graphs again."""

    variant: str
    passed: bool
    reason: str
    """A statement for people: the figures and their gates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of the audit of one bundle."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    version: str
    audited_at: AwareDatetime
    manifest_sha256: str | None
    """The manifest's SHA-256; None where there is no manifest to read."""
    verdict: AuditVerdict
    reason: str
    """A statement for people: what failed, or why nothing was compared."""
    files: tuple[FileFault, ...] = ()
    """The files that are not as the manifest says."""
    checks: tuple[CheckSummary, ...] = ()
    """The comparisons of the fp32 graphs with PyTorch, over all of their cases."""
    variants: tuple[VariantVerdict, ...] = ()
    runs: tuple[GraphRun, ...] = ()
    """Whether each graph runs, where the graphs were not compared."""
    toolchain_then: Mapping[str, str]
    """The packages that the bundle was made with: package -> version."""
    toolchain_now: Mapping[str, str]
    duration_s: float

    @property
    def changed(self) -> tuple[str, ...]:
        """Return the packages of other versions than the bundle was made with: ``onnxruntime 1.30.0 -> 1.31.1``."""
        now = {name: self.toolchain_now.get(name, "none") for name in self.toolchain_then if name in toolchain.PACKAGES}
        return tuple(
            f"{name} {self.toolchain_then[name]} -> {version}"
            for name, version in sorted(now.items())
            if self.toolchain_then[name] != version
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """The findings of an audit so far."""

    verdict: AuditVerdict
    reason: str
    files: tuple[FileFault, ...] = ()
    checks: tuple[CheckSummary, ...] = ()
    variants: tuple[VariantVerdict, ...] = ()
    runs: tuple[GraphRun, ...] = ()


def choose(
    store: ObjectStore,
    *,
    channel: str = bundle.LATEST,
    all_versions: bool = False,
    only: Iterable[str] = (),
    sample: int | None = None,
    seed: int = 0,
    entries: Iterable[Entry] = (),
) -> tuple[Target, ...]:
    """Return the bundles to audit, by model and version.

    Args:
        channel: the channel whose version of each model is audited; models without that channel are left out.
        all_versions: audit every version instead.
        only: patterns of model ids, matched without regard to case; no pattern takes all models.
        sample: the most bundles to choose. One seed takes the same ones, and as a fleet grows most of them stay.
        entries: a catalogue's entries, which tell what their models' sources may run.
    Raises:
        BundleNotFound: no published model matches.
        BundleCorrupt: a channel is not readable.
    """
    patterns = [pattern.lower() for pattern in only]
    trusted = {entry.repo_id.lower(): entry for entry in entries}
    found = []
    wanted = listing.list_models(store, only=patterns)
    if patterns and not wanted:
        raise BundleNotFound(f"{store.address}: no published model matches {', '.join(patterns)}")
    for model in wanted:
        pointer = None if all_versions else channels.find(store, model.model_id, channel)
        for version in model.versions if all_versions else [pointer.version] if pointer else []:
            found.append(
                Target(model_id=model.model_id, version=version, trust=_trust(trusted.get(model.model_id.lower())))
            )
    if sample is not None:
        found = sorted(found, key=lambda each: _drawn(each, seed=seed))[:sample]
    return tuple(sorted(found, key=lambda each: (each.model_id, each.version)))


def audit(target: Target, *, services: Services, now: datetime, progress: Progress | None = None) -> Audit:
    """Verify one bundle, prove it again from its own files, and keep the result beside it.

    Args:
        progress: is told of the bytes that are hashed, and then of those that are fetched.
    Raises:
        StoreUnavailable, StoreDenied, WorkerOutOfResources: the audit could not be made.
    """
    started = time.monotonic()
    ref = Ref(model_id=target.model_id, channel=None, version=target.version)
    found: Bundle | None = None
    try:
        found = bundle.find(ref, store=services.store)
        finding = _examine(found, target, services=services, progress=progress)
    except (BundleNotFound, BundleCorrupt) as err:
        newer = found is None and _is_newer(target, store=services.store)
        finding = _Finding(verdict="not_compared" if newer else "failed", reason=str(err))
    made = Audit(
        model_id=target.model_id,
        version=target.version,
        audited_at=now.astimezone(UTC),
        manifest_sha256=found.manifest_sha256 if found else None,
        verdict=finding.verdict,
        reason=finding.reason,
        files=finding.files,
        checks=finding.checks,
        variants=finding.variants,
        runs=finding.runs,
        toolchain_then=dict(found.manifest.toolchain) if found else {},
        toolchain_now=dict(toolchain.versions()),
        duration_s=time.monotonic() - started,
    )
    _keep(made, store=services.store)
    log.info("audited %s: %s: %s", ref_of(made), made.verdict, made.reason)
    return made


def key_of(made: Audit) -> str:
    """Return the key of the result in the store."""
    return layout.audit_key(made.model_id, made.version, at=made.audited_at)


def _keep(made: Audit, *, store: ObjectStore) -> None:
    data = jsonio.canonical(jsonio.to_json(made))
    key = key_of(made)
    if not store.create(key, data) and store.read(key) != data:
        raise VersionConflict(f"{store.address}/{key}: the result of another audit is there; audit it again")


def _examine(found: Bundle, target: Target, *, services: Services, progress: Progress | None) -> _Finding:
    ref = Ref(model_id=found.model_id, channel=None, version=found.version)
    verified = verify.verify(ref, store=services.store, progress=progress)
    if not verified.passed:
        named = [f"{fault.path}: {fault.fault} ({fault.detail})" for fault in verified.faults]
        more = f" and {len(named) - _FAULTS_IN_REASON} more" if len(named) > _FAULTS_IN_REASON else ""
        said = "; ".join(named[:_FAULTS_IN_REASON])
        return _Finding(
            verdict="failed", reason=f"its bytes are not those that were published: {said}{more}", files=verified.faults
        )
    root = services.work_dir / "audits"
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{found.version}-", dir=root) as corner:
        folder = Path(corner) / "bundle"
        pull.pull(ref, store=services.store, to=folder, progress=progress)
        try:
            stage = restored_stage.write(folder, found.manifest, trust=target.trust)
            finding = _prove(stage, found.manifest, services=services)
        except _UNASKED as err:
            finding = _try(folder, found.manifest, services=services, log_file=Path(corner) / "trial.log", unasked=err)
    return replace(
        finding,
        reason=finding.reason.replace(f"{folder}/", ""),  # a folder that is gone is nobody's to look for
        runs=tuple(replace(each, detail=each.detail.replace(f"{folder}/", "")) for each in finding.runs),
    )


def _prove(stage: Stage, made: Manifest, *, services: Services) -> _Finding:
    """Compare the fp32 graphs with PyTorch, then each variant with them."""
    try:
        report = proving.validate_graphs(stage, services=services, full=True)
    except ValidationFailed as err:
        return _Finding(verdict="failed", reason=str(err))
    checks = tuple(report_summaries.summaries(report))
    if not report.passed:
        return _Finding(verdict="failed", reason=report.reason, checks=checks)
    variants = _judge(stage, services=services) if any(info.variant != FP32 for info in made.graphs) else ()
    missed = [f"{each.variant}: {each.reason}" for each in variants if not each.passed]
    return _Finding(
        verdict="failed" if missed else "passed",
        reason="; ".join(missed) or report.reason,
        checks=checks,
        variants=variants,
    )


def _judge(stage: Stage, *, services: Services) -> tuple[VariantVerdict, ...]:
    return tuple(
        VariantVerdict(variant=each.variant, passed=each.status == "published", reason=each.reason)
        for each in proving.judge_variants(stage, services=services).verdicts
    )


def _try(folder: Path, made: Manifest, *, services: Services, log_file: Path, unasked: Exception) -> _Finding:
    """Find out whether every graph loads and runs here: all that is left where PyTorch cannot be asked."""
    from onnx_fleet.runs import smoke_test  # numpy, which readers at the command line need not wait for

    request = smoke_test.SmokeTestRequest(folder=folder, graphs=made.graphs)
    try:
        rows = isolation.run(smoke_test.run, request, limits=services.limits, log=log_file).value.rows
    except (StepCrashed, StepTimedOut) as err:
        return _Finding(verdict="failed", reason=f"onnxruntime cannot run its graphs: {err}")
    runs = tuple(GraphRun(graph=row.graph, passed=not row.fault, detail=row.fault) for row in rows)
    faults = [f"{row.graph}: {row.fault}" for row in rows if row.fault]
    why = f"not compared with PyTorch: {type(unasked).__name__}: {unasked}"
    return _Finding(verdict="failed" if faults else "not_compared", reason="; ".join(faults) or why, runs=runs)


def _is_newer(target: Target, *, store: ObjectStore) -> bool:
    """Say whether a manifest is from a later onnx-fleet, so that this one cannot judge it."""
    try:
        data = json.loads(store.read(layout.manifest_key(target.model_id, target.version)))
    except (BundleNotFound, ValueError):
        return False
    told = data.get("schema_version") if isinstance(data, dict) else None
    return isinstance(told, int) and told > manifest.SCHEMA_VERSION


def _trust(entry: Entry | None) -> Trust:
    if entry is None:
        return Trust()
    return Trust(trust_remote_code=entry.trust_remote_code, allow_pickle=entry.allow_pickle)


def _drawn(target: Target, *, seed: int) -> str:
    """Return a sort key that only the seed and the bundle itself decide."""
    return hashlib.sha256(f"{seed} {target.model_id}@{target.version}".encode()).hexdigest()
