"""A bucket, the small requests by which it is tried, and their answers. This module imports boto3."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from onnx_fleet.store import s3_errors
from onnx_fleet.store.capability import Answer
from onnx_fleet.store.s3_client import S3Place

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

NOT_ALLOWED: Final = (401, 403)
"""The statuses that say that a right is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a server answered."""

    status: int
    code: str = ""
    error: ClientError | None = None
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.error is None

    @property
    def supported(self) -> Answer:
        """What the answer says of the server: nothing where a right is missing, or where it is busy or broken."""
        says_nothing = self.status in NOT_ALLOWED or (self.status >= 500 and self.status != 501)
        return "yes" if self.done else "not tried" if says_nothing else "no"

    def __str__(self) -> str:
        return f"{self.status} {self.code}".strip()


@dataclass(slots=True, kw_only=True)
class Trial:
    """A bucket, and what was put there to try it."""

    place: S3Place
    client: S3Client
    folder: str
    """What the keys begin with, from the bucket's root."""
    checksums: bool
    """Whether requests carry checksums."""
    keys: list[str] = field(default_factory=list)
    uploads: list[tuple[str, str]] = field(default_factory=list)

    @property
    def bucket(self) -> str:
        return self.place.address.bucket

    @property
    def required(self) -> bool:
        """Whether conditions have to hold, since several may write."""
        return not self.place.settings.single_writer

    @property
    def encryption(self) -> dict[str, Any]:
        settings = self.place.settings
        sse = {"ServerSideEncryption": settings.sse, "SSEKMSKeyId": settings.sse_kms_key_id}
        return {name: value for name, value in sse.items() if value}

    @property
    def summed(self) -> dict[str, Any]:
        """What asks for the digests of parts, as the product's own uploads do."""
        return {"ChecksumAlgorithm": "SHA256"} if self.checksums else {}

    def at(self, name: str) -> dict[str, Any]:
        """Return where an object of the check lies, which is removed afterwards."""
        key = self.folder + name
        if key not in self.keys:
            self.keys.append(key)
        return {"Bucket": self.bucket, "Key": key}

    def put(self, name: str, data: bytes, **more: Any) -> Reply:
        """Put an object."""
        return reply_to(lambda: self.client.put_object(**self.at(name), Body=data, **self.encryption, **more))

    def get(self, name: str, **more: Any) -> bytes | None:
        """Return an object; None where it cannot be read."""
        try:
            with self.client.get_object(**self.at(name), **more)["Body"] as body:
                data: bytes = body.read()
        except ClientError:
            return None
        return data

    def began(self, name: str) -> Reply:
        """Begin an upload in parts."""
        reply = reply_to(lambda: self.client.create_multipart_upload(**self.at(name), **self.encryption, **self.summed))
        if reply.done:
            self.uploads.append((self.folder + name, reply.said["UploadId"]))
        return reply

    def in_one_part(self, name: str, data: bytes, **condition: Any) -> tuple[str, Reply]:
        """Put an object by an upload of one part; return the request that was answered last, and its answer."""
        began = self.began(name)
        if not began.done:
            return "CreateMultipartUpload", began
        at = {**self.at(name), "UploadId": began.said["UploadId"]}
        sent = reply_to(lambda: self.client.upload_part(**at, **self.summed, PartNumber=1, Body=data))
        if not sent.done:
            return "UploadPart", sent
        return "CompleteMultipartUpload", self.completed(at, sent.said, **condition)

    def completed(self, at: Mapping[str, Any], part: Mapping[str, Any], **condition: Any) -> Reply:
        """Complete an upload of one part; whoever asked for digests of parts has to name them again."""
        digests = {name: value for name, value in part.items() if name in ("ETag", "ChecksumSHA256")}
        parts: Any = {"Parts": [{"PartNumber": 1, **digests}]}
        return reply_to(lambda: self.client.complete_multipart_upload(**at, MultipartUpload=parts, **condition))

    def remove(self) -> list[str]:
        """Remove what was put there, and return the addresses of what could not be."""
        left = []
        for key, upload in self.uploads:
            try:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
            except (ClientError, BotoCoreError) as err:
                log.debug("%s: the upload %s is not there to be removed: %s", key, upload, err)  # it is complete
        for key in self.keys:
            try:
                self.client.delete_object(Bucket=self.bucket, Key=key)
            except (ClientError, BotoCoreError) as err:
                log.warning("s3://%s/%s cannot be removed: %s", self.bucket, key, err)
                left.append(f"s3://{self.bucket}/{key}")
        return left


def reply_to(ask: Callable[[], Any]) -> Reply:
    """Make a request, and return what the server answers, a refusal too."""
    try:
        said = ask()
    except ClientError as err:
        return Reply(status=s3_errors.status_of(err), code=s3_errors.code_of(err), error=err)
    return Reply(status=said["ResponseMetadata"]["HTTPStatusCode"], said=said)
