"""The S3 store on servers that differ from AWS, and on bad days."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials

from fixtures.quirky_s3 import Quirks, QuirkyS3, serve
from onnx_fleet.errors import (
    BundleNotFound,
    OnnxFleetError,
    StoreDenied,
    StoreNotFound,
    StoreUnavailable,
    StoreUnsafe,
    VersionConflict,
)
from onnx_fleet.store import ObjectStore, S3Settings, open_store
from onnx_fleet_demo.s3_server import EmbeddedS3

MIB = 1024 * 1024
PART = 5 * MIB


@pytest.fixture
def quirks() -> Quirks:
    """Turned on by each test, before or while it uses the server."""
    return Quirks()


@pytest.fixture
def server(quirks: Quirks) -> Iterator[QuirkyS3]:
    with serve(quirks) as running:
        yield running


@pytest.fixture
def store(server: QuirkyS3) -> ObjectStore:
    return open_store(server.address, s3=server.settings(multipart_bytes=PART))


def _file(path: Path, data: bytes) -> tuple[Path, str]:
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ignores_if_none_match": True},
        {"if_none_match_unimplemented": True},
        {"if_match": "quoted never matches"},
        {"if_match": "unimplemented"},
        {"if_match": "never matches"},
        {"keeps_sha256": False},
    ],
    ids=lambda changes: ", ".join(changes) or "as AWS",
)
def test_one_writer_alone_gets_the_same_answers_from_every_server(changes: dict[str, object], tmp_path: Path) -> None:
    with serve(Quirks(**changes)) as server:  # type: ignore[arg-type]
        store = open_store(server.address, s3=server.settings(multipart_bytes=PART, single_writer=True))
        assert store.create("pointer", b"one")
        assert not store.create("pointer", b"two")
        _data, old = store.read_tagged("pointer")
        store.replace("pointer", b"three", etag=old)
        with pytest.raises(VersionConflict, match="another writer changed it"):
            store.replace("pointer", b"four", etag=old)
        assert store.read("pointer") == b"three"

        for size in (10, PART + 10):
            path, digest = _file(tmp_path / "file", os.urandom(size))
            assert store.upload(f"{size}", path, sha256=digest).sha256 == digest
            assert store.upload(f"{size}", path, sha256=digest).sha256 == digest
            other, other_digest = _file(tmp_path / "other", os.urandom(size))
            with pytest.raises(VersionConflict):
                store.upload(f"{size}", other, sha256=other_digest)
            assert hashlib.sha256(store.read(f"{size}")).hexdigest() == digest
            assert store.upload(f"{size}", other, sha256=other_digest, overwrite=True).sha256 == other_digest


@pytest.mark.parametrize(
    ("changes", "use"),
    [
        ({"if_none_match_unimplemented": True}, lambda store, path: store.create("new", b"two")),
        ({"if_none_match_unimplemented": True}, lambda store, path: store.replace("new", b"two", etag=None)),
        ({"if_none_match_unimplemented": True}, lambda store, path: _uploaded(store, path, 10)),
        ({"if_none_match_unimplemented": True}, lambda store, path: _uploaded(store, path, PART + 10)),
        ({"if_match": "unimplemented"}, lambda store, path: _replaced(store)),
        ({"if_match": "never matches"}, lambda store, path: _replaced(store)),
    ],
    ids=["create", "replace nothing", "upload", "upload in parts", "replace", "replace, never matched"],
)
def test_a_server_that_refuses_a_condition_is_not_written_to_where_several_may_write(
    server: QuirkyS3,
    quirks: Quirks,
    tmp_path: Path,
    changes: dict[str, object],
    use: Callable[[ObjectStore, Path], object],
) -> None:
    store = open_store(server.address, s3=server.settings(multipart_bytes=PART))
    store.create("pointer", b"one")
    for name, value in changes.items():
        setattr(quirks, name, value)
    with pytest.raises(StoreUnsafe, match=r"(?s)two writers could.*onnx-fleet store check.*set single_writer"):
        use(store, tmp_path / "file")
    assert {key: found.body for key, found in server.objects.items()} == {"prefix/pointer": b"one"}


def _uploaded(store: ObjectStore, path: Path, size: int) -> None:
    path, digest = _file(path, os.urandom(size))
    store.upload("file", path, sha256=digest)


def _replaced(store: ObjectStore) -> None:
    _data, etag = store.read_tagged("pointer")
    store.replace("pointer", b"two", etag=etag)


@pytest.mark.parametrize("size", [10, PART + 10])
def test_a_copy_sends_nothing_and_takes_no_ones_place(
    server: QuirkyS3, quirks: Quirks, tmp_path: Path, size: int
) -> None:
    store = open_store(server.address, s3=server.settings(multipart_bytes=PART))
    path, digest = _file(tmp_path / "file", os.urandom(size))
    store.upload("first", path, sha256=digest)
    quirks.requests.clear()
    assert store.upload("second", path, sha256=digest, copy_of="first").sha256 == digest
    assert [told for told in quirks.requests if told.startswith(("PUT", "POST", "COPY"))] == ["COPY prefix/second"]

    quirks.answers = [("HEAD", 404, "NoSuchKey")]  # another writer puts it there after it was looked for
    other, other_digest = _file(tmp_path / "other", os.urandom(size))
    store.upload("third", other, sha256=other_digest)
    with pytest.raises(VersionConflict):
        store.upload("second", other, sha256=other_digest, copy_of="third")
    assert store.read("second") == path.read_bytes()


@pytest.mark.parametrize("refusal", [(501, "NotImplemented"), (403, "AccessDenied"), (404, "NoSuchKey")])
def test_what_a_server_does_not_copy_is_sent(
    server: QuirkyS3, quirks: Quirks, tmp_path: Path, refusal: tuple[int, str]
) -> None:
    store = open_store(server.address, s3=server.settings())
    path, digest = _file(tmp_path / "file", b"bytes")
    store.upload("first", path, sha256=digest)
    quirks.refuses_copies = refusal
    assert store.upload("second", path, sha256=digest, copy_of="first").sha256 == digest
    assert store.read("second") == b"bytes"


@pytest.mark.parametrize("status", [411, 501])
def test_a_server_that_refuses_checksums_is_told_by_the_setting_to_change(
    server: QuirkyS3, quirks: Quirks, status: int
) -> None:
    quirks.refuses_checksums = status
    if status == 411:
        with pytest.raises(StoreDenied, match="set checksum_mode to when_required"):
            open_store(server.address, s3=server.settings()).create("a", b"1")
    store = open_store(server.address, s3=server.settings(checksum_mode="when_required"))
    assert store.create("b", b"1")


def test_with_checksums_off_an_upload_is_read_back(server: QuirkyS3, quirks: Quirks, tmp_path: Path) -> None:
    quirks.refuses_checksums, quirks.keeps_sha256 = 411, False
    store = open_store(server.address, s3=server.settings(checksum_mode="when_required", multipart_bytes=PART))
    for size in (10, PART + 10):
        path, digest = _file(tmp_path / "file", os.urandom(size))
        store.upload(f"{size}", path, sha256=digest)
        assert f"GET prefix/{size}" in quirks.requests


def test_an_upload_that_the_server_keeps_the_digest_of_is_not_read_back(
    store: ObjectStore, quirks: Quirks, tmp_path: Path
) -> None:
    path, digest = _file(tmp_path / "file", b"bytes")
    store.upload("file", path, sha256=digest)
    assert not [request for request in quirks.requests if request.startswith("GET")]


def test_bytes_that_change_on_their_way_are_noticed(server: QuirkyS3, quirks: Quirks, tmp_path: Path) -> None:
    quirks.keeps_sha256 = False
    store = open_store(server.address, s3=server.settings())
    path, digest = _file(tmp_path / "file", b"bytes")

    def damage(_done: int, _total: int) -> None:
        server.objects["prefix/file"].body = b"bytfs"

    with pytest.raises(StoreUnavailable, match="other bytes after the upload than were sent"):
        store.upload("file", path, sha256=digest, progress=damage)


def test_a_lost_answer_to_a_swap_is_no_conflict(store: ObjectStore, quirks: Quirks) -> None:
    store.create("pointer", b"one")
    _data, etag = store.read_tagged("pointer")
    quirks.loses_answers = 1
    store.replace("pointer", b"two", etag=etag)
    assert store.read("pointer") == b"two"


def test_a_lost_answer_to_a_create_leaves_the_bytes_to_be_read(store: ObjectStore, quirks: Quirks) -> None:
    quirks.loses_answers = 1
    assert not store.create("pointer", b"one")
    assert store.read("pointer") == b"one"


def test_a_lost_answer_to_an_upload_is_no_conflict(store: ObjectStore, quirks: Quirks, tmp_path: Path) -> None:
    path, digest = _file(tmp_path / "file", b"bytes")
    quirks.loses_answers = 1
    assert store.upload("file", path, sha256=digest).sha256 == digest


def test_two_conditional_writes_at_once_are_asked_again(store: ObjectStore, quirks: Quirks) -> None:
    quirks.answers = [("PUT", 409, "ConditionalRequestConflict")]
    assert store.create("pointer", b"one")


def test_conditional_writes_that_keep_colliding_are_a_conflict(store: ObjectStore, quirks: Quirks) -> None:
    quirks.answers = [("PUT", 409, "ConditionalRequestConflict")] * 10
    with pytest.raises(VersionConflict):
        store.create("pointer", b"one")


def test_a_body_that_breaks_off_is_asked_for_from_there_on(store: ObjectStore, quirks: Quirks, tmp_path: Path) -> None:
    data = os.urandom(2 * MIB)
    store.create("file", data)
    quirks.cuts_bodies = 2
    store.download("file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data

    quirks.cuts_bodies = 1
    assert b"".join(store.chunks("file")) == data
    quirks.cuts_bodies = 1
    assert store.read("file") == data


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(
    store: ObjectStore, server: QuirkyS3, quirks: Quirks, tmp_path: Path
) -> None:
    store.create("file", b"first bytes")
    quirks.cuts_bodies = 1

    def replace(_done: int, _total: int) -> None:
        server.objects["prefix/file"].body = b"other bytes"

    with pytest.raises(StoreUnavailable, match="was replaced while it was read"):
        store.download("file", tmp_path / "copy", progress=replace)
    assert not (tmp_path / "copy").exists()


def test_an_answer_of_5xx_is_retried(store: ObjectStore, quirks: Quirks) -> None:
    quirks.answers = [("PUT", 503, "SlowDown")]
    assert store.create("a", b"1")


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (403, "AccessDenied", StoreDenied, "credentials that may read, list and write"),
        (403, "SignatureDoesNotMatch", StoreDenied, "AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", StoreUnavailable, "a retry asks for new ones"),
        (400, "TokenRefreshRequired", StoreUnavailable, "a retry asks for new ones"),
        (403, "RequestTimeTooSkewed", StoreUnavailable, "synchronise it"),
        (400, "KMS.ThrottlingException", StoreUnavailable, "may work later"),
        (400, "KMS.DisabledException", StoreDenied, "sse_kms_key_id"),
        (401, "Unauthorized", StoreDenied, "AWS_ACCESS_KEY_ID"),
        (404, "NoSuchBucket", StoreNotFound, "create the bucket"),
        (400, "AuthorizationHeaderMalformed", StoreNotFound, "set the region"),
        (500, "InternalError", StoreUnavailable, "may work later"),
        (503, "SlowDown", StoreUnavailable, "may work later"),
        (507, "InsufficientStorage", StoreUnavailable, "may work later"),
        (429, "TooManyRequests", StoreUnavailable, "may work later"),
        (411, "MissingContentLength", StoreDenied, "checksum_mode"),
        (400, "InvalidRequest", StoreDenied, "correct the store's settings"),
    ],
)
def test_each_answer_has_its_error_and_says_what_to_do(
    store: ObjectStore, quirks: Quirks, status: int, code: str, kind: type[OnnxFleetError], advice: str
) -> None:
    quirks.answers = [("PUT", status, code)] * 10
    with pytest.raises(kind, match=advice) as caught:
        store.create("channels/latest.json", b"1")
    assert "s3://quirks/prefix/channels/latest.json" in str(caught.value)
    assert code in str(caught.value)


def test_keys_that_run_out_while_a_store_is_open_are_renewed(server: QuirkyS3, quirks: Quirks, tmp_path: Path) -> None:
    now, keys = [datetime.now(UTC)], ["first"]

    def renew() -> dict[str, str]:
        keys.append(f"renewed-{len(keys)}")
        until = now[0] + timedelta(hours=1)
        return {"access_key": keys[-1], "secret_key": "s", "token": "t", "expiry_time": until.isoformat()}

    def most_of_an_hour_passes(*_: object) -> None:
        if not waits:
            return
        waits.pop()
        now[0] += timedelta(minutes=50)
        quirks.expired_keys |= set(keys[:-1])  # the last ones have ten minutes left: what is on its way may arrive

    credentials = RefreshableCredentials(
        "first", "s", "t", now[0] + timedelta(hours=1), renew, "test", time_fetcher=lambda: now[0]
    )
    settings = dataclasses.replace(server.settings(multipart_bytes=PART), access_key_id=None, secret_access_key=None)
    store = open_store(server.address, s3=settings, credentials=credentials)
    assert store.create("pointer", b"one")
    path, digest = _file(tmp_path / "file", os.urandom(3 * PART))
    for name in ("one", "two"):
        waits = ["in the middle of the upload"]
        store.upload(name, path, sha256=digest, progress=most_of_an_hour_passes)
        waits = ["in the middle of the download"]
        store.download(name, tmp_path / name, progress=most_of_an_hour_passes)
    _data, etag = store.read_tagged("pointer")
    store.replace("pointer", b"two", etag=etag)
    assert keys == ["first", "renewed-1", "renewed-2", "renewed-3", "renewed-4"]
    assert quirks.expired_keys == {"first", "renewed-1", "renewed-2"}


def test_keys_that_ran_out_are_named_where_the_answer_has_no_body(server: QuirkyS3, quirks: Quirks) -> None:
    quirks.expired_keys = {"key"}
    with pytest.raises(StoreUnavailable, match="the server answered ExpiredToken"):
        open_store(server.address, s3=server.settings()).stat("a")


def test_new_keys_that_are_expired_themselves_may_be_right_later(server: QuirkyS3) -> None:
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    old = {"access_key": "a", "secret_key": "s", "token": "t", "expiry_time": past}
    credentials = RefreshableCredentials.create_from_metadata(old, refresh_using=lambda: old, method="test")
    store = open_store(
        server.address, s3=S3Settings(endpoint_url=server.settings().endpoint_url), credentials=credentials
    )
    for use in (lambda: store.stat("a"), lambda: store.replace("a", b"", etag="e")):
        with pytest.raises(StoreUnavailable, match="still expired; the temporary credentials ran out"):
            use()


@pytest.mark.parametrize(
    ("method", "use"),
    [
        ("HEAD", lambda store, path: store.stat("a")),
        ("GET", lambda store, path: store.read("a")),
        ("GET", lambda store, path: list(store.list(""))),
        ("DELETE", lambda store, path: store.delete("a")),
        ("PUT", lambda store, path: store.create("a", b"")),
        ("PUT", lambda store, path: store.replace("a", b"", etag="e")),
        ("PUT", lambda store, path: store.upload("a", path, sha256=hashlib.sha256(b"bytes").hexdigest())),
    ],
)
def test_a_denial_is_the_same_error_in_every_operation(
    store: ObjectStore, quirks: Quirks, tmp_path: Path, method: str, use: Callable[[ObjectStore, Path], object]
) -> None:
    path, _ = _file(tmp_path / "file", b"bytes")
    quirks.answers = [(method, 403, "AccessDenied"), ("GET", 403, "AccessDenied")] * 5  # a HEAD's reason is asked for
    with pytest.raises(StoreDenied, match="s3://quirks/prefix"):
        use(store, path)


def test_a_denied_part_is_a_denial(store: ObjectStore, quirks: Quirks, tmp_path: Path) -> None:
    path, digest = _file(tmp_path / "file", os.urandom(PART + 1))
    quirks.answers = [("PUT", 403, "AccessDenied")] * 5
    with pytest.raises(StoreDenied):
        store.upload("file", path, sha256=digest)
    assert store.stat("file") is None


def test_a_missing_bucket_is_not_taken_for_a_missing_object(s3_server: EmbeddedS3) -> None:
    store = open_store("s3://no-such-bucket/prefix", s3=s3_server.settings)
    for use in (
        lambda: store.stat("a"),
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: list(store.list("")),
    ):
        with pytest.raises(StoreNotFound, match=r"create (it|the bucket)"):
            use()


def test_a_bucket_that_may_not_be_asked_for_is_taken_to_exist(store: ObjectStore, quirks: Quirks) -> None:
    quirks.answers = [("HEAD", 404, "NoSuchKey"), ("HEAD", 403, "AccessDenied")]
    assert store.stat("a") is None


def test_no_credentials_are_a_denial_that_says_where_to_put_them(
    s3_server: EmbeddedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = dataclasses.replace(s3_server.settings, access_key_id=None, secret_access_key=None)
    with pytest.raises(StoreDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3_server.address, s3=settings).read("a")


def test_a_profile_that_does_not_exist_is_a_denial(s3_server: EmbeddedS3) -> None:
    with pytest.raises(StoreDenied, match="name a profile"):
        open_store(s3_server.address, s3=dataclasses.replace(s3_server.settings, profile="nobody"))


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        settings = S3Settings(
            endpoint_url=endpoint, region="x", access_key_id="a", secret_access_key="b", max_attempts=1
        )
        with pytest.raises(StoreUnavailable, match="check the endpoint address"):
            open_store("s3://bucket", s3=settings).read("a")


def test_an_endpoint_that_is_no_address_is_told() -> None:
    with pytest.raises(StoreDenied, match="http://HOST:PORT"):
        open_store("s3://bucket", s3=S3Settings(endpoint_url="localhost:9000", region="x"))


def test_a_bucket_name_that_cannot_be_is_told(s3_server: EmbeddedS3) -> None:
    with pytest.raises(StoreNotFound, match="correct the bucket's name"):
        open_store("s3://not a bucket", s3=s3_server.settings).read("a")


def test_secrets_do_not_show_in_the_settings() -> None:
    settings = S3Settings(access_key_id="key", secret_access_key="hush", session_token="quiet")
    assert "hush" not in repr(settings)
    assert "quiet" not in repr(settings)


def test_a_large_file_goes_up_in_parts_that_are_verified_and_told(s3_server: EmbeddedS3, tmp_path: Path) -> None:
    store = open_store(
        f"{s3_server.address}/{tmp_path.name}", s3=dataclasses.replace(s3_server.settings, multipart_bytes=PART)
    )
    path, digest = _file(tmp_path / "file", os.urandom(2 * PART + 7))
    told: list[tuple[int, int]] = []
    info = store.upload("file", path, sha256=digest, progress=lambda *pair: told.append(pair))

    assert info.sha256 == digest
    assert info.etag.endswith("-3")
    assert told[-1] == (2 * PART + 7, 2 * PART + 7)
    assert store.upload("file", path, sha256=digest) == info
    other, other_digest = _file(tmp_path / "other", os.urandom(2 * PART + 7))
    with pytest.raises(VersionConflict):
        store.upload("file", other, sha256=other_digest)


def test_a_large_file_loses_against_one_that_came_meanwhile(s3_server: EmbeddedS3, tmp_path: Path) -> None:
    store = open_store(
        f"{s3_server.address}/{tmp_path.name}", s3=dataclasses.replace(s3_server.settings, multipart_bytes=PART)
    )
    path, digest = _file(tmp_path / "file", os.urandom(PART + 7))
    with pytest.raises(VersionConflict):
        store.upload("file", path, sha256=digest, progress=lambda *_: store.create("file", b"meanwhile") and None)
    assert store.read("file") == b"meanwhile"


def test_objects_are_encrypted_as_the_settings_say(s3_server: EmbeddedS3, tmp_path: Path) -> None:
    import boto3

    settings = dataclasses.replace(s3_server.settings, sse="AES256")
    store = open_store(f"{s3_server.address}/{tmp_path.name}", s3=settings)
    store.create("small", b"1")
    path, digest = _file(tmp_path / "file", b"bytes")
    store.upload("large", path, sha256=digest)

    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key,
    )
    for key in ("small", "large"):
        head = client.head_object(Bucket=s3_server.bucket, Key=f"{tmp_path.name}/{key}")
        assert head["ServerSideEncryption"] == "AES256"


def test_a_read_of_nothing_names_the_whole_address(store: ObjectStore) -> None:
    with pytest.raises(BundleNotFound, match="s3://quirks/prefix/a/b"):
        store.read("a/b")
