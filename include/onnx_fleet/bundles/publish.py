"""Publish: files first, then the manifest, the channel, the event. docs/decisions/publishing.md says why it is safe.

models/<org>/<name>/<version>/…             each file once; the manifest is the commit point
unfinished/<org>/<name>/<version>/          there until all of it is through: who finds it finishes the publication
    decision.json                           the manifest that will stand: the first writer's
    files/<sha256>                          bytes that cannot stand at their place yet
    signatures/<sha256>/<key>.sig.json      the signatures of the manifest with that digest, should it be decided on
    through                                 in a store whose publisher may not delete: nothing is left to do
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from onnx_fleet.bundles import bundle, channels, events, fleet_event, manifest, seal, signatures, tombstones
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.bundles.manifest import BundleFile, Manifest, Provenance, Regression
from onnx_fleet.bundles.signing_key import SigningKey
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import BundleNotFound, StoreDenied, StoreUnavailable, VersionConflict
from onnx_fleet.store import ObjectInfo, ObjectStore, Progress, layout, transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A bundle that stands in the store now."""

    model_id: str
    version: str
    state: Literal["published", "unchanged"]
    """Whether this publication put the bundle there; ``unchanged``: it stood there before."""
    location: str
    """The address of the bundle's folder."""
    size_bytes: int
    manifest_sha256: str
    regression: Regression | None = None
    """The comparison with the version in use; None where there was none."""
    held: bool = False
    """Whether its gates keep the channel where it was."""


def publish(
    stage: Stage,
    *,
    store: ObjectStore,
    provenance: Provenance,
    created_at: datetime,
    channel: str = bundle.LATEST,
    move: bool = False,
    by: Actor | None = None,
    stored: Mapping[str, str] | None = None,
    signing_key: SigningKey | None = None,
    progress: Progress | None = None,
) -> Publication:
    """Seal a stage and put it into the store, whole or not at all; then the channel points at it, if its gates let it.

    The same bundle twice does nothing, also to the channel: files but for the reports decide whether it is the same.
    A publication that another writer did not get through with is finished first. A large file that the store has
    already, in the version in use or among what is said to be stored, is copied there and not sent again.

    Args:
        move: have the channel point at it also where the bundle stands already.
        by: who moves the channel; None for the run of the provenance.
        stored: where else the store has files: SHA-256 -> key.
        signing_key: what to sign the bundle with: its signature is there before the manifest is. A bundle that stands
            already is not signed.
    Raises:
        ValidationFailed: the stage's reports do not say that its graphs are right.
        VersionConflict: other graphs stand under the same version.
        BundleNotFound: nothing was exported into the stage, or no channel can be called that.
        BundleDeleted: the version was removed from the store, so that nothing is published under it again.
    """
    channels.checked_name(channel)
    by = by or Actor(kind="run", name=provenance.run_id)
    sealed = seal.seal(stage, provenance=provenance, created_at=created_at)
    attempt = _Attempt(
        folder=stage.folder,
        store=store,
        sealed=sealed,
        channel=channel,
        stored=stored or {},
        signing_key=signing_key,
        progress=progress,
    )
    standing, state = attempt.run()
    sha256 = transfer.sha256_of(standing)
    stands = manifest.read(standing, where=f"{store.address}/{attempt.manifest_key}")
    begun = state == "published" or bool(unfinished(store, under=attempt.unfinished))
    if begun:
        held = settle(stands, manifest_sha256=sha256, store=store, channel=channel, by=by, now=created_at, begun=True)
    _require_same(stands, sealed, where=f"{store.address}/{attempt.prefix}")
    if not begun:
        pointer = (
            _point(stands, store, channel, by=by, now=created_at, begun=False)
            if move
            else channels.find(store, sealed.bundle.model_id, channel)
        )
        held = _is_held(stands, pointer)
    return publication_of(stands, state=state, manifest_sha256=sha256, store=store, held=held)


def publication_of(
    stands: Manifest,
    *,
    state: Literal["published", "unchanged"],
    manifest_sha256: str,
    store: ObjectStore,
    held: bool,
) -> Publication:
    """Return the publication of a bundle that stands.

    Args:
        held: whether its gates keep the channel from it.
    """
    info = stands.bundle
    return Publication(
        model_id=info.model_id,
        version=info.version,
        state=state,
        location=f"{store.address}/{layout.bundle_prefix(info.model_id, info.version)}".rstrip("/"),
        size_bytes=stands.size_bytes,
        manifest_sha256=manifest_sha256,
        regression=stands.regression,
        held=held,
    )


def unfinished(store: ObjectStore, *, under: str = layout.UNFINISHED) -> frozenset[tuple[str, str]]:
    """Return the model ids and versions whose publication was begun and not finished.

    Args:
        under: what the keys begin with that are looked at: those of all publications, or of one.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for info in store.list(under):
        if match := layout.UNFINISHED_KEY.fullmatch(info.key):
            found.setdefault((match[1], match[2]), set()).add(match[3])
    return frozenset(about for about, names in found.items() if layout.THROUGH not in names)


def settle(
    stands: Manifest, *, manifest_sha256: str, store: ObjectStore, channel: str, by: Actor, now: datetime, begun: bool
) -> bool:
    """Finish the publication of a bundle that stands: the channel, the event, and what publishing kept is cleared away.

    The manifest that stands decides and not who asks, so that every later run comes to the same: a bundle that was held
    stays so until a person moves the channel to it, or a newer one passes.

    Args:
        by: who moves the channel.
        begun: whether it is among the unfinished ones; of another one there is only the channel to see to.
    Returns:
        Whether its gates keep the channel from it.
    Raises:
        VersionConflict: other writers keep moving the channel.
    """
    pointer = _point(stands, store, channel, by=by, now=now, begun=begun)
    if begun:
        _tell(store, stands, pointer, manifest_sha256=manifest_sha256, by=by, now=now)
        _clear(store, stands.bundle.model_id, stands.bundle.version)
    return _is_held(stands, pointer)


def _tell(
    store: ObjectStore, stands: Manifest, pointer: Channel, *, manifest_sha256: str, by: Actor, now: datetime
) -> None:
    """Tell of a publication, and keep in the channel's history that it did not follow, where it did not."""
    told = [
        fleet_event.of_publication(
            stands, pointer, manifest_sha256=manifest_sha256, by=by, why=_judged(stands), now=now
        )
    ]
    if pointer.version != stands.bundle.version:
        why = "the channel is held where it is" if pointer.held else f"held back by its gates; {_judged(stands)}"
        channels.keep_back(store, pointer, stands.bundle.version, by=by, why=why, now=now)
        told.append(
            fleet_event.of_held_version(stands, pointer, manifest_sha256=manifest_sha256, by=by, why=why, now=now)
        )
    events.append_all(store, told)


def _point(stands: Manifest, store: ObjectStore, channel: str, *, by: Actor, now: datetime, begun: bool) -> Channel:
    """Have a channel point at a bundle that stands, unless its gates keep it from there."""
    info = stands.bundle
    stay = stands.regression is not None and stands.regression.verdict == "held"
    why = f"published; {_judged(stands)}" if begun else "a run found it published, and it is the one to use"
    reason = MoveReason(kind="published" if begun else "repointed", by=by, why=why)
    return channels.ensure(store, info.model_id, channel, info.version, reason=reason, now=now, stay=stay)


def _judged(stands: Manifest) -> str:
    """Say what the gates found in a version, as the end of a sentence."""
    if stands.regression is None:
        return "there was no version in use to compare it with"
    if not stands.regression.findings:
        return f"it is not worse than {stands.regression.compared_with}"
    findings = "; ".join(f"{finding.gate}: {finding.message}" for finding in stands.regression.findings)
    return f"it is worse than {stands.regression.compared_with}: {findings}"


def _clear(store: ObjectStore, model_id: str, version: str) -> None:
    """Remove what led to a published bundle; where this publisher may not, record that it is no longer needed."""
    prefix = layout.unfinished_prefix(model_id, version)
    try:
        for info in list(store.list(prefix)):
            store.delete(info.key)
    except StoreDenied:
        store.create(prefix + layout.THROUGH, b"")


def is_held(stands: Manifest, *, store: ObjectStore, channel: str) -> bool:
    """Say whether its gates keep a channel from a bundle now; not so where a person holds the channel."""
    return _is_held(stands, channels.find(store, stands.bundle.model_id, channel))


def _is_held(stands: Manifest, pointer: Channel | None) -> bool:
    if stands.regression is None or stands.regression.verdict != "held" or pointer is None:
        return False
    return pointer.version != stands.bundle.version and not pointer.held


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """One writer's way to a published version; any number of them may be under way at once, or left half done."""

    folder: Path
    store: ObjectStore
    sealed: Manifest
    channel: str
    stored: Mapping[str, str]
    """Where else than in the version in use the store has files: SHA-256 -> key."""
    signing_key: SigningKey | None
    progress: Progress | None
    prefix: str = field(init=False)
    manifest_key: str = field(init=False)
    unfinished: str = field(init=False)
    sent: dict[str, ObjectInfo] = field(init=False, default_factory=dict)
    """The objects that this attempt has verified, by key."""

    def __post_init__(self) -> None:
        info = self.sealed.bundle
        self.prefix = layout.bundle_prefix(info.model_id, info.version)
        self.manifest_key = layout.manifest_key(info.model_id, info.version)
        self.unfinished = layout.unfinished_prefix(info.model_id, info.version)

    def run(self) -> tuple[bytes, Literal["published", "unchanged"]]:
        """Publish the bundle; returns the manifest that stands at the end, and whether it stood there before."""
        standing = self._standing()
        self._claim()
        if standing is not None:
            return standing, "unchanged"
        self._send_files()
        mine = manifest.write(self.sealed)
        decided = self._decide(mine)
        standing = self._standing()  # asked after the decision was made: see docs/decisions/publishing.md
        if standing is None:
            stands = manifest.read(decided, where=f"{self.store.address}/{self._decision_key}")
            self._settle(stands)
            self._claim()
            if self.signing_key or decided != mine:
                signatures.put_kept(self._kept_signatures(decided), to=self.sealed.bundle, of=stands, store=self.store)
            self.store.create(self.manifest_key, decided)
            self._claim()  # whoever marks it from here on sees the manifest: see docs/decisions/retention.md
            standing = self.store.read(self.manifest_key)
        self._remove_extras(manifest.read(standing))
        return standing, "published" if standing == decided else "unchanged"

    def _claim(self) -> None:
        tombstones.claim(self.store, self.sealed.bundle.model_id, self.sealed.bundle.version)

    @property
    def _decision_key(self) -> str:
        return f"{self.unfinished}decision.json"

    def _kept_key(self, file: BundleFile) -> str:
        return f"{self.unfinished}files/{file.sha256}"

    def _kept_signatures(self, manifest_json: bytes) -> str:
        return f"{self.unfinished}signatures/{transfer.sha256_of(manifest_json)}/"

    def _standing(self) -> bytes | None:
        try:
            return self.store.read(self.manifest_key)
        except BundleNotFound:
            return None

    def _send_files(self) -> None:
        """Send each file to its place; where another attempt's bytes stand, to a key that is only for these bytes."""
        done = 0
        stored = dict(self.stored)
        if any(file.size_bytes >= bundle.WORTH_COPYING and file.sha256 not in stored for file in self.sealed.files):
            stored |= bundle.stored_files(self.sealed.bundle.model_id, self.channel, store=self.store)
        for file in self.sealed.files:
            key, path = self.prefix + file.path, self.folder / file.path
            progress = self._progress_from(done)
            known = stored.get(file.sha256) if file.size_bytes >= bundle.WORTH_COPYING else None
            try:
                self.sent[key] = self.store.upload(key, path, sha256=file.sha256, copy_of=known, progress=progress)
            except VersionConflict:
                self.store.upload(self._kept_key(file), path, sha256=file.sha256, progress=progress)
            done += file.size_bytes
            if self.progress:
                self.progress(done, self.sealed.size_bytes)

    def _decide(self, mine: bytes) -> bytes:
        """Return the manifest that will stand: this attempt's, or the one that another attempt decided on before."""
        if self.signing_key:  # before the decision, so that whoever carries it out finds the signature with it
            signatures.keep(self.sealed, key=self.signing_key, prefix=self._kept_signatures(mine), store=self.store)
        if self.store.create(self._decision_key, mine):
            return mine
        try:
            return self.store.read(self._decision_key)
        except BundleNotFound:
            return mine  # the other one is through: its manifest stands, and is found next

    def _settle(self, decided: Manifest) -> None:
        """Put every file of the decision at its place, verified, and remove everything else."""
        mine = {file.sha256: self.folder / file.path for file in self.sealed.files}
        for file in decided.files:
            key = self.prefix + file.path
            if self._holds(key, file):
                continue
            if file.sha256 in mine:
                self.store.upload(key, mine[file.sha256], sha256=file.sha256, overwrite=True)
            else:
                self._restore(key, file)
        self._remove_extras(decided)

    def _holds(self, key: str, file: BundleFile) -> bool:
        info = self.store.stat(key)
        if info is None or info.size_bytes != file.size_bytes:
            return False
        sent = self.sent.get(key)
        if sent is not None and sent.etag == info.etag:
            return sent.sha256 == file.sha256
        return (info.sha256 or transfer.hash_chunks(self.store.chunks(key))) == file.sha256

    def _restore(self, key: str, file: BundleFile) -> None:
        """Bring bytes that only the store has to their place: another attempt decided, and did not get through."""
        with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as scratch:
            path = Path(scratch) / file.sha256
            try:
                self.store.download(self._kept_key(file), path)
            except BundleNotFound as err:
                if self._standing() is not None:
                    return  # the other one is through meanwhile
                raise StoreUnavailable(
                    f"{self.store.address}/{self.unfinished}: another attempt decided on a {file.path} that is"
                    " missing; if no other run is publishing this version, delete this folder and publish again"
                ) from err
            if transfer.hash_file(path) != file.sha256:
                raise StoreUnavailable(
                    f"{self.store.address}/{self._kept_key(file)}: other bytes than its name says arrived; run it"
                    " again, and where that does not help, delete this object and publish again"
                )
            self.store.upload(key, path, sha256=file.sha256, overwrite=True)

    def _remove_extras(self, decided: Manifest) -> None:
        """Remove files of other attempts that are not the bundle's."""
        wanted = {self.prefix + file.path for file in decided.files} | {self.manifest_key}
        for info in list(self.store.list(self.prefix)):
            if info.key not in wanted:
                with suppress(StoreDenied):  # a publisher that may not delete leaves them, and verify names them
                    self.store.delete(info.key)

    def _progress_from(self, start: int) -> Progress | None:
        tell, total = self.progress, self.sealed.size_bytes
        return (lambda done, _size: tell(start + done, total)) if tell else None


def _require_same(stands: Manifest, sealed: Manifest, *, where: str) -> None:
    ours, theirs = _identity(sealed), _identity(stands)
    differing = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    if differing:
        raise VersionConflict(
            f"{where}: this version is already published with other bytes ({', '.join(differing[:5])});"
            f" a published bundle never changes: {manifest.remedy(stands.bundle.model_id)}"
        )


def _identity(sealed: Manifest) -> Mapping[str, str]:
    """Return the digests that decide whether two bundles are the same; reports, which always differ, are left out."""
    return {file.path: file.sha256 for file in sealed.files if file.role != "report"}
