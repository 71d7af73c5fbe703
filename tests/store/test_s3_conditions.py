"""A server that ignores the conditions of writes is found out before the first of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures import faulty_network
from fixtures.quirky_s3 import Quirks, QuirkyS3, serve
from onnx_fleet.errors import StoreUnavailable, StoreUnsafe
from onnx_fleet.store import ObjectStore, S3Settings, open_store, s3_conditions
from onnx_fleet.store.address import parse_s3
from onnx_fleet.store.s3_client import S3Place

PART = 5 << 20


def opened(server: QuirkyS3, **changes: object) -> ObjectStore:
    return open_store(server.address, s3=server.settings(multipart_bytes=PART, **changes))


def uploaded(store: ObjectStore, path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    store.upload("file", path, sha256=hashlib.sha256(bytes(size)).hexdigest())


WRITES: list[Callable[[ObjectStore, Path], object]] = [
    lambda store, path: store.create("new", b"one"),
    lambda store, path: store.replace("new", b"one", etag=None),
    lambda store, path: store.replace("new", b"one", etag="0" * 32),
    lambda store, path: uploaded(store, path, 10),
    lambda store, path: uploaded(store, path, PART + 1),
]


@pytest.mark.parametrize(
    ("quirks", "header"),
    [(Quirks(ignores_if_none_match=True), "If-None-Match"), (Quirks(if_match="ignored"), "If-Match")],
    ids=["If-None-Match", "If-Match"],
)
@pytest.mark.parametrize("write", WRITES, ids=["create", "replace nothing", "replace", "upload", "upload in parts"])
def test_nothing_is_written_to_a_server_that_ignores_conditions(
    tmp_path: Path, quirks: Quirks, header: str, write: Callable[[ObjectStore, Path], object]
) -> None:
    with serve(quirks) as server:
        with pytest.raises(StoreUnsafe, match=f"took a write with {header} .*store check.*set single_writer"):
            write(opened(server), tmp_path / "file")
        assert server.objects == {}
        assert opened(server, single_writer=True).create("new", b"one"), "somebody promises to be alone"


def test_a_server_is_asked_once_by_four_requests_and_nothing_of_them_is_left() -> None:
    with serve() as server, faulty_network.serve(f"http://127.0.0.1:{server.port}") as network:
        for name in ("one", "two"):
            store = opened(server, endpoint_url=network.endpoint_url)
            assert store.create(name, b"bytes")
            store.replace(name, b"others", etag=store.read_tagged(name)[1])
        asked = {key: count for key, count in network.requests.items() if s3_conditions.FOLDER in key[1]}
        assert {method: count for (method, _key), count in asked.items()} == {"PUT": 3, "DELETE": 1}
        assert sorted(server.objects) == ["prefix/one", "prefix/two"]


def test_a_server_that_does_not_answer_is_asked_again_by_the_next_write() -> None:
    with serve(Quirks(ignores_if_none_match=True)) as server:
        asked = [*["clock skew"], *["503 slow down"], *["keys expired"]]
        behind = faulty_network.serve(
            f"http://127.0.0.1:{server.port}",
            lambda request: asked.pop() if asked and request.method == "PUT" else None,
        )
        with behind as network:
            for number in range(3):
                store = opened(server, endpoint_url=network.endpoint_url, max_attempts=1, access_key_id=f"key-{number}")
                with pytest.raises(StoreUnavailable):
                    store.create("new", b"one")
            store = opened(server, endpoint_url=network.endpoint_url, access_key_id="key-4")
            with pytest.raises(StoreUnsafe):
                store.create("new", b"one")
        assert server.objects == {}


def test_a_writer_that_may_not_ask_writes_all_the_same() -> None:
    with serve(Quirks(denies_under=s3_conditions.FOLDER)) as server:
        assert opened(server).create("new", b"one")
        assert sorted(server.objects) == ["prefix/new"]


@pytest.mark.parametrize("region", ["eu-central-1", "cn-north-1"])
def test_amazon_is_not_asked(region: str) -> None:
    settings = S3Settings(region=region, access_key_id="key", secret_access_key="secret")
    place = S3Place(address=parse_s3("s3://somebodys-bucket"), settings=settings)
    assert s3_conditions.ignored(place, place.client()) == ""
