"""Find out what a store supports, by doing it under a prefix of its own, which is removed afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from onnx_fleet.store import folder_probe, layout
from onnx_fleet.store.capability import StoreCheck
from onnx_fleet.store.local import LocalStore
from onnx_fleet.store.objects import ObjectStore


def check(store: ObjectStore, *, trying: Callable[[str], None] = lambda name: None) -> StoreCheck:
    """Try what a store can do.

    The prefix lies under ``scratch/``, so that what a check leaves that was killed is swept like that of a run.

    Args:
        trying: a function that is called with the name of each thing before it is tried.
    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked, or nothing can be written there.
        TypeError: it is neither a folder nor a bucket, but something in front of one.
    """
    folder = f"{layout.SCRATCH}check-{secrets.token_hex(8)}/"
    if isinstance(store, LocalStore):
        return folder_probe.check(store, folder, trying=trying)
    from onnx_fleet.store import s3_probe  # boto3 takes 0.3 s to import
    from onnx_fleet.store.s3 import S3Store

    if not isinstance(store, S3Store):
        raise TypeError(f"{store!r} is neither a folder nor a bucket")
    return s3_probe.check(store.place, folder, trying=trying)
