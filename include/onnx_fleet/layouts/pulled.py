"""Pull a bundle into a folder that is arranged for a server, which appears whole and verified, or not at all.

.<name>.bundle      the bundle as pull gathers it; an interrupted call goes on from there
.<name>.arranged    its files under second names, beside what is written for the server: renamed to <name> in one step
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, folder_exchange, manifest, trust
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import FILE_NAME, Manifest
from onnx_fleet.bundles.pull import pull as pull_plainly
from onnx_fleet.bundles.trust_policy import TrustPolicy
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, FolderOccupied, StoreUnavailable
from onnx_fleet.layouts import arrangement, genai, kserve, triton
from onnx_fleet.layouts.arrangement import RECORD, Arrangement, Choice, Layout, Record, Subject
from onnx_fleet.store import ObjectStore, Progress, keys, transfer

LayoutName = Literal["triton", "kserve", "genai"]

LAYOUTS: Final[Mapping[LayoutName, Layout]] = {
    "triton": triton.arrange,
    "kserve": kserve.arrange,
    "genai": genai.arrange,
}


def pull(
    ref: Ref | str,
    *,
    store: ObjectStore,
    to: Path,
    layout: LayoutName,
    choice: Choice,
    update: bool = False,
    policy: TrustPolicy | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Put a bundle into a folder as a server reads it.

    Whether the layout takes the bundle is known before anything is downloaded. Nothing happens when the folder holds
    this very arrangement already, whole.

    Args:
        to: the folder to make; an empty one is taken as well. An update follows a link.
        update: take the place of an arrangement of another version of the model, in one step, and mend changed files.
        policy: whose signatures the bundle needs, before anything of it is fetched; None needs none.

    Raises:
        LayoutUnsupported: the server cannot run the bundle's graphs; nothing was written.
        BundleNotFound: there is no such bundle.
        BundleUntrusted: it does not have the signatures that the policy asks for.
        BundleCorrupt: a file in the store, or in the folder, is not as the manifest says.
        FolderOccupied: the folder holds something else, or cannot be exchanged in one step.
        WorkerOutOfResources: the disk is full.
    """
    found = bundle.find(ref, store=store)
    if policy:
        trust.require_trusted(trust.judge(found, policy=policy, store=store))
    wanted = _arranged(found, store=store, layout=layout, choice=choice)
    record = arrangement.record(wanted, layout=layout, found=found)
    target = to.resolve() if update else to.absolute()
    with transfer.local_disk(str(target)):
        occupied = any(target.iterdir()) if target.is_dir() else target.exists()
        if occupied and not update:
            _require_this(record, target)
            return found.manifest
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.layout.lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                _Work(target=target, found=found, policy=policy).do(
                    wanted, record, store=store, occupied=occupied, progress=progress
                )
            finally:
                lock.unlink(missing_ok=True)
    except Timeout as err:
        raise StoreUnavailable(
            f"{target}: another pull is writing to it; wait until that has ended, then try again"
        ) from err
    return found.manifest


def _arranged(found: Bundle, *, store: ObjectStore, layout: LayoutName, choice: Choice) -> Arrangement:
    digests = {file.path: file.sha256 for file in found.manifest.files}

    def read(path: str) -> bytes:
        data = store.read(found.key(path))
        if transfer.sha256_of(data) != digests[path]:
            raise BundleCorrupt(
                f"{ref_of(found)}: {path} has other bytes in {store.address} than its manifest lists;"
                f" {manifest.remedy(found.model_id)}"
            )
        return data

    return LAYOUTS[layout](Subject(manifest=found.manifest, choice=choice, read=read))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The folders of one call."""

    target: Path
    found: Bundle
    policy: TrustPolicy | None

    @property
    def gathered(self) -> Path:
        return self.target.with_name(f".{self.target.name}.bundle")

    @property
    def arranged(self) -> Path:
        return self.target.with_name(f".{self.target.name}.arranged")

    def do(
        self, wanted: Arrangement, record: Record, *, store: ObjectStore, occupied: bool, progress: Progress | None
    ) -> None:
        """Gather, arrange, and take the target's place; what a killed call left behind is taken up, or goes."""
        with transfer.local_disk(str(self.target)):
            shutil.rmtree(self.arranged, ignore_errors=True)
            standing = _standing(record, self.target) if occupied else None
            if standing is None or standing != record or _damaged(record, self.target):
                if standing:
                    _require_nothing_of_others(standing, self.target)
                    self._take_back(standing)
                self._gather(store=store, progress=progress)
                arrangement.write(wanted, self.arranged, bundle=self.gathered, record=record)
                self._appear(exchanged=occupied)
            for folder in (self.gathered, self.arranged):
                shutil.rmtree(folder, ignore_errors=True)

    def _take_back(self, standing: Record) -> None:
        """Give what stands its places in a bundle back, so that equal files are not fetched again."""
        if self.gathered.exists():
            return
        arrangement.place(self.target / FILE_NAME, self.gathered / FILE_NAME)
        for file in standing.files:
            source, path = self.target / file.path, self.gathered / (file.bundle_path or "")
            if file.bundle_path and source.is_file() and not path.exists():
                arrangement.place(source, path)

    def _gather(self, *, store: ObjectStore, progress: Progress | None) -> None:
        ref = Ref(model_id=self.found.model_id, channel=None, version=self.found.version)
        try:
            pull_plainly(ref, store=store, to=self.gathered, update=True, policy=self.policy, progress=progress)
        except FolderOccupied:  # what a killed call left there is of no use here
            shutil.rmtree(self.gathered)
            pull_plainly(ref, store=store, to=self.gathered, policy=self.policy, progress=progress)

    def _appear(self, *, exchanged: bool) -> None:
        if exchanged:
            folder_exchange.exchange(self.arranged, self.target)
            return
        if self.target.is_dir():
            self.target.rmdir()
        self.arranged.rename(self.target)


def _standing(record: Record, target: Path) -> Record:
    """Return the record of what the folder holds.

    Raises:
        FolderOccupied: it holds no arrangement, or one of another model.
    """
    try:
        standing = jsonio.parse(Record, (target / RECORD).read_bytes())
    except (OSError, ValueError) as err:
        raise FolderOccupied(
            f"{target}: is not empty and has no {RECORD} that says how a bundle was arranged in it; name another"
            " folder, or an empty one"
        ) from err
    if (standing.model_id, standing.layout) != (record.model_id, record.layout):
        raise FolderOccupied(f"{target}: holds {ref_of(standing)} in the layout {standing.layout}; name another folder")
    return standing


def _damaged(record: Record, target: Path) -> list[str]:
    """Return the arranged files that are missing in a folder, or differ there."""
    expected = {FILE_NAME: record.manifest_sha256, **{file.path: file.sha256 for file in record.files}}
    paths = {path: target / keys.checked(path) for path in expected}
    return [path for path, at in paths.items() if not at.is_file() or transfer.hash_file(at) != expected[path]]


def _require_this(record: Record, target: Path) -> None:
    """Refuse a folder that does not hold this arrangement, whole."""
    standing = _standing(record, target)
    if standing != record:
        raise FolderOccupied(
            f"{target}: holds {ref_of(standing)} in the layout {standing.layout}, arranged in another way; to replace"
            " it, pull with --update, or name another folder"
        )
    if bad := _damaged(record, target):
        raise BundleCorrupt(
            f"{target}: holds {ref_of(record)} with missing or changed files ({', '.join(bad[:5])});"
            " pull it with --update to restore them"
        )


def _require_nothing_of_others(standing: Record, target: Path) -> None:
    own = {file.path for file in standing.files} | {FILE_NAME, RECORD}
    folder_exchange.require_nothing_of_others(target, is_own=own.__contains__, holds=ref_of(standing))
