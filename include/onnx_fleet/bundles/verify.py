"""Verify: read a bundle back, every byte of it, and hold it against its manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from onnx_fleet.bundles import bundle, manifest, trust
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import FILE_NAME, BundleFile
from onnx_fleet.bundles.trust import TrustReport
from onnx_fleet.bundles.trust_policy import TrustPolicy
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore, Progress

Fault = Literal["missing", "changed", "extra"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFault:
    """One file that is not as the manifest says."""

    path: str
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Every fault of one bundle."""

    model_id: str
    version: str
    manifest_sha256: str
    location: str
    files: int
    size_bytes: int
    faults: tuple[FileFault, ...]
    trust: TrustReport | None = None
    """Its signatures beside the trust policy; None where there is no policy."""

    @property
    def passed(self) -> bool:
        return not self.faults and (self.trust is None or self.trust.passed)


def verify(
    ref: Ref | str, *, store: ObjectStore, policy: TrustPolicy | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Re-hash every file of a bundle, and hold its signatures to a policy.

    Args:
        policy: whose signatures it needs; None needs none.
    Raises:
        BundleNotFound: there is no such bundle; BundleDeleted where it was removed, also while this reads its files.
        BundleCorrupt: its manifest is not readable.
    """
    found = bundle.find(ref, store=store)
    faults: list[FileFault] = []
    done, total = 0, found.manifest.size_bytes
    for file in found.manifest.files:
        fault = _fault(found, file, store=store)
        if fault:
            faults.append(fault)
        done += file.size_bytes
        if progress:
            progress(done, total)
    faults.extend(_extras(found, store=store))
    if faults:
        bundle.require_undeleted(store, found.model_id, found.version)
    return VerifyReport(
        model_id=found.model_id,
        version=found.version,
        manifest_sha256=found.manifest_sha256,
        location=f"{store.address}/{found.prefix}".rstrip("/"),
        files=len(found.manifest.files),
        size_bytes=total,
        faults=tuple(faults),
        trust=trust.judge(found, policy=policy, store=store) if policy else None,
    )


def require_intact(report: VerifyReport) -> None:
    """Refuse a bundle that has faults.

    Raises:
        BundleCorrupt: the report has faults; all of them are named.
    """
    if report.faults:
        named = "; ".join(f"{fault.path}: {fault.fault} ({fault.detail})" for fault in report.faults)
        raise BundleCorrupt(f"{ref_of(report)}: {named}; {manifest.remedy(report.model_id)}")


def _fault(found: Bundle, file: BundleFile, *, store: ObjectStore) -> FileFault | None:
    """Return what is wrong with a file; one that is not as it should be is read again: it may be the connection."""
    return _read_fault(found, file, store=store) and _read_fault(found, file, store=store)


def _read_fault(found: Bundle, file: BundleFile, *, store: ObjectStore) -> FileFault | None:
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in store.chunks(found.key(file.path)):
            digest.update(chunk)
            size += len(chunk)
    except BundleNotFound:
        return FileFault(path=file.path, fault="missing", detail=f"{file.size_bytes} bytes are missing")
    if size != file.size_bytes:
        return FileFault(path=file.path, fault="changed", detail=f"{size} bytes instead of {file.size_bytes}")
    if digest.hexdigest() != file.sha256:
        detail = f"SHA-256 {digest.hexdigest()[:12]}… instead of {file.sha256[:12]}…"
        return FileFault(path=file.path, fault="changed", detail=detail)
    return None


def _extras(found: Bundle, *, store: ObjectStore) -> list[FileFault]:
    wanted = {found.key(file.path) for file in found.manifest.files} | {found.key(FILE_NAME)}
    return [
        FileFault(
            path=info.key.removeprefix(found.prefix),
            fault="extra",
            detail=f"{info.size_bytes} bytes that the manifest does not list",
        )
        for info in store.list(found.prefix)
        if info.key not in wanted
    ]
