"""One model of the feed, made from what the store holds; what is known of an immutable manifest is not read again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from onnx_fleet import jsonio
from onnx_fleet.bundles import channels, manifest, renames, tombstones
from onnx_fleet.bundles.feed_document import (
    FeedChannel,
    FeedFile,
    FeedLatency,
    FeedModel,
    FeedValidation,
    FeedVersion,
)
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore, layout, transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a listing of the store says of a model."""

    manifests: dict[str, str] = field(default_factory=dict)
    """By version: the etag of its manifest; empty where the listing does not tell it."""
    channels: dict[str, str] = field(default_factory=dict)
    """By name: the etag of the channel's document."""
    note: list[str] = field(default_factory=list)
    """The etag of the note that the model was renamed, where there is one."""


def listed(store: ObjectStore, *, model_id: str | None = None) -> dict[str, Listed]:
    """Return what listings say of each model with a version that is published and not deleted, or of a single one."""
    found: dict[str, Listed] = {}
    for info in store.list(layout.model_prefix(model_id) if model_id else layout.MODELS):
        if match := layout.MANIFEST_KEY.fullmatch(info.key):
            found.setdefault(match[1], Listed()).manifests[match[2]] = info.etag
        elif match := layout.CHANNEL_KEY.fullmatch(info.key):
            found.setdefault(match[1], Listed()).channels[match[2]] = info.etag
        elif match := layout.RENAMED_KEY.fullmatch(info.key):
            found.setdefault(match[1], Listed()).note.append(info.etag)
    for name, version in tombstones.noted(store, model_id=model_id):
        if name in found and version in found[name].manifests and tombstones.find(store, name, version):
            del found[name].manifests[version]
    return {name: found[name] for name in sorted(found) if found[name].manifests}


def digest_of(models: Mapping[str, Listed]) -> str | None:
    """Return a digest of what a listing says of models; None where it has no etags, so that only reading tells."""
    etags = (
        etag for each in models.values() for etag in (*each.manifests.values(), *each.channels.values(), *each.note)
    )
    if not all(etags):
        return None
    told = {name: [each.manifests, each.channels, each.note] for name, each in models.items()}
    return hashlib.sha256(jsonio.canonical(told)).hexdigest()


def made(store: ObjectStore, model_id: str, found: Listed, *, known: FeedModel | None) -> FeedModel:
    """Return a model as the store holds it now.

    Args:
        known: the model as a feed had it: of its manifests and channels, only those are read that have changed.
    """
    problems: list[str] = []
    versions: list[FeedVersion] = []
    pointers: list[FeedChannel] = []
    known_channels = {each.channel: each for each in known.channels} if known else {}
    known_versions = {each.version: each for each in known.versions} if known else {}
    for name, etag in sorted(found.channels.items()):
        try:
            pointers.append(_channel(store, model_id, name, etag=etag, known=known_channels.get(name)))
        except (BundleCorrupt, BundleNotFound) as err:
            problems.append(str(err))
    in_use = {pointer.version for pointer in pointers}
    for name, etag in sorted(found.manifests.items()):
        try:
            row = _known_or_read(store, model_id, name, etag=etag, known=known_versions.get(name))
        except (BundleCorrupt, BundleNotFound) as err:
            problems.append(str(err))
        else:
            versions.append(replace(row, held=row.verdict == "held" and row.version not in in_use))
    note = renames.read(store, model_id) if found.note else None
    if note and any(row.created_at > note.since for row in versions):
        note = None  # another repo has the id
    return FeedModel(
        model_id=model_id,
        channels=tuple(pointers),
        versions=tuple(sorted(versions, key=lambda row: (row.created_at, row.version), reverse=True)),
        problems=tuple(problems),
        renamed_to=note.renamed_to if note else None,
        renamed_since=note.since if note else None,
    )


def _channel(store: ObjectStore, model_id: str, name: str, *, etag: str, known: FeedChannel | None) -> FeedChannel:
    if known and etag and known.etag == etag:
        return known
    key = channels.key_of(model_id, name)
    data, tag = store.read_tagged(key)
    pointer = channels.parse(data, where=f"{store.address}/{key}")
    return FeedChannel(
        channel=pointer.channel,
        version=pointer.version,
        moved_at=pointer.moved_at,
        held=pointer.held,
        etag=tag,
        row=pointer.row,
    )


def _known_or_read(
    store: ObjectStore, model_id: str, version: str, *, etag: str, known: FeedVersion | None
) -> FeedVersion:
    if known and etag and known.etag == etag:
        return known
    key = layout.manifest_key(model_id, version)
    data, tag = store.read_tagged(key)
    digest = transfer.sha256_of(data)
    if known and (known.etag, known.manifest_sha256) == (tag, digest):
        return known
    return _version(manifest.read(data, where=key), digest=digest, etag=tag)


def _version(sealed: Manifest, *, digest: str, etag: str) -> FeedVersion:
    info, proof, regression = sealed.bundle, sealed.validation, sealed.regression
    return FeedVersion(
        version=info.version,
        revision=sealed.source.revision,
        created_at=info.created_at,
        task=sealed.task,
        family=sealed.family,
        architecture=sealed.architecture,
        licence=sealed.source.licence,
        variants=tuple(sorted({graph.variant for graph in sealed.graphs})),
        path=layout.bundle_prefix(info.model_id, info.version),
        size_bytes=sealed.size_bytes,
        manifest_sha256=digest,
        files=tuple(FeedFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in sealed.files),
        validation=FeedValidation(passed=proof.passed, max_abs_diff=proof.max_abs_diff, gpu=proof.gpu),
        latency=tuple(_latency(sealed)),
        etag=etag,
        verdict=regression.verdict if regression else None,
    )


def _latency(sealed: Manifest) -> Iterable[FeedLatency]:
    for measured in sealed.latency:
        for row in measured.rows:
            yield FeedLatency(
                provider=measured.provider,
                graph=row.graph,
                variant=row.variant,
                phase=row.phase,
                batch_size=row.batch_size,
                sequence_length=row.sequence_length,
                latency_ms_p50=row.latency_ms_p50,
                latency_ms_p95=row.latency_ms_p95,
                ratio_to_torch=row.ratio_to_torch,
            )
