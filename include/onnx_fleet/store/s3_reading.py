"""Reading a bucket: an answer that breaks off goes on, a damaged one is asked for again, a refusal is explained.

A refused HEAD has no body, so that keys which ran out look like any other 400: the reason is asked for with a GET, and
where that is not refused the HEAD is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, FlexibleChecksumError

from onnx_fleet.errors import BundleNotFound, StoreNotFound, StoreUnavailable
from onnx_fleet.store import s3_checksums, s3_errors, transfer
from onnx_fleet.store.objects import ObjectInfo, Progress
from onnx_fleet.store.s3_client import S3Place
from onnx_fleet.store.s3_retries import again_on

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

ABSENT = frozenset({"NoSuchKey", "NoSuchUpload", "404", "NotFound"})
"""The codes of an answer by which there is no such object, or no such upload."""


class _BrokenOff(StoreUnavailable):
    """The answer's body ended early, which boto3 does not retry: go on from there."""


class _Damaged(StoreUnavailable):
    """The answer's body has another digest than the server keeps: nothing of it can be used."""


class _Passed(StoreUnavailable):
    """A HEAD was refused, and the same question as a GET was not: ask again."""


class S3Reader:
    """The objects of a bucket, as a store reads them; ObjectStore says what each method returns and raises."""

    def __init__(self, place: S3Place, client: S3Client) -> None:
        self._place = place
        self._at = place.address
        self._client = client
        self._bucket_seen = False

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """Return an object's bytes and its ETag."""
        for attempt in again_on(_BrokenOff, _Damaged):
            with attempt:
                with s3_errors.translated(self._place.where(key)):
                    try:
                        answer = self._client.get_object(Bucket=self._at.bucket, Key=self._place.key(key))
                    except ClientError as err:
                        raise self._absent(key, err) from err
                with self._body(key), closing(answer["Body"]) as body:
                    return body.read(), bare(answer["ETag"])
        raise AssertionError("tenacity either returns or raises")

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in pieces."""
        info = self.info(key)
        done = 0
        for attempt in again_on(_BrokenOff):
            with attempt:
                for chunk in self._read_from(info, done):
                    done += len(chunk)
                    yield chunk

    def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
        """Write an object to a file, going on from what an earlier call left."""
        info = self.info(key)
        for attempt in again_on(_BrokenOff, _Damaged):
            with attempt:
                try:
                    transfer.receive(
                        info, path, read_from=lambda start: self._read_from(info, start), progress=progress
                    )
                except _Damaged:
                    transfer.discard_parts(path)
                    raise
        return info

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what the server says of an object; None where there is none."""
        head = self.head(key)
        if head is None:
            return None
        return ObjectInfo(
            key=key,
            size_bytes=head["ContentLength"],
            etag=bare(head["ETag"]),
            sha256=s3_checksums.whole(head.get("ChecksumSHA256")),
        )

    def info(self, key: str) -> ObjectInfo:
        """Return what the server says of an object.

        Raises:
            BundleNotFound: there is none.
        """
        info = self.stat(key)
        if info is None:
            raise BundleNotFound(f"{self._place.where(key)}: there is no such object in the store")
        return info

    def head(self, key: str) -> HeadObjectOutputTypeDef | None:
        """Return the server's answer to a HEAD, with its digests where it keeps any; None where there is no object."""
        for attempt in again_on(_Passed):
            with attempt, s3_errors.translated(self._place.where(key)):
                try:
                    found = self._client.head_object(
                        Bucket=self._at.bucket, Key=self._place.key(key), **self._asking_checksums()
                    )
                except ClientError as err:
                    self._explain(err, partial(self._read_a_byte, key))
                    self._absent(key, err)
                    return None
                self._bucket_seen = True
                return found
        raise AssertionError("tenacity either returns or raises")

    def _read_a_byte(self, key: str) -> None:
        self._client.get_object(Bucket=self._at.bucket, Key=self._place.key(key), Range="bytes=0-0")["Body"].close()

    def _explain(self, err: ClientError, ask: Callable[[], object]) -> None:
        """Raise a refusal again with its code: the answer to a HEAD has no body to name it, that to a GET has one.

        Args:
            ask: the same question as a GET.
        Raises:
            _Passed: it is not refused by now: keys that ran out were renewed meanwhile, or the server was wrong.
        """
        if s3_errors.status_of(err) not in (400, 403):
            return
        try:
            ask()
        except ClientError as told:
            if s3_errors.status_of(told) != 404:
                raise told from err
        raise _Passed(
            f"{self._at}: the server answered {s3_errors.status_of(err)} to a HEAD, and at once did what it had"
            " refused; try again, and have its log looked at where it happens often"
        ) from err

    def _absent(self, key: str, err: ClientError) -> BundleNotFound:
        """Make the error for an answer that says that there is no such object; any other answer is raised again.

        A HEAD's 404 does not say whether the bucket or the object is missing: the bucket is asked for, once.
        """
        if s3_errors.code_of(err) not in ABSENT:
            raise err
        if not self._bucket_seen:
            try:
                self._client.head_bucket(Bucket=self._at.bucket)
            except ClientError as bucket_err:
                if s3_errors.status_of(bucket_err) == 404:
                    raise StoreNotFound(
                        f"{self._at}: there is no bucket {self._at.bucket!r}; create it, or correct the store's address"
                    ) from bucket_err
                if s3_errors.status_of(bucket_err) != 403:  # a policy may allow the prefix and not the bucket
                    self._explain(bucket_err, lambda: self._client.list_objects_v2(Bucket=self._at.bucket, MaxKeys=1))
                    raise
            self._bucket_seen = True
        return BundleNotFound(f"{self._place.where(key)}: there is no such object in the store")

    def _read_from(self, info: ObjectInfo, start: int) -> Iterator[bytes]:
        """Yield the object's bytes from an offset on; raise StoreUnavailable when it was replaced meanwhile."""
        if start >= info.size_bytes:
            return
        with s3_errors.translated(self._place.where(info.key)):
            wanted: dict[str, Any] = {"Range": f"bytes={start}-"} if start else {}
            answer = self._client.get_object(Bucket=self._at.bucket, Key=self._place.key(info.key), **wanted)
        with closing(answer["Body"]) as body:
            # The answer's own ETag is compared: what If-Match promises, also where quoted ETags never match.
            if bare(answer["ETag"]) != info.etag:
                raise StoreUnavailable(f"{self._place.where(info.key)}: was replaced while it was read; run it again")
            with self._body(info.key):
                yield from body.iter_chunks(transfer.CHUNK_BYTES)

    @contextmanager
    def _body(self, key: str) -> Iterator[None]:
        try:
            with s3_errors.translated(self._place.where(key)):
                yield
        except StoreUnavailable as err:
            damaged = isinstance(err.__cause__, FlexibleChecksumError)
            raise (_Damaged if damaged else _BrokenOff)(str(err)) from err.__cause__

    def _asking_checksums(self) -> dict[str, Any]:
        return {"ChecksumMode": "ENABLED"} if self._place.settings.checksum_mode == "when_supported" else {}


def bare(etag: str) -> str:
    """Return an ETag without quotes, and without the mark of a weak one."""
    return etag.removeprefix("W/").strip('"')
