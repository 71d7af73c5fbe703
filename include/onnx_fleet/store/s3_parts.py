"""Large objects of a bucket: sent in parts, or made by the server of another object's bytes."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from boto3.s3.transfer import TransferConfig
from s3transfer.utils import ChunksizeAdjuster

from onnx_fleet.store.objects import Progress

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_COPIED_WHOLE: Final = 256 * 1024 * 1024
"""The size in bytes from which on the server copies in parts, several at a time: one request of it stays short."""


def part_bytes(size: int, *, wanted: int) -> int:
    """Return the size of a part: what is wanted, or more where an object would have too many parts."""
    adjusted: int = ChunksizeAdjuster().adjust_chunksize(wanted, size)
    return adjusted


def send(
    client: S3Client,
    path: Path,
    *,
    bucket: str,
    key: str,
    size: int,
    part: int,
    extra: dict[str, Any],
    progress: Progress | None,
) -> None:
    """Send a file in parts.

    Args:
        size: the file's, in bytes.
        part: the size of a part, in bytes.
        extra: further parameters of the request, in boto3's terms.
    Raises:
        ClientError, BotoCoreError: the server refuses, or does not answer.
    """
    with path.open("rb") as file:
        client.upload_fileobj(
            file,
            bucket,
            key,
            ExtraArgs=extra,
            Callback=_Counted(progress, size) if progress else None,
            Config=TransferConfig(multipart_threshold=1, multipart_chunksize=part),
        )


def copy(client: S3Client, source: str, *, bucket: str, key: str, part: int, extra: dict[str, Any]) -> None:
    """Have the server copy an object of the bucket; no byte of it passes through this machine.

    Args:
        source: the other object's key.
        part: the size of a part, in bytes, where it is large.
        extra: further parameters of the request, in boto3's terms.
    Raises:
        ClientError, BotoCoreError: the server refuses, or does not answer.
    """
    client.copy(
        {"Bucket": bucket, "Key": source},
        bucket,
        key,
        ExtraArgs=extra,
        Config=TransferConfig(multipart_threshold=_COPIED_WHOLE, multipart_chunksize=part),
    )


class _Counted:
    """boto3 tells how many more bytes went, from many threads; onnx-fleet tells how many there are by now."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done, self._lock = progress, total, 0, Lock()

    def __call__(self, more: int) -> None:
        with self._lock:
            self._done += more
            self._progress(min(self._done, self._total), self._total)
