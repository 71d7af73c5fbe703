"""The signatures of bundles in a store: beside the bundle, which never changes, and one for each key.

signatures/<org>/<name>/<version>/<key id>.sig.json
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from onnx_fleet.bundles import manifest
from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.manifest import BundleInfo, Manifest
from onnx_fleet.bundles.signing_key import SigningKey, digests_of
from onnx_fleet.errors import BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectStore, layout

_LARGEST_BYTES: Final = 4 * 1024 * 1024
"""The size above which an object is not taken for a signature: one has about 200 bytes for each file of its bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSignature:
    """One object that its place says is a signature; nothing of it has been checked."""

    key_id: str
    """The id of the key that its name says it is of."""
    data: bytes = field(repr=False)
    stored_at: datetime | None
    """The time at which the store says that the object was put there."""

    @property
    def file_name(self) -> str:
        return f"{self.key_id}{layout.SIGNATURE_SUFFIX}"


def find(store: ObjectStore, model_id: str, version: str) -> tuple[StoredSignature, ...]:
    """Return all signatures of a version, by the ids of their keys."""
    found = []
    for info in store.list(layout.signatures_prefix(model_id, version)):
        match = layout.SIGNATURE_KEY.fullmatch(info.key)
        if match and info.size_bytes <= _LARGEST_BYTES:
            data = store.read(info.key)
            found.append(StoredSignature(key_id=match[3], data=data, stored_at=info.modified_at))
    return tuple(found)


def add(found: Bundle, *, key: SigningKey, store: ObjectStore) -> bool:
    """Sign a published bundle; return False, and sign nothing, where it has this key's signature already."""
    place = layout.signature_key(found.model_id, found.version, key.key_id)
    digests = digests_of(found.manifest, manifest_json=found.manifest_json)
    try:
        if key.has_made(store.read(place), digests):
            return False
    except BundleNotFound:
        pass
    _put(place, key.sign(found.manifest, manifest_json=found.manifest_json), digests=digests, store=store)
    return True


def keep(made: Manifest, *, key: SigningKey, prefix: str, store: ObjectStore) -> None:
    """Sign a manifest that a writer would publish, and keep the signature until it is decided which one will stand.

    Args:
        prefix: what the keys begin with of what is kept for this manifest.
    """
    signature = key.sign(made, manifest_json=manifest.write(made))
    store.create(f"{prefix}{key.key_id}{layout.SIGNATURE_SUFFIX}", signature)


def put_kept(prefix: str, *, of: Manifest, to: BundleInfo, store: ObjectStore) -> None:
    """Put the signatures that the writer of a manifest kept to their place, before the manifest stands.

    Nothing is signed here: a manifest that another writer, or anybody who may write to the store, decided on has the
    signatures that came with it, and no other.
    """
    digests = digests_of(of, manifest_json=manifest.write(of))
    for kept in list(store.list(prefix)):
        place = f"{layout.signatures_prefix(to.model_id, to.version)}{kept.key.removeprefix(prefix)}"
        if layout.SIGNATURE_KEY.fullmatch(place) and kept.size_bytes <= _LARGEST_BYTES:
            try:
                signature = store.read(kept.key)
            except BundleNotFound:
                continue  # another writer is through meanwhile, and has put it there
            _put(place, signature, digests=digests, store=store)


def _put(place: str, signature: bytes, *, digests: dict[str, str], store: ObjectStore) -> None:
    """Put a signature to its place; what else stands there is of a version that was removed, or is no signature."""
    if store.create(place, signature):
        return
    standing, etag = store.read_tagged(place)
    if standing == signature:
        return
    try:
        store.replace(place, signature, etag=etag)
    except VersionConflict:
        if not _is_over(store.read(place), digests):  # of another writer, who signs the same
            raise


def _is_over(signature: bytes, digests: dict[str, str]) -> bool:
    from onnx_fleet.bundles import model_signing_format

    return model_signing_format.is_over(signature, digests)
