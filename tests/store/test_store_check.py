"""What `store check` finds: on the real server, on a folder, and on servers that lack one thing each."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.quirky_s3 import Quirks, QuirkyS3, serve
from onnx_fleet.errors import OnnxFleetError, StoreDenied, StoreNotFound, StoreUnavailable
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet.store.capability import StoreCheck
from onnx_fleet.store.check import check
from onnx_fleet.store.forwarding import ForwardingStore
from onnx_fleet_demo.s3_server import EmbeddedS3

IDEAL = {
    "checksums": "yes",
    "read_after_write": "yes",
    "conditional_create": "yes",
    "conditional_replace": "yes",
    "multipart": "yes",
    "multipart_condition": "yes",
    "open_uploads": "no",
    "copy": "yes",
    "part_copy": "yes",
    "listing": "yes",
    "listing_order": "yes",
    "range": "yes",
    "versioning": "no",
    "object_lock": "no",
    "encryption": "no",
}
"""What the fixture's server can do where it has no quirk."""
VERSIONED = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
LOCKED = (
    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
    "<Mode>GOVERNANCE</Mode><Days>7</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
)


def answers(found: StoreCheck) -> dict[str, str]:
    return {name: each.supported for name, each in found.capabilities.items()}


def of(server: QuirkyS3, **settings: object) -> StoreCheck:
    return check(open_store(server.address, s3=server.settings(**settings)))


def test_the_real_server_can_do_what_a_publication_needs_and_nothing_is_left(s3_server: EmbeddedS3) -> None:
    store = open_store(f"{s3_server.address}/checked", s3=s3_server.settings)
    tried: list[str] = []
    found = check(store, trying=tried.append)
    assert found.usable, found
    assert answers(found) == IDEAL | {"open_uploads": "yes", "checksums": "no"}
    assert "SHA-256 of other bytes was answered 200" in found.capabilities["checksums"].seen, "ministack checks none"
    assert tried == list(found.capabilities)
    assert found.address == store.address
    assert (list(store.list("")), list(store.leftovers()), found.left) == ([], [], ())


def test_a_folder_can_do_what_a_publication_needs_and_nothing_is_left(local_store: ObjectStore) -> None:
    found = check(local_store)
    assert found.usable, found
    needed = ("read_after_write", "conditional_create", "conditional_replace", "listing")
    assert {name: answers(found)[name] for name in needed} == dict.fromkeys(needed, "yes")
    assert "by a hard link" in found.capabilities["conditional_create"].seen
    assert (list(local_store.list("")), found.left) == ([], ())
    assert [path.name for path in Path(local_store.address).iterdir()] == [".onnx-fleet-store"]


@pytest.mark.parametrize(
    ("quirks", "differs", "usable", "seen"),
    [
        ({}, {}, True, {}),
        (
            {"ignores_if_none_match": True},
            {"conditional_create": "no", "multipart_condition": "no"},
            False,
            {"conditional_create": "answered 200, and the object was overwritten"},
        ),
        (
            {"if_none_match_unimplemented": True},
            {"conditional_create": "no", "multipart_condition": "no"},
            False,
            {"conditional_create": "answered 501 NotImplemented"},
        ),
        (
            {"if_match": "ignored"},
            {"conditional_replace": "no"},
            False,
            {"conditional_replace": "answered 200, and the object was overwritten"},
        ),
        ({"if_match": "unimplemented"}, {"conditional_replace": "no"}, False, {"conditional_replace": "501"}),
        ({"if_match": "never matches"}, {"conditional_replace": "no"}, False, {"conditional_replace": "412"}),
        ({"if_match": "quoted never matches"}, {}, True, {"conditional_replace": "without quotes"}),
        ({"keeps_sha256": False}, {"checksums": "no"}, True, {"checksums": "not kept"}),
        ({"checks_sha256": False}, {"checksums": "no"}, True, {"checksums": "of other bytes was answered 200"}),
        ({"refuses_checksums": 411}, {"checksums": "no"}, False, {"checksums": "411 MissingContentLength"}),
        ({"refuses_copies": (501, "NotImplemented")}, {"copy": "no", "part_copy": "no"}, True, {"copy": "501"}),
        (
            {"refuses_copies": (403, "AccessDenied")},
            {"copy": "not tried", "part_copy": "not tried"},
            True,
            {"part_copy": "UploadPartCopy was answered 403 AccessDenied"},
        ),
        (
            {"refuses_parts": (501, "NotImplemented")},
            {"multipart": "no", "multipart_condition": "not tried", "part_copy": "no"},
            True,
            {"multipart": "CreateMultipartUpload was answered 501"},
        ),
        ({"lists": "backwards"}, {"listing_order": "no"}, True, {"listing_order": "listed/a0, listed/a/b"}),
        ({"lists": "late"}, {"listing": "no"}, False, {"listing": "Of 6 objects that had just been written, 5"}),
        ({"ignores_ranges": True}, {"range": "no"}, True, {"range": "answered 200 with 10 of 6 bytes"}),
        ({"about_bucket": {"versioning": VERSIONED}}, {"versioning": "yes"}, True, {"versioning": "is enabled"}),
        ({"about_bucket": {"object-lock": LOCKED}}, {"object_lock": "yes"}, True, {"object_lock": "GOVERNANCE"}),
    ],
    ids=lambda value: ", ".join(value) or "ideal" if isinstance(value, dict) else None,
)
def test_each_lack_of_a_server_is_found(
    quirks: dict[str, object], differs: dict[str, str], usable: bool, seen: dict[str, str]
) -> None:
    with serve(Quirks(**quirks)) as server:  # type: ignore[arg-type]
        found = of(server)
        assert server.objects == {}
    assert answers(found) == IDEAL | differs
    assert found.usable is usable
    for name, part in seen.items():
        assert part in found.capabilities[name].seen


def test_with_one_writer_conditions_are_not_needed_and_with_checksums_off_they_are_not_tried() -> None:
    with serve(Quirks(if_match="unimplemented", if_none_match_unimplemented=True, refuses_checksums=411)) as server:
        found = of(server, single_writer=True, checksum_mode="when_required")
    assert found.usable, found
    assert answers(found) == IDEAL | {
        "checksums": "not tried",
        "conditional_create": "no",
        "conditional_replace": "no",
        "multipart_condition": "no",
    }
    assert "single_writer is set" in found.capabilities["conditional_create"].means


def test_what_cannot_be_removed_is_named() -> None:
    with serve(Quirks(answers=[("DELETE", 403, "AccessDenied")] * 100)) as server:
        found = of(server)
        assert set(found.left) >= {f"s3://quirks/{key}" for key in server.objects} != set()
    assert found.usable
    assert "may not delete works" in found.capabilities["read_after_write"].means


@pytest.mark.parametrize(
    ("at", "status", "code", "error"),
    [("copy", 403, "AccessDenied", StoreDenied), ("conditional_create", 503, "SlowDown", StoreUnavailable)],
    ids=["denied", "busy"],
)
def test_a_check_that_breaks_off_removes_what_it_has_put_there(
    at: str, status: int, code: str, error: type[OnnxFleetError]
) -> None:
    with serve() as server:

        def break_off(name: str) -> None:
            if name == at:
                server.quirks.answers = [("PUT", status, code)] * 10

        with pytest.raises(error, match=f"s3://quirks/prefix.*{code}"):
            check(open_store(server.address, s3=server.settings()), trying=break_off)
        assert server.objects == {}


def test_a_store_that_cannot_be_written_to_is_an_error(s3_server: EmbeddedS3, tmp_path: Path) -> None:
    with serve(Quirks(answers=[("PUT", 403, "AccessDenied")] * 10)) as server, pytest.raises(StoreDenied):
        of(server)
    with pytest.raises(StoreNotFound):
        check(open_store("s3://no-such-bucket/prefix", s3=s3_server.settings))
    with pytest.raises(StoreNotFound):
        check(open_store(str(tmp_path / "no" / "folder")))


def test_only_a_store_itself_can_be_checked(local_store: ObjectStore) -> None:
    with pytest.raises(TypeError, match="neither a folder nor a bucket"):
        check(ForwardingStore(local_store))
