"""The documents of the feed: an index, and the shards that it names.

feed/index.json                           the shards, each with its digest; replaced where a shard has changed
feed/shards/<shard>-<digest>.json         some of the models, whole; never changed
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeVar

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.errors import BundleCorrupt

INDEX_KEY: Final = "feed/index.json"
SHARDS: Final = "feed/shards/"


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
    etag: str
    """The tag that the store gives to the bytes of the manifest."""
    verdict: Literal["passed", "warned", "held"] | None = None
    """What its gates found; None where there was no version in use to compare it with."""
    held: bool = False
    """Whether its gates found it worse than the version that was in use, and no channel points at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedChannel:
    """One channel of a model, a pointer to a version."""

    channel: str
    version: str
    moved_at: AwareDatetime
    held: bool
    etag: str
    """The tag that the store gives to the bytes of the channel's document."""
    row: str | None = None
    """The row of its history that is about this very state: what happened up to it is in the log of events."""


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
class FeedShard:
    """Some of the models of a feed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    shard: str
    models: tuple[FeedModel, ...]
    """The models whose ids have a SHA-256 that begins with the name of the shard, by id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A shard, as the index names it."""

    shard: str
    """Its name: the first two hexadecimal digits of the SHA-256 of the ids of its models."""
    key: str
    """Where its document lies, relative to the store; the bytes under a key never change."""
    sha256: str
    size_bytes: int
    models: int
    """The number of its models."""
    versions: int
    """The number of their published versions."""
    listed_sha256: str | None
    """A digest of what a listing of the store said of its models: while the listing says the same, it is not made anew.
    None where a listing has no etags, as that of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedIndex:
    """What a feed consists of."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[2] = 2
    """1: a single document with all models, which a rebuild replaces."""
    generated_at: AwareDatetime
    """When the index last changed."""
    made_by: str
    """The onnx-fleet that made the shards."""
    models: int
    """The number of models in all shards."""
    versions: int
    """The number of their published versions."""
    shards: tuple[ShardEntry, ...]
    """The shards by name; one without models is left out."""


D = TypeVar("D", FeedIndex, FeedShard)


def shard_of(model_id: str) -> str:
    """Return the name of the shard that has a model."""
    return hashlib.sha256(model_id.encode()).hexdigest()[:2]


def index_of(shards: Iterable[ShardEntry], *, made_by: str, generated_at: AwareDatetime) -> FeedIndex:
    """Return the index of shards."""
    entries = tuple(sorted(shards, key=lambda entry: entry.shard))
    return FeedIndex(
        generated_at=generated_at,
        made_by=made_by,
        models=sum(entry.models for entry in entries),
        versions=sum(entry.versions for entry in entries),
        shards=entries,
    )


def parse(kind: type[D], data: bytes, *, where: str) -> D:
    """Parse a document of the feed.

    Raises:
        BundleCorrupt: it is not such a document.
    """
    try:
        return jsonio.adapter(kind).validate_json(data, strict=True)
    except ValidationError as err:
        raise BundleCorrupt(
            f"{where}: is not a document of a feed; run `onnx-fleet feed rebuild` or the DAG registry_feed"
        ) from err
