"""Where bundles live: an S3 bucket, or a local folder with the same semantics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.errors import StoreNotFound
from onnx_fleet.store.address import S3Settings, is_s3, parse_s3
from onnx_fleet.store.objects import Leftover, ObjectInfo, ObjectStore, Progress

if TYPE_CHECKING:
    from botocore.credentials import Credentials

__all__ = ["Leftover", "ObjectInfo", "ObjectStore", "Progress", "S3Settings", "open_store"]


def open_store(address: str, *, s3: S3Settings | None = None, credentials: Credentials | None = None) -> ObjectStore:
    """Open the store at an address; nothing is asked of it yet.

    Args:
        address: ``s3://bucket/prefix`` or a folder's path.
        s3: how to reach the S3 server; None leaves everything to boto3's own chain.
        credentials: what requests to an S3 server are signed with, in the place of what the settings name; those that
            refresh themselves are asked anew at each request.

    Raises:
        StoreNotFound: the address names no store.
        StoreDenied: the settings are not usable.
    """
    if is_s3(address):
        from onnx_fleet.store.s3 import S3Store  # boto3 takes 0.3 s to import

        return S3Store(parse_s3(address), settings=s3 or S3Settings(), credentials=credentials)
    if "://" in address:
        raise StoreNotFound(f"{address!r}: unknown kind of store; write s3://BUCKET/PREFIX or the path of a folder")
    if not address:
        raise StoreNotFound("no store is named; write s3://BUCKET/PREFIX or the path of a folder")
    from onnx_fleet.store.local import LocalStore

    return LocalStore(Path(address))
