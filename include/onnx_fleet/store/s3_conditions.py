"""Whether a server holds the conditions of writes, asked once a process before the first such write.

A server that refuses a condition says so. One that ignores it overwrites silently, which only a second, contradicting
write shows: two of an object that is for nothing else, and one with a wrong ETag, tell. This module imports boto3.
"""

from __future__ import annotations

import secrets
from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from onnx_fleet.errors import StoreUnavailable
from onnx_fleet.store import layout, s3_codes, s3_errors
from onnx_fleet.store.s3_client import S3Place
from onnx_fleet.store.s3_trial import Trial

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FOLDER: Final = f"{layout.SCRATCH}conditions-"
"""How the keys begin by which a server is asked; one that cannot be removed is swept as what runs leave."""
_OF_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn")
_NO_ETAG: Final = '"00000000000000000000000000000000"'

_known: dict[tuple[str, str], str] = {}
_asking = Lock()


def ignored(place: S3Place, client: S3Client) -> str:
    """Return the header that a bucket's server takes and ignores; nothing where it holds conditions, or refuses them.

    It takes four requests the first time, and none later or on AWS. A writer that may not write under ``scratch/``
    cannot ask, and goes on.

    Raises:
        StoreUnavailable, StoreNotFound: the server does not answer, or in a way that passes.
    """
    endpoint = client.meta.endpoint_url
    if str(urlsplit(endpoint).hostname).endswith(_OF_AWS):
        return ""
    with _asking:
        asked = endpoint, place.address.bucket
        if asked not in _known:
            with s3_errors.translated(str(place.address)):
                _known[asked] = _found(place, client)
        return _known[asked]


def _found(place: S3Place, client: S3Client) -> str:
    prefix = f"{place.address.prefix}/" if place.address.prefix else ""
    tried = Trial(place=place, client=client, folder=f"{prefix}{FOLDER}{secrets.token_hex(8)}", checksums=False)

    def is_done(**condition: str) -> bool:
        reply = tried.put("", b"", **condition)
        if reply.error and s3_codes.meaning_of(reply.code, reply.status).error is StoreUnavailable:
            raise reply.error
        return reply.done

    try:
        if not is_done(IfNoneMatch="*"):
            return ""
        if is_done(IfNoneMatch="*"):
            return "If-None-Match"
        return "If-Match" if is_done(IfMatch=_NO_ETAG) else ""
    finally:
        tried.remove()
