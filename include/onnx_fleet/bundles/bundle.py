"""Bundles: seal a stage into a manifest; name a bundle in a store and find it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

from onnx_fleet.bundles import channels, manifest, renames, tombstones
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, BundleDeleted, BundleNotFound
from onnx_fleet.store import ObjectStore, layout, transfer

LATEST = "latest"

WORTH_COPYING: Final = 1024 * 1024
"""The size in bytes from which on a file is looked for in the store: to ask for a copy takes two requests."""

_VERSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}")
_MODEL_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A bundle as people name it: ``org/name``, ``org/name@stable``, ``org/name@1a2b3c4d-5e6f7a8b``."""

    model_id: str
    channel: str | None
    version: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a ref; without ``@…`` it is the latest channel.

        Raises:
            BundleNotFound: the text names no bundle.
        """
        model_id, at, name = text.partition("@")
        is_version = bool(_VERSION.fullmatch(name))
        if not _MODEL_ID.fullmatch(model_id) or (at and not is_version and not channels.is_name(name)):
            raise BundleNotFound(
                f"{text!r}: does not name a bundle; write ORG/NAME, ORG/NAME@CHANNEL or ORG/NAME@VERSION"
            )
        if is_version:
            return cls(model_id=model_id, channel=None, version=name)
        return cls(model_id=model_id, channel=name or LATEST, version=None)

    def __str__(self) -> str:
        return f"{self.model_id}@{self.version or self.channel}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A published bundle."""

    model_id: str
    version: str
    prefix: str
    """The beginning of all keys of its files; the last character is a slash."""
    manifest: Manifest
    manifest_json: bytes = field(repr=False)
    """The manifest's bytes as the store has them."""

    @property
    def manifest_sha256(self) -> str:
        return transfer.sha256_of(self.manifest_json)

    def key(self, path: str) -> str:
        """Return the key of one of the bundle's files in the store."""
        return self.prefix + path


def find(ref: Ref | str, *, store: ObjectStore) -> Bundle:
    """Return the bundle that a ref names.

    Raises:
        BundleNotFound: the store has no such model, channel or version; BundleDeleted where it was removed.
        BundleCorrupt: its manifest is not readable, or is another bundle's.
    """
    ref = Ref.parse(ref) if isinstance(ref, str) else ref
    try:
        return _find(ref, store=store)
    except BundleDeleted:
        raise
    except BundleNotFound as err:
        if note := renames.find(store, ref.model_id):
            raise BundleNotFound(f"{ref}: {store.address} has no such bundle; {note}") from err
        raise


def stored_files(model_id: str, channel: str, *, store: ObjectStore) -> dict[str, str]:
    """Return where the version that a channel points at keeps its large files, for the store to copy: SHA-256 -> key.

    Nothing, where there is none or its manifest cannot be read.
    """
    try:
        found = find(Ref(model_id=model_id, channel=channel, version=None), store=store)
    except (BundleNotFound, BundleCorrupt):
        return {}
    return {file.sha256: found.key(file.path) for file in found.manifest.files if file.size_bytes >= WORTH_COPYING}


def _find(ref: Ref, *, store: ObjectStore) -> Bundle:
    version = ref.version or channels.read(store, ref.model_id, ref.channel or LATEST).version
    key = layout.manifest_key(ref.model_id, version)
    try:
        data = store.read(key)
    except BundleNotFound as err:
        require_undeleted(store, ref.model_id, version)
        raise BundleNotFound(
            f"{ref}: {store.address} has no version {version} of it; `onnx-fleet list` shows what is there"
        ) from err
    if ref.version:  # what a channel points to is never removed
        require_undeleted(store, ref.model_id, version)
    found = manifest.read(data, where=f"{store.address}/{key}")
    if (found.bundle.model_id, found.bundle.version) != (ref.model_id, version):
        raise BundleCorrupt(
            f"{store.address}/{key}: is the manifest of {ref_of(found.bundle)}; publish the model again"
        )
    return Bundle(
        model_id=ref.model_id,
        version=version,
        prefix=layout.bundle_prefix(ref.model_id, version),
        manifest=found,
        manifest_json=data,
    )


def require_undeleted(store: ObjectStore, model_id: str, version: str) -> None:
    """Refuse a version that is gone, also while its files go.

    Raises:
        BundleDeleted: it was removed; the message says when, by whom, why, and where its manifest is.
    """
    if found := tombstones.find(store, model_id, version):
        raise tombstones.error(store, found)
