"""Where a store is: an address, and how to reach an S3 server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from onnx_fleet.errors import StoreNotFound
from onnx_fleet.store import keys

ChecksumMode = Literal["when_supported", "when_required"]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How to reach an S3 server; everything that is None is left to boto3's own chain."""

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    """Whether addresses are ``endpoint/bucket/key``; None means that they are where endpoint_url is given."""
    checksum_mode: ChecksumMode = "when_supported"
    """When boto3 sends checksums: ``when_required`` is for servers that refuse or drop them (Ceph RGW, OpenStack
    Swift): uploads are then verified by reading them back."""
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    sse_kms_key_id: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    verify_tls: bool | str = True
    """Whether certificates are verified: False trusts any; a path names a CA bundle."""
    single_writer: bool = False
    """Whether the deployment promises that one process at a time writes to the store. Then a server may lack
    conditional writes; else such a write is an error there."""
    multipart_bytes: int = 16 * MIB
    """The size of an upload's parts, at least 5 MiB; smaller files go up whole."""
    max_attempts: int = 5
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Address:
    """A bucket, and a prefix in it without slashes at its ends."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def is_s3(address: str) -> bool:
    """Tell whether the address names a bucket and not a folder."""
    return address.startswith("s3://")


def parse_s3(address: str) -> S3Address:
    """Split ``s3://bucket/prefix``.

    Raises:
        StoreNotFound: it names no bucket.
        UnsafeModel: the prefix has a part that could lead elsewhere.
    """
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise StoreNotFound(f"{address!r}: names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX")
    prefix = prefix.strip("/")
    keys.checked_prefix(prefix)
    return S3Address(bucket=bucket, prefix=prefix)
