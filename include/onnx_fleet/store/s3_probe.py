"""What an S3 server can do: each request that onnx-fleet relies on is really made, with small objects.

A server may take a header and ignore it, which only a second, contradicting request shows. This module imports boto3;
check.py imports it when an address needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from onnx_fleet.store import capability, s3_checksums, s3_errors, transfer
from onnx_fleet.store.capability import IS_AN_ERROR, IS_IGNORED, ONE_WINS, ONE_WRITER, Capability, StoreCheck
from onnx_fleet.store.s3_client import S3Place
from onnx_fleet.store.s3_trial import NOT_ALLOWED, Reply, Trial, reply_to

_AT_ONCE: Final = 8
"""How many writers race."""
_LISTED: Final = ("listed/B", "listed/a", "listed/a-b", "listed/a.b", "listed/a/b", "listed/a0")
"""Keys in the order of their bytes, which is not that of words."""
_REFUSED: Final = (409, 412)
"""How a server says that a condition did not hold."""


def check(place: S3Place, folder: str, *, trying: Callable[[str], None]) -> StoreCheck:
    """Try what a bucket's server can do.

    Args:
        folder: what the keys of the check begin with, below the store's prefix; a slash at its end.
        trying: a function that is called with the name of each thing before it is tried.
    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the server does not answer, or nothing can be written there.
    """
    prefix = f"{place.address.prefix}/" if place.address.prefix else ""
    checksums = place.settings.checksum_mode == "when_supported"
    tried = Trial(place=place, client=place.client(), folder=prefix + folder, checksums=checksums)
    found, left = dict[str, Capability](), list[str]()
    with s3_errors.translated(f"{place.address}/{folder}"):
        try:
            for name, probe in _PROBES.items():
                trying(name)
                found[name] = probe(tried)
        finally:
            left += tried.remove()
    return capability.found(str(place.address), found, left=tuple(left))


def _checksums(tried: Trial) -> Capability:
    """Try checksums first: where they are refused, all else is tried without."""
    if not tried.checksums:
        _require(tried, tried.put("summed", b"sum"))
        means = "checksum_mode is when_required: each upload is read back and hashed."
        return Capability(supported="not tried", seen="The store's settings turn them off.", means=means)
    digest = s3_checksums.encoded(transfer.sha256_of(b"sum"))
    sent = tried.put("summed", b"sum", ChecksumSHA256=digest)
    if not sent.done:
        plain = replace(tried.place, settings=replace(tried.place.settings, checksum_mode="when_required"))
        tried.client, tried.checksums = plain.client(), False
        without = tried.put("summed", b"sum")
        _require(tried, sent if sent.status in NOT_ALLOWED or without.status == sent.status else without)
        return Capability(
            supported="no",
            seen=f"An upload with its SHA-256 was answered {sent}, the same without it {without}.",
            means="Nothing can be written as the store is configured: set checksum_mode to when_required. Uploads are"
            " then read back and hashed. All else here was tried without checksums.",
            needed=True,
        )
    head = reply_to(lambda: tried.client.head_object(**tried.at("summed"), ChecksumMode="ENABLED"))
    wrong = tried.put("missummed", b"other bytes", ChecksumSHA256=digest)
    checks, keeps = not wrong.done, head.said.get("ChecksumSHA256") == digest
    seen = f"An upload with the SHA-256 of other bytes was answered {wrong}; the digest of an object is " + (
        "kept." if keeps else "not kept."
    )
    if keeps and not checks:
        means = "An upload that is damaged on its way would not be noticed: set checksum_mode to when_required."
    elif keeps:
        means = "The digest that the server keeps is taken for proof of an upload; nothing is read back."
    else:
        means = "Each upload is read back and hashed, which takes the time of a download."
    return Capability(supported="yes" if checks and keeps else "no", seen=seen, means=means)


def _require(tried: Trial, reply: Reply) -> None:
    """Raise the error of a refusal without which nothing else can be tried."""
    if reply.error:
        raise s3_errors.from_answer(reply.error, where=str(tried.place.address)) from reply.error


def _read_after_write(tried: Trial) -> Capability:
    _require(tried, tried.put("read", b"one"))
    first = tried.get("read")
    _require(tried, tried.put("read", b"two"))
    second = tried.get("read")
    removed = reply_to(lambda: tried.client.delete_object(**tried.at("read")))
    gone = tried.get("read") is None
    if (first, second) != (b"one", b"two"):
        seen = f"After b'one' and then b'two' was written, {first!r} and then {second!r} was read."
    elif not removed.done:
        seen = f"An object was read as it was written last; its removal was answered {removed}."
    else:
        seen = f"An object was read as it was written last, and was {'gone' if gone else 'there'} after its removal."
    right = (first, second) == (b"one", b"two") and (gone or not removed.done)
    means = "A reader sees a version or a channel as soon as its publication has ended."
    if not removed.done:
        means += " A publisher that may not delete works; what it leaves stays under unfinished/ and scratch/."
    return Capability(supported="yes" if right else "no", seen=seen, means=means, needed=True)


def _conditional_create(tried: Trial) -> Capability:
    first = tried.put("created", b"one", IfNoneMatch="*")
    if not first.done:
        return _refused(tried, f"A write with If-None-Match was answered {first}.", first)
    second = tried.put("created", b"two", IfNoneMatch="*")
    stands = tried.get("created")
    seen = f"A second write with If-None-Match was answered {second}, and the object was {_whose(stands, b'one')}."
    if second.done or stands != b"one":
        return _ignored(tried, seen)
    if second.status not in _REFUSED:
        return _refused(tried, seen, second)
    return _raced(tried, seen, _won(lambda number: tried.put("raced", b"%d" % number, IfNoneMatch="*")))


def _conditional_replace(tried: Trial) -> Capability:
    _require(tried, tried.put("replaced", b"one"))
    stale = _etag(tried, "replaced")
    tag, how = f'"{stale}"', ""
    reply = tried.put("replaced", b"two", IfMatch=tag)
    if not reply.done:
        tag, how = stale, " without quotes"
        reply = tried.put("replaced", b"two", IfMatch=tag)
    if not reply.done:
        return _refused(tried, f"A write with the right ETag in If-Match was answered {reply}.", reply)
    late = tried.put("replaced", b"three", IfMatch=tag)
    stands = tried.get("replaced")
    seen = (
        f"A write with an old ETag in If-Match{how} was answered {late}, and the object was {_whose(stands, b'two')}."
    )
    if late.done or stands != b"two":
        return _ignored(tried, seen)
    if late.status not in _REFUSED:
        return _refused(tried, seen, late)
    now = tag.replace(stale, _etag(tried, "replaced"))
    return _raced(tried, seen, _won(lambda number: tried.put("replaced", b"%d" % number, IfMatch=now)))


def _etag(tried: Trial, name: str) -> str:
    return str(tried.client.head_object(**tried.at(name))["ETag"]).removeprefix("W/").strip('"')


def _won(write: Callable[[int], Reply]) -> int:
    """Return how many of several writers at once were told that they had written."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sum(reply.done for reply in pool.map(write, range(_AT_ONCE)))


def _whose(stands: bytes | None, expected: bytes) -> str:
    return "left as it was" if stands == expected else "gone" if stands is None else "overwritten"


def _raced(tried: Trial, seen: str, won: int) -> Capability:
    seen = f"{seen} Of {_AT_ONCE} at once, {won} got through."
    if won > 1:
        return _ignored(tried, seen)
    return Capability(supported="yes", seen=seen, means=ONE_WINS, needed=True)


def _ignored(tried: Trial, seen: str) -> Capability:
    means = IS_IGNORED if tried.required else ONE_WRITER
    return Capability(supported="no", seen=seen, means=means, needed=tried.required)


def _refused(tried: Trial, seen: str, reply: Reply) -> Capability:
    if reply.supported == "not tried":
        _require(tried, reply)
    means = IS_AN_ERROR if tried.required else ONE_WRITER
    return Capability(supported="no", seen=seen, means=means, needed=tried.required)


def _multipart(tried: Trial) -> Capability:
    request, reply = tried.in_one_part("in_parts", b"one")
    right = reply.done and tried.get("in_parts") == b"one"
    part_bytes = tried.place.settings.multipart_bytes
    return Capability(
        supported="yes" if right else "no" if reply.done else reply.supported,
        seen=f"{request} was answered {reply}" + ("." if right or not reply.done else ", and the object is not there."),
        means="Large files go up in parts."
        if right
        else f"Files of {part_bytes} bytes and more (multipart_bytes) cannot be published; raise multipart_bytes above"
        " the largest file, at most 5 GB.",
    )


def _multipart_condition(tried: Trial) -> Capability:
    request, free = tried.in_one_part("created_in_parts", b"one", IfNoneMatch="*")
    if not free.done:
        refused = request == "CompleteMultipartUpload"
        return Capability(
            supported=free.supported if refused else "not tried",
            seen=f"{request} was answered {free}.",
            means="Large files cannot be published (StoreUnsafe), unless single_writer is set."
            if refused and tried.required
            else "It is looked before an upload and afterwards whether other bytes stand there.",
            needed=refused and tried.required,
        )
    _request, taken = tried.in_one_part("created_in_parts", b"two", IfNoneMatch="*")
    stands = tried.get("created_in_parts")
    held = taken.status in _REFUSED and stands == b"one"
    return Capability(
        supported="yes" if held else "no",
        seen=f"A second completion with If-None-Match was answered {taken}, and the object was"
        f" {_whose(stands, b'one')}.",
        means=ONE_WINS
        if held
        else "It is looked before an upload and afterwards, by size and digest, whether other bytes stand there: let"
        " one run at a time publish a model.",
    )


def _open_uploads(tried: Trial) -> Capability:
    began = tried.began("open")
    listed = reply_to(lambda: tried.client.list_multipart_uploads(Bucket=tried.bucket, Prefix=f"{tried.folder}open"))
    keys = [upload["Key"] for upload in listed.said.get("Uploads", ())]
    right = began.done and f"{tried.folder}open" in keys
    return Capability(
        supported="yes" if right else "no" if listed.done and began.done else _worse(began, listed).supported,
        seen="An upload that was begun was listed."
        if right
        else f"The list of open uploads was answered {_worse(began, listed)}, and lacks one that was begun.",
        means="`onnx-fleet sweep` and the DAGs remove what killed writers have left."
        if right
        else "Sweeping cannot find what killed writers have left: use a lifecycle rule of the bucket.",
    )


def _worse(*replies: Reply) -> Reply:
    return next((reply for reply in replies if not reply.done), replies[-1])


def _copy(tried: Trial) -> Capability:
    source = _source(tried)
    reply = reply_to(lambda: tried.client.copy_object(**tried.at("copied"), CopySource=source, **tried.encryption))
    right = reply.done and tried.get("copied") == b"bytes"
    if not right:
        return _not_copied("CopyObject", reply)
    again = reply_to(
        lambda: tried.client.copy_object(**tried.at("copied"), CopySource=source, **tried.encryption, IfNoneMatch="*")
    )
    held = again.status in _REFUSED
    return Capability(
        supported="yes",
        seen=f"CopyObject was answered {reply}; with If-None-Match on a key that is taken, {again}.",
        means="Weights that the version in use has too are copied there, and not sent again."
        + ("" if held else " What is copied is verified by size and digest: let one run at a time publish a model."),
    )


def _part_copy(tried: Trial) -> Capability:
    source, began = _source(tried), tried.began("copied_in_parts")
    if not began.done:
        return _not_copied("CreateMultipartUpload", began)
    at = {**tried.at("copied_in_parts"), "UploadId": began.said["UploadId"]}
    reply = reply_to(lambda: tried.client.upload_part_copy(**at, PartNumber=1, CopySource=source))
    if not reply.done:
        return _not_copied("UploadPartCopy", reply)
    ended = tried.completed(at, reply.said["CopyPartResult"])
    if not ended.done or tried.get("copied_in_parts") != b"bytes":
        return _not_copied("UploadPartCopy, by the bytes of the object that it made,", ended)
    return Capability(
        supported="yes",
        seen=f"UploadPartCopy of a small object, as the last part, was answered {reply}.",
        means="Files of 256 MiB and more are copied in parts, several at a time.",
    )


def _source(tried: Trial) -> Any:
    _require(tried, tried.put("source", b"bytes"))
    return {"Bucket": tried.bucket, "Key": f"{tried.folder}source"}


def _not_copied(request: str, reply: Reply) -> Capability:
    return Capability(
        supported="no" if reply.done else reply.supported,
        seen=f"{request} was answered {reply}" + (", and the bytes are not there." if reply.done else "."),
        means="Weights that stand in the store already are sent again.",
    )


def _listing(tried: Trial) -> Capability:
    """Write keys, remove one, and list after each."""
    for name in reversed(_LISTED):
        _require(tried, tried.put(name, b""))
    listed = _listed(tried)
    reply_to(lambda: tried.client.delete_object(**tried.at(_LISTED[0])))
    removed = tried.get(_LISTED[0]) is None
    stale = removed and _LISTED[0] in _listed(tried)
    whole = sorted(listed) == sorted(_LISTED)
    seen = f"Of {len(_LISTED)} objects that had just been written, {len(listed)} were listed"
    seen += f", and one that had just been removed was {'still' if stale else 'not'} listed." if removed else "."
    return Capability(
        supported="yes" if whole and not stale else "no",
        seen=seen,
        means="Plans, `onnx-fleet list` and the feed show what is published at that moment."
        if whole and not stale
        else "Plans, `onnx-fleet list` and the feed would miss what was just published.",
        needed=True,
    )


def _listing_order(tried: Trial) -> Capability:
    listed = _listed(tried)
    right = len(listed) > 1 and listed == sorted(listed)
    order = "in the order of their bytes" if right else f"as {', '.join(listed) or 'nothing'}"
    return Capability(
        supported="yes" if right else "no",
        seen=f"Keys were listed {order}.",
        means="Nothing relies on it: what is shown in an order is sorted here.",
    )


def _listed(tried: Trial) -> list[str]:
    pages = tried.client.get_paginator("list_objects_v2").paginate(
        Bucket=tried.bucket, Prefix=f"{tried.folder}listed/", PaginationConfig={"PageSize": 2}
    )
    return [item["Key"].removeprefix(tried.folder) for page in pages for item in page.get("Contents", ())]


def _range(tried: Trial) -> Capability:
    _require(tried, tried.put("ranged", b"0123456789"))
    reply = reply_to(lambda: tried.client.get_object(**tried.at("ranged"), Range="bytes=4-"))
    data = tried.get("ranged", Range="bytes=4-")
    right = reply.status == 206 and data == b"456789"
    return Capability(
        supported="yes" if right else reply.supported if not reply.done else "no",
        seen=f"A read of the bytes from the fifth on was answered {reply} with {len(data or b'')} of 6 bytes.",
        means="A download that broke off goes on where it was."
        if right
        else "A download that breaks off fails, and begins anew the next time.",
    )


def _versioning(tried: Trial) -> Capability:
    reply = reply_to(lambda: tried.client.get_bucket_versioning(Bucket=tried.bucket))
    on = reply.said.get("Status") == "Enabled"
    return Capability(
        supported="yes" if on else reply.supported if not reply.done else "no",
        seen=f"The bucket's versioning is {reply.said.get('Status', 'off').lower()}."
        if reply.done
        else f"The question was answered {reply}.",
        means="Each move of a channel and each removal keeps the earlier object, also of this check: have a lifecycle"
        " rule expire noncurrent versions."
        if on
        else "Nothing relies on it: bundles never change, and each move of a channel has a row in its history.",
    )


def _object_lock(tried: Trial) -> Capability:
    reply = reply_to(lambda: tried.client.get_object_lock_configuration(Bucket=tried.bucket))
    said = reply.said.get("ObjectLockConfiguration", {})
    retention = said.get("Rule", {}).get("DefaultRetention")
    on = said.get("ObjectLockEnabled") == "Enabled"
    return Capability(
        supported="yes" if on else reply.supported if not reply.done else "no",
        seen=f"The bucket has object lock, with {retention or 'no default retention'}."
        if on
        else f"The question was answered {reply}.",
        means="What is under a retention is not removed before its end, temporary objects included. Each write needs a"
        " checksum there: leave checksum_mode at when_supported."
        if retention
        else "Nothing relies on it.",
    )


def _encryption(tried: Trial) -> Capability:
    _require(tried, tried.put("encrypted", b"bytes"))
    used = tried.client.head_object(**tried.at("encrypted")).get("ServerSideEncryption")
    asked = tried.place.settings.sse
    return Capability(
        supported="yes" if used else "no",
        seen=f"An object was put {f'with {asked}' if asked else 'without a word about encryption'}, and is"
        f" {f'encrypted with {used}' if used else 'not said to be encrypted'}.",
        means=f"Each write asks for it, as sse says ({asked})."
        if asked
        else "The bucket's default holds; sse asks for another one with each write.",
    )


_PROBES: Final[Mapping[str, Callable[[Trial], Capability]]] = {
    "checksums": _checksums,
    "read_after_write": _read_after_write,
    "conditional_create": _conditional_create,
    "conditional_replace": _conditional_replace,
    "multipart": _multipart,
    "multipart_condition": _multipart_condition,
    "open_uploads": _open_uploads,
    "copy": _copy,
    "part_copy": _part_copy,
    "listing": _listing,
    "listing_order": _listing_order,
    "range": _range,
    "versioning": _versioning,
    "object_lock": _object_lock,
    "encryption": _encryption,
}
