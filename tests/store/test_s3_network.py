"""The S3 store behind a network that fails: a fault that passes is no error, or one that is retried."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials

from fixtures import faulty_network
from fixtures.faulty_network import FaultyNetwork, Request
from onnx_fleet.errors import StoreUnavailable
from onnx_fleet.store import ObjectStore, S3Settings, open_store
from onnx_fleet.store.s3_conditions import FOLDER
from onnx_fleet_demo.s3_server import EmbeddedS3


def first(method: str, fault: str, *, times: int = 1) -> Callable[[Request], str | None]:
    """The first requests with this method meet a fault; what each server is asked once is left out."""
    left = [fault] * times
    return lambda request: left.pop() if left and request.method == method and FOLDER not in request.key else None


def behind(network: FaultyNetwork, store: ObjectStore, settings: S3Settings, **changes: object) -> ObjectStore:
    """The same store, reached through a network."""
    settings = replace(settings, endpoint_url=network.endpoint_url, max_attempts=1, **changes)  # type: ignore[arg-type]
    return open_store(store.address, s3=settings)


@pytest.mark.parametrize("refusal", ["clock skew", "500", "503 slow down"])
def test_a_look_that_is_refused_once_is_no_denial(s3_server: EmbeddedS3, s3_store: ObjectStore, refusal: str) -> None:
    """The answer to a HEAD has no body that says why, so that a wrong clock looked like a right that is missing."""
    s3_store.create("here", b"bytes")
    with faulty_network.serve(s3_server.endpoint_url, first("HEAD", refusal, times=2)) as network:
        store = behind(network, s3_store, s3_server.settings)
        if refusal == "clock skew":
            assert store.stat("here")
            assert store.stat("absent") is None
        else:
            with pytest.raises(StoreUnavailable, match="it is retried"):
                store.stat("here")


def test_keys_that_run_out_before_a_look_are_renewed_and_it_looks_again(
    s3_server: EmbeddedS3, s3_store: ObjectStore
) -> None:
    s3_store.create("here", b"bytes")
    asked = 0

    def renewed() -> dict[str, str]:
        nonlocal asked
        asked += 1
        until = datetime.now(UTC) + timedelta(minutes=5)
        return {"access_key": f"key-{asked}", "secret_key": "s", "token": "t", "expiry_time": until.isoformat()}

    with faulty_network.serve(s3_server.endpoint_url, first("HEAD", "keys expired")) as network:
        settings = S3Settings(endpoint_url=network.endpoint_url, region="us-east-1", max_attempts=1)
        keys = RefreshableCredentials.create_from_metadata(renewed(), refresh_using=renewed, method="test")
        assert open_store(s3_store.address, s3=settings, credentials=keys).stat("here")
        assert network.met == {"keys expired": 1}


@pytest.mark.parametrize(
    "use",
    [lambda store: store.read("absent"), lambda store: store.read_tagged("here"), lambda store: list(store.list(""))],
)
@pytest.mark.parametrize("fault", ["reset in the answer", "lost answer", "time-out"])
def test_an_answer_that_breaks_off_is_an_error_that_passes(
    s3_server: EmbeddedS3, s3_store: ObjectStore, fault: str, use: Callable[[ObjectStore], object]
) -> None:
    """Also that of a refusal: boto3 lets through what urllib3 raises while the body of one is read."""
    s3_store.create("here", b"bytes")
    with faulty_network.serve(s3_server.endpoint_url, first("GET", fault, times=5)) as network:
        with pytest.raises(StoreUnavailable) as told:
            use(behind(network, s3_store, s3_server.settings, read_timeout_s=0.2))
        assert type(told.value) is StoreUnavailable, "a name that other processes and records know"


def test_bytes_that_are_damaged_on_the_way_are_fetched_again(
    s3_server: EmbeddedS3, s3_store: ObjectStore, tmp_path: Path
) -> None:
    """What had come once stood as a whole download that waits to be finished."""
    data = os.urandom(100_000)
    (tmp_path / "file").write_bytes(data)
    s3_store.upload("file", tmp_path / "file", sha256=hashlib.sha256(data).hexdigest())
    damaged = first("GET", "wrong bytes received", times=2)
    with faulty_network.serve(s3_server.endpoint_url, damaged) as network:
        store = behind(network, s3_store, s3_server.settings)
        store.download("file", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == data
        assert store.read("file") == data
        assert network.met == {"wrong bytes received": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "file"]


def test_damaged_bytes_that_were_handed_on_are_told(s3_server: EmbeddedS3, s3_store: ObjectStore) -> None:
    s3_store.create("file", b"some bytes")
    with faulty_network.serve(s3_server.endpoint_url, first("GET", "wrong bytes received")) as network:
        store = behind(network, s3_store, s3_server.settings)
        with pytest.raises(StoreUnavailable, match="damaged in transfer"):
            b"".join(store.chunks("file"))
        assert b"".join(store.chunks("file")) == b"some bytes"


@pytest.mark.parametrize("fault", ["lost answer", "late answer", "reset in the answer", "reset in the request"])
def test_a_write_whose_answer_is_lost_is_an_error_that_passes_and_may_be_done_again(
    s3_server: EmbeddedS3, s3_store: ObjectStore, fault: str
) -> None:
    with faulty_network.serve(s3_server.endpoint_url, first("PUT", fault)) as network:
        store = behind(network, s3_store, s3_server.settings, read_timeout_s=1.0)
        with pytest.raises(StoreUnavailable):
            store.create("small", b"one")
        assert store.create("small", b"one") == (fault == "reset in the request")
    assert s3_store.read("small") == b"one"
