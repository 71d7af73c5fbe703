"""An S3 bucket as a store, right on servers that differ.

What was seen of servers, and the answer here:

- PutObject with ``If-None-Match: *`` is atomic on AWS, ministack, SeaweedFS and Ceph RGW: create() relies on it, and
  reads back what stands there, so that a writer that lost on a server which ignores the header learns it.
- A quoted ETag never matches ``If-Match`` on RGW 16: replace() then tries the bare ETag.
- ``If-Match`` is not implemented (501) on OpenStack Swift. Two writers in the same instant could both believe that they
  won, so that a write whose condition is refused is StoreUnsafe. With ``single_writer``, by which a deployment promises
  that there is one writer, it is compared, written and read back.
- A server that takes a condition and ignores it is found out before the first such write of a process
  (s3_conditions.py), and is StoreUnsafe likewise.
- CompleteMultipartUpload ignores ``If-None-Match`` on RGW 16 and moto, CopyObject on most servers but AWS: upload()
  looks first, and verifies size and digest of what stands there afterwards.
- CopyObject is refused where a policy lets nobody read, or not implemented: the bytes are sent, then.
- boto3's checksums are refused (RGW 411, Swift 501) or dropped: ``checksum_mode="when_required"`` sends none, and the
  digest is then taken by reading the object back.
- CompleteMultipartUpload answers without an ETag on RGW: nothing is taken from its answer.
- An answer may be lost and the request sent again by boto3: a 412 is held against what stands there.

This module imports boto3; open_store imports it when an address needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from onnx_fleet.errors import (
    BundleCorrupt,
    BundleNotFound,
    StoreUnavailable,
    StoreUnsafe,
    VersionConflict,
)
from onnx_fleet.store import (
    keys,
    layout,
    s3_checksums,
    s3_client,
    s3_conditions,
    s3_errors,
    s3_parts,
    s3_reading,
    transfer,
)
from onnx_fleet.store.address import S3Address, S3Settings
from onnx_fleet.store.objects import Leftover, ObjectInfo, Progress
from onnx_fleet.store.s3_client import S3Place
from onnx_fleet.store.s3_reading import S3Reader
from onnx_fleet.store.s3_retries import again_on

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

log = logging.getLogger(__name__)

_LOST = {"PreconditionFailed", "412"}
_RACED = {"ConditionalRequestConflict", "409"}


class _Raced(Exception):
    """The server answered 409, since it saw two conditional writes at once and did neither; ask again."""


class S3Store:
    """A store in a bucket, under a prefix."""

    def __init__(self, address: S3Address, *, settings: S3Settings, credentials: Credentials | None = None) -> None:
        self.place = S3Place(address=address, settings=settings, credentials=credentials)
        self._at = address
        self._settings = settings
        self._client = self.place.client()
        self._creating = s3_client.only_where_absent(self.place.client())
        self._reader = S3Reader(self.place, self._client)

    def __repr__(self) -> str:
        return f"S3Store({self.address!r}, endpoint_url={self._settings.endpoint_url!r})"

    @property
    def address(self) -> str:
        return str(self._at)

    def read(self, key: str) -> bytes:
        return self._reader.read_tagged(key)[0]

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        return self._reader.read_tagged(key)

    def chunks(self, key: str) -> Iterator[bytes]:
        return self._reader.chunks(key)

    def stat(self, key: str) -> ObjectInfo | None:
        return self._reader.stat(key)

    def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
        return self._reader.download(key, path, progress=progress)

    def create(self, key: str, data: bytes) -> bool:
        if self._reader.head(key) is not None:
            return False
        try:
            self._put(key, data, {"IfNoneMatch": "*"})
        except ClientError as err:
            if s3_errors.code_of(err) in _LOST:
                return False
            if s3_errors.status_of(err) != 501:
                raise s3_errors.from_answer(err, where=self.place.where(key)) from err
            self._require_one_writer(key, "If-None-Match", err)
            self._put_plainly(key, data)
        return self.read(key) == data

    def replace(self, key: str, data: bytes, *, etag: str | None) -> None:
        if etag is None:
            if not self.create(key, data):
                raise VersionConflict(f"{self.place.where(key)}: exists already; read it and decide again")
            return
        refusal: ClientError | None = None
        for condition in (f'"{etag}"', etag):
            try:
                self._put(key, data, {"IfMatch": condition})
                return
            except ClientError as err:
                refusal = err
                code, status = s3_errors.code_of(err), s3_errors.status_of(err)
                if status != 501 and code not in _LOST | s3_reading.ABSENT:
                    raise s3_errors.from_answer(err, where=self.place.where(key)) from err
                if s3_errors.was_sent_again(err) and self._stands(key, data):
                    return  # the first answer was lost: this one is about our own bytes
                self._require_etag(key, etag)
        self._require_one_writer(key, "If-Match", refusal)
        self._require_etag(key, etag)
        self._put_plainly(key, data)
        if not self._stands(key, data):
            raise self._moved(key)

    def upload(
        self,
        key: str,
        path: Path,
        *,
        sha256: str,
        overwrite: bool = False,
        copy_of: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        with transfer.local_disk(str(path)):
            size = path.stat().st_size
            if transfer.hash_file(path) != sha256:
                raise BundleCorrupt(f"{path}: its bytes do not have the digest {sha256}; export the model again")
        head = self._reader.head(key)
        if head is not None:
            if head["ContentLength"] == size and self._holds(key, head, path, sha256):
                return _verified(key, head, sha256)
            if not overwrite:
                raise self._taken(key)
        if not overwrite:
            self._require_conditions(key)
        sent = self._copy(copy_of, key, path, size=size, sha256=sha256, overwrite=overwrite) if copy_of else None
        if sent is None:
            sent = self._send(key, path, size=size, overwrite=overwrite, progress=progress)
        head = self._reader.head(key)
        if head is None or head["ContentLength"] != size or not self._holds(key, head, path, sha256):
            if not sent:
                raise self._taken(key)
            raise StoreUnavailable(
                f"{self.place.where(key)}: has other bytes after the upload than were sent, by another writer or a"
                " damaged transfer; run it again"
            )
        return _verified(key, head, sha256)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        keys.checked_prefix(prefix)
        base = self.place.base
        wanted: dict[str, Any] = {"StartAfter": base + after} if after else {}
        with s3_errors.translated(self.place.where(prefix)):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._at.bucket, Prefix=base + prefix, **wanted
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(base)
                    if key > after and not key.endswith("/"):  # consoles make folders as empty objects
                        yield ObjectInfo(
                            key=key,
                            size_bytes=item["Size"],
                            etag=s3_reading.bare(item.get("ETag", "")),
                            modified_at=item.get("LastModified"),
                        )

    def delete(self, key: str) -> None:
        with s3_errors.translated(self.place.where(key)):
            self._client.delete_object(Bucket=self._at.bucket, Key=self.place.key(key))

    def leftovers(self) -> Iterator[Leftover]:
        base = self.place.base
        with s3_errors.translated(self.place.where("")):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._at.bucket, Prefix=base)
            for page in pages:
                for upload in page.get("Uploads", ()):
                    key = upload["Key"].removeprefix(base)
                    if key.startswith(layout.IN_PARTS):  # a store that has no prefix shares its bucket
                        yield Leftover(name=upload["UploadId"], key=key, began_at=upload["Initiated"], size_bytes=None)

    def discard(self, leftover: Leftover) -> None:
        if leftover.key is None:
            return
        with s3_errors.translated(self.place.where(leftover.key)):
            try:
                self._client.abort_multipart_upload(
                    Bucket=self._at.bucket, Key=self.place.key(leftover.key), UploadId=leftover.name
                )
            except ClientError as err:
                if s3_errors.code_of(err) not in s3_reading.ABSENT:
                    raise

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> None:
        """Call PutObject; ClientErrors are the caller's, but for a 409, which is asked again."""
        if condition:
            self._require_conditions(key)
        sent: dict[str, Any] = {**condition, **self._encryption()}
        if self._settings.checksum_mode == "when_supported":
            sent["ChecksumSHA256"] = s3_checksums.encoded(transfer.sha256_of(data))
        try:
            for attempt in again_on(_Raced):
                with attempt, s3_errors.translated_but_answers(self.place.where(key)):
                    try:
                        self._client.put_object(Bucket=self._at.bucket, Key=self.place.key(key), Body=data, **sent)
                    except ClientError as err:
                        if s3_errors.code_of(err) in _RACED:
                            raise _Raced from err
                        raise
        except _Raced as err:
            raise self._moved(key) from err

    def _put_plainly(self, key: str, data: bytes) -> None:
        with s3_errors.translated(self.place.where(key)):
            self._put(key, data, {})

    def _stands(self, key: str, data: bytes) -> bool:
        try:
            return self.read(key) == data
        except BundleNotFound:
            return False

    def _require_etag(self, key: str, etag: str) -> None:
        found = self.stat(key)
        if found is None or found.etag != etag:
            raise self._moved(key)

    def _require_conditions(self, key: str) -> None:
        """Refuse to write where the server would ignore a condition, unless nobody else writes."""
        if self._settings.single_writer or not (header := s3_conditions.ignored(self.place, self._client)):
            return
        raise StoreUnsafe(
            f"{self.place.where(key)}: the server took a write with {header} and did it against that condition, so that"
            " two writers would overwrite each other, and none would be told; `onnx-fleet store check` says what this"
            " server supports; set single_writer where one process at a time writes here, or use another server"
        )

    def _require_one_writer(self, key: str, condition: str, refusal: ClientError | None) -> None:
        """Refuse to write where the server does not hold the condition, unless nobody else writes."""
        if self._settings.single_writer:
            return
        said = f"{s3_errors.status_of(refusal)} {s3_errors.code_of(refusal)}" if refusal else "nothing"
        raise StoreUnsafe(
            f"{self.place.where(key)}: the server answered {said} to a write with {condition}, so that two writers"
            " could overwrite each other; `onnx-fleet store check` says what this server supports, and whether it is"
            " checksums that it refuses (checksum_mode); set single_writer where one process at a time writes here, or"
            " use another server"
        ) from refusal

    def _taken(self, key: str) -> VersionConflict:
        return VersionConflict(f"{self.place.where(key)}: exists already with other bytes; read them and decide again")

    def _moved(self, key: str) -> VersionConflict:
        return VersionConflict(
            f"{self.place.where(key)}: another writer changed it meanwhile; read it and decide again"
        )

    def _send(self, key: str, path: Path, *, size: int, overwrite: bool, progress: Progress | None) -> bool:
        """Put the bytes there; return False when something stands there by now, and it is not to be overwritten."""
        try:
            if size < self._settings.multipart_bytes:
                with transfer.local_disk(str(path)):
                    data = path.read_bytes()
                self._put(key, data, {} if overwrite else {"IfNoneMatch": "*"})
                if progress:
                    progress(size, size)
            else:
                client, part = self._client if overwrite else self._creating, self._part_bytes(size)
                at, extra = {"bucket": self._at.bucket, "key": self.place.key(key)}, self._of_a_large_one()
                with s3_errors.translated_but_answers(self.place.where(key)):
                    s3_parts.send(client, path, **at, size=size, part=part, extra=extra, progress=progress)
        except ClientError as err:
            if s3_errors.code_of(err) in _LOST:
                return False
            if s3_errors.status_of(err) == 501 and not overwrite:
                self._require_one_writer(key, "If-None-Match", err)
                # it was looked at before, and is looked at afterwards
                return self._send(key, path, size=size, overwrite=True, progress=progress)
            raise s3_errors.from_answer(err, where=self.place.where(key)) from err
        return True

    def _copy(self, source: str, key: str, path: Path, *, size: int, sha256: str, overwrite: bool) -> bool | None:
        """Have the server put the bytes of another object there; as _send, and None where they are to be sent."""
        head = self._reader.head(source)
        if head is None or head["ContentLength"] != size or self._holds_by_digest(head, path, sha256) is False:
            return None
        client, part = self._client if overwrite else self._creating, self._part_bytes(size)
        at, extra = {"bucket": self._at.bucket, "key": self.place.key(key)}, self._of_a_large_one()
        try:
            with s3_errors.translated_but_answers(self.place.where(key)):
                s3_parts.copy(client, self.place.key(source), **at, part=part, extra=extra)
        except ClientError as err:
            if s3_errors.code_of(err) in _LOST:
                return False
            log.debug("%s: the server does not copy %s: %s", self.place.where(key), source, err)
            return None
        return True

    def _part_bytes(self, size: int) -> int:
        return s3_parts.part_bytes(size, wanted=self._settings.multipart_bytes)

    def _of_a_large_one(self) -> dict[str, Any]:
        digested = self._settings.checksum_mode == "when_supported"
        return {**self._encryption(), **({"ChecksumAlgorithm": "SHA256"} if digested else {})}

    def _holds(self, key: str, head: HeadObjectOutputTypeDef, path: Path, sha256: str) -> bool:
        """Tell whether the object has these bytes: by the digest that the server keeps, or else by reading it back."""
        found = self._holds_by_digest(head, path, sha256)
        return transfer.hash_chunks(self.chunks(key)) == sha256 if found is None else found

    def _holds_by_digest(self, head: HeadObjectOutputTypeDef, path: Path, sha256: str) -> bool | None:
        """Tell by the digest that the server keeps whether an object has these bytes; None where that does not tell."""
        kept = head.get("ChecksumSHA256")
        if kept and "-" not in kept:
            return s3_checksums.whole(kept) == sha256
        return True if kept and kept == s3_checksums.of_parts(path, self._part_bytes(head["ContentLength"])) else None

    def _encryption(self) -> dict[str, str]:
        sse = {"ServerSideEncryption": self._settings.sse, "SSEKMSKeyId": self._settings.sse_kms_key_id}
        return {name: value for name, value in sse.items() if value}


def _verified(key: str, head: HeadObjectOutputTypeDef, sha256: str) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=head["ContentLength"], etag=s3_reading.bare(head["ETag"]), sha256=sha256)
