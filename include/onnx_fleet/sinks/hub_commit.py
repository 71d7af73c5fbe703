"""What a repo on the Hub lacks of a bundle, as one commit: large files one after the other through a temporary one."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from onnx_fleet.bundles import manifest
from onnx_fleet.bundles.bundle import Bundle
from onnx_fleet.bundles.manifest import BundleFile, FileRole, Manifest
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, EventRefused
from onnx_fleet.sinks import hub_card
from onnx_fleet.sinks.hub_client import Head, SinkHub
from onnx_fleet.store import ObjectStore

_FOLDER: Final = "onnx/"
MANIFEST: Final = f"{_FOLDER}{manifest.FILE_NAME}"
"""The path of the bundle's manifest in a repo."""
_LEFT_OUT: Final[frozenset[FileRole]] = frozenset({"readme", "report"})
"""The roles of files that a repo does not get: the card is its own, and the manifest sums the reports up."""


def files_of(sealed: Manifest, *, is_source: bool) -> dict[str, BundleFile]:
    """Return the files that a repo gets, by path: all that consumers load; the source has what is not of ``onnx/``."""
    return {
        file.path: file
        for file in sealed.files
        if (file.path.startswith(_FOLDER) if is_source else file.role not in _LEFT_OUT)
    }


def holds(head: Head, found: Bundle) -> bool:
    """Say whether a repo has a bundle: its manifest byte for byte, and every file with the size or digest of it."""
    standing = head.files.get(MANIFEST)
    if standing is None:
        return False
    if standing.lfs is None:
        is_same = standing.blob_id == _git_blob_id(found.manifest_json)
    else:
        is_same = standing.lfs.sha256 == found.manifest_sha256
    return is_same and all(
        _is_there(head, file) for file in files_of(found.manifest, is_source=head.is_source).values()
    )


def _is_there(head: Head, file: BundleFile) -> bool:
    """Say whether a repo has a file; of one outside LFS, git's id says nothing of its SHA-256, and its size must do."""
    there = head.files.get(file.path)
    if there is None or there.lfs is None:
        return there is not None and there.size == file.size_bytes
    return there.lfs.sha256 == file.sha256


def _git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Change:
    """The commit that brings a bundle to a head."""

    def __init__(self, hub: SinkHub, head: Head, found: Bundle) -> None:
        self._hub = hub
        self._head = head
        self._found = found

    def committed(self, store: ObjectStore) -> str:
        """Commit, and return the commit's address."""
        return self._made(store, create_pr=False)

    def proposed(self, store: ObjectStore) -> str:
        """Open a pull request, and return its address."""
        return self._made(store, create_pr=True)

    def _made(self, store: ObjectStore, *, create_pr: bool) -> str:
        head, found = self._head, self._found
        wanted = files_of(found.manifest, is_source=head.is_source)
        gone = sorted((self._before() - wanted.keys()) & head.files.keys())
        card = self._hub.read(head, hub_card.FILE_NAME)
        if card is None and head.is_source:
            card = b""  # what the source declares of itself is its own affair
        described = hub_card.with_section(card, found, hub_url=self._hub.url)
        with ExitStack() as opened:
            additions = [
                *self._sent(wanted.values(), store=store, opened=opened, create_pr=create_pr),
                CommitOperationAdd(MANIFEST, io.BytesIO(found.manifest_json)),
                CommitOperationAdd(hub_card.FILE_NAME, described),
            ]
            return self._hub.commit(
                head,
                [*additions, *(CommitOperationDelete(path, is_folder=False) for path in gone)],
                message=f"Add the ONNX files of {ref_of(found)}",
                create_pr=create_pr,
            )

    def _before(self) -> set[str]:
        """Return the paths of what an earlier version brought.

        Raises:
            EventRefused: another model's bundle is there.
        """
        data = self._hub.read(self._head, MANIFEST)
        if data is None:
            return set()
        try:
            before = manifest.read(data, where=f"{self._head.repo_id}/{MANIFEST}")
        except BundleCorrupt:
            return set()  # somebody else's file
        if before.bundle.model_id != self._found.model_id:
            raise EventRefused(
                f"{ref_of(self._found)}: {self._head.repo_id} holds {ref_of(before.bundle)}; let the template `repo`"
                " give each model a repo of its own, such as acme/{org}_{name}"
            )
        return set(files_of(before, is_source=self._head.is_source))

    def _sent(
        self, files: Iterable[BundleFile], *, store: ObjectStore, opened: ExitStack, create_pr: bool
    ) -> Iterator[CommitOperationAdd]:
        """Yield an addition for each file that the head lacks, its bytes sent already where they are large."""
        for file in files:
            there = self._head.files.get(file.path)
            if there is not None and there.lfs is not None and there.lfs.sha256 == file.sha256:
                continue
            stream = opened.enter_context(self._stream(file, store=store))
            addition = CommitOperationAdd(file.path, stream)
            if addition.upload_info.sha256.hex() != file.sha256:
                raise BundleCorrupt(
                    f"{store.address}/{self._found.key(file.path)}: has other bytes than its manifest says;"
                    f" {manifest.remedy(self._found.model_id)}"
                )
            self._hub.send(self._head, addition, create_pr=create_pr)
            if addition.path_or_fileobj is not stream:  # it is on the Hub: the disk is free for the next one
                stream.close()
            yield addition

    def _stream(self, file: BundleFile, *, store: ObjectStore) -> BinaryIO:
        """Return a file's bytes as a file without a name, whose room on the disk is free again once it is closed.

        An open file goes to the Hub by LFS, which every Hub has, and not by Xet.
        """
        with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as folder:
            path = Path(folder) / "file"
            store.download(self._found.key(file.path), path)
            return path.open("rb")
