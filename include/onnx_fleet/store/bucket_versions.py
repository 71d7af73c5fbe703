"""What a bucket keeps of objects that were removed: earlier versions, and what is under a retention."""

from __future__ import annotations

from onnx_fleet.store.forwarding import ForwardingStore
from onnx_fleet.store.local import LocalStore
from onnx_fleet.store.objects import ObjectStore


def notes(store: ObjectStore) -> tuple[str, ...]:
    """Return statements about what stays in the bucket of objects that are removed; of a folder there are none."""
    while isinstance(store, ForwardingStore):
        store = store.store
    if isinstance(store, LocalStore):
        return ()
    from onnx_fleet.store.s3 import S3Store  # boto3 takes 0.3 s to import
    from onnx_fleet.store.s3_trial import reply_to

    if not isinstance(store, S3Store):
        return ()
    client, bucket = store.place.client(), store.place.address.bucket
    versioning = reply_to(lambda: client.get_bucket_versioning(Bucket=bucket))
    if not versioning.done:
        return (
            f"{bucket} does not say whether it keeps removed objects (the question was answered {versioning}); if it"
            " does, have a lifecycle rule expire noncurrent versions",
        )
    if versioning.said.get("Status") not in ("Enabled", "Suspended"):
        return ()
    rules = reply_to(lambda: client.get_bucket_lifecycle_configuration(Bucket=bucket)).said.get("Rules", ())
    if any(rule["Status"] == "Enabled" and "NoncurrentVersionExpiration" in rule for rule in rules):
        freed = "a lifecycle rule of the bucket expires what is noncurrent"
    else:
        freed = "no lifecycle rule that we may read expires what is noncurrent, so that no room becomes free"
    told = [f"{bucket} has versioning: removed objects stay behind delete markers; {freed}"]
    lock = reply_to(lambda: client.get_object_lock_configuration(Bucket=bucket)).said
    if lock.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled":
        told.append(
            f"{bucket} has object lock: what is under a retention stays there until its end, whatever a rule says"
        )
    return tuple(told)
