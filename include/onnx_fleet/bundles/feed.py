"""The feed: what is published, in one document, for registries that mirror the fleet.

feed/index.json   rebuilt from the manifests and channels; nothing else decides it
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.bundles import channels, manifest, publish, renames
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.bundles.publish import PublishedModel
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore, layout, swaps, transfer
from onnx_fleet.store.concurrency import at_once

INDEX_KEY = "feed/index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedFile:
    """One file of a bundle."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedValidation:
    """The feed's summary of how close the graphs are to PyTorch."""

    passed: bool
    max_abs_diff: float | None
    gpu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLatency:
    """The latency at one measured point."""

    provider: str
    graph: str
    variant: str
    phase: str
    batch_size: int
    sequence_length: int | None
    latency_ms_p50: float
    latency_ms_p95: float
    ratio_to_torch: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedVersion:
    """One published version of a model, which is a bundle."""

    version: str
    revision: str
    """The source's commit."""
    created_at: AwareDatetime
    task: str
    family: str
    architecture: str
    licence: str | None
    variants: tuple[str, ...]
    path: str
    """The path of the bundle's folder, relative to the store."""
    size_bytes: int
    manifest_sha256: str
    files: tuple[FeedFile, ...]
    validation: FeedValidation
    latency: tuple[FeedLatency, ...]
    held: bool = False
    """Whether its gates found it worse than the version that was in use, and no channel points at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedChannel:
    """One channel of a model, a pointer to a version."""

    channel: str
    version: str
    moved_at: AwareDatetime
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedModel:
    """One model, its newest version first."""

    model_id: str
    channels: tuple[FeedChannel, ...]
    versions: tuple[FeedVersion, ...]
    problems: tuple[str, ...]
    """The manifests and channels that could not be read; what they stand for is left out."""
    renamed_to: str | None = None
    """The id that the Hub has for the model now, under which new versions are published."""
    renamed_since: AwareDatetime | None = None
    """When a run first published the model under that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Everything that is published."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    generated_at: AwareDatetime
    models: tuple[FeedModel, ...]


def read(store: ObjectStore) -> Feed:
    """Return the feed as it was rebuilt last.

    Raises:
        BundleNotFound: nothing was published yet.
        BundleCorrupt: the document is not a feed.
    """
    return _parse(store.read(INDEX_KEY), where=f"{store.address}/{INDEX_KEY}")


def models(store: ObjectStore, *, model_id: str | None = None) -> tuple[FeedModel, ...]:
    """Return what the store holds now, from its manifests and channels: every model by id, or a single one."""
    listed = publish.list_models(store, model_id=model_id)
    return tuple(at_once(lambda model: _model(store, model), listed, threads="feed"))


def rebuild(store: ObjectStore, *, now: datetime) -> Feed:
    """Write the feed anew from what the store holds; equal stores give equal feeds but for generated_at.

    It is swapped against what stood there before the store was read: when another rebuild came between, the store is
    read once more, so that the last feed written has seen every manifest that any of them saw.

    Raises:
        VersionConflict: other rebuilds keep coming between.
    """
    return swaps.repeated(lambda: _rebuild_once(store, now=now), tries=20, longest_pause_s=0.5)


def catch_up(store: ObjectStore, bundles: Iterable[tuple[str, str]], *, now: datetime) -> None:
    """Write the feed anew where it lacks a bundle that stands: the run that published it ended before it could.

    Args:
        bundles: the model id and version of each.
    """
    wanted = set(bundles)
    if not wanted:
        return
    try:
        listed = {(model.model_id, each.version) for model in read(store).models for each in model.versions}
    except (BundleNotFound, BundleCorrupt):
        listed = set()
    if wanted - listed:
        rebuild(store, now=now)


def _rebuild_once(store: ObjectStore, *, now: datetime) -> Feed:
    try:
        before, etag = store.read_tagged(INDEX_KEY)
    except BundleNotFound:
        before, etag = b"", None
    feed = Feed(generated_at=now.astimezone(UTC).replace(microsecond=0), models=models(store))
    known = _known(before)
    if known is not None and known == replace(feed, generated_at=known.generated_at):
        return known  # nothing is new: readers that poll it see no change
    store.replace(INDEX_KEY, jsonio.canonical(jsonio.to_json(feed)), etag=etag)
    return feed


def _known(data: bytes) -> Feed | None:
    try:
        return _parse(data, where=INDEX_KEY)
    except BundleCorrupt:
        return None  # rebuilding is what mends it


def _parse(data: bytes, *, where: str) -> Feed:
    try:
        return jsonio.adapter(Feed).validate_json(data, strict=True)
    except ValidationError as err:
        raise BundleCorrupt(f"{where}: is not a feed; run the DAG registry_feed, which rebuilds it") from err


def _model(store: ObjectStore, listed: PublishedModel) -> FeedModel:
    problems: list[str] = []
    versions: list[FeedVersion] = []
    pointers: list[Channel] = []
    for channel in listed.channels:
        try:
            pointers.append(channels.read(store, listed.model_id, channel))
        except (BundleCorrupt, BundleNotFound) as err:
            problems.append(str(err))
    in_use = {pointer.version for pointer in pointers}
    for version in listed.versions:
        key = layout.manifest_key(listed.model_id, version)
        try:
            data = store.read(key)
            sealed = manifest.read(data, where=key)
            versions.append(_version(sealed, digest=transfer.sha256_of(data), in_use=version in in_use))
        except (BundleCorrupt, BundleNotFound) as err:
            problems.append(str(err))
    note = renames.find(store, listed.model_id) if listed.renamed else None
    return FeedModel(
        model_id=listed.model_id,
        channels=tuple(_channel(pointer) for pointer in pointers),
        versions=tuple(sorted(versions, key=lambda row: (row.created_at, row.version), reverse=True)),
        problems=tuple(problems),
        renamed_to=note.renamed_to if note else None,
        renamed_since=note.since if note else None,
    )


def _channel(pointer: Channel) -> FeedChannel:
    return FeedChannel(channel=pointer.channel, version=pointer.version, moved_at=pointer.moved_at, held=pointer.held)


def _version(sealed: Manifest, *, digest: str, in_use: bool) -> FeedVersion:
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
        held=regression is not None and regression.verdict == "held" and not in_use,
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
