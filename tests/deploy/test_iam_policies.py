"""The policies in deploy/iam, on a server that holds users to them: each role does its work, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures import iam_server, quirky_s3
from fixtures.iam_server import IamServer, policy
from fixtures.moved import REASON
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import channels, feed
from onnx_fleet.bundles.publish import publish, unfinished
from onnx_fleet.bundles.pull import pull
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.verify import verify
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.retention import Retention
from onnx_fleet.errors import StoreDenied
from onnx_fleet.runs import garbage
from onnx_fleet.store import ObjectStore, layout, leftovers, open_store
from onnx_fleet.store.address import MIB
from onnx_fleet.store.s3 import S3Store

MODEL, VERSION = "acme/tiny", "01234567-aaaaaaaa"
IN_PARTS = 6 * MIB
GRAPH = f"{layout.bundle_prefix(MODEL, VERSION)}onnx/model.onnx"
CHANNEL = layout.channel_key(MODEL, "latest")


@pytest.fixture(scope="module")
def server() -> Iterator[IamServer]:
    with iam_server.serve() as running:
        yield running


@pytest.fixture(scope="module")
def publisher(server: IamServer, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """The store as a publisher sees it, who has published a version of a model and promoted it."""
    store = server.store("publisher", policy("publisher"))
    publish_version(tmp_path_factory.mktemp("stages") / "a", store=store, digit="a", weight_bytes=IN_PARTS)
    channels.move(store, MODEL, "stable", VERSION, reason=REASON, now=NOW)
    feed.rebuild(store, now=NOW)
    return store


@pytest.fixture(scope="module")
def reader(server: IamServer, publisher: ObjectStore) -> ObjectStore:
    return server.store("reader", policy("reader"))


@pytest.fixture(scope="module")
def janitor(server: IamServer, publisher: ObjectStore) -> ObjectStore:
    return server.store("janitor", policy("janitor"))


def publish_version(folder: Path, *, store: ObjectStore, digit: str, weight_bytes: int = 64) -> str:
    stage = tiny_stage(folder, item=work_item(fingerprint=digit * 64), weight_bytes=weight_bytes)
    return publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW).version


def test_a_publisher_publishes_promotes_and_clears_up_behind_itself(publisher: ObjectStore) -> None:
    assert verify(f"{MODEL}@stable", store=publisher).passed
    assert [row.kind for row in channels.history(publisher, MODEL, "stable").rows] == ["set"]
    assert list(publisher.list(layout.UNFINISHED)) == []
    assert leftovers.sweep(publisher, days=1, now=NOW) == ()


def test_a_publisher_that_may_not_delete_anything_publishes_too(
    server: IamServer, publisher: ObjectStore, tmp_path: Path
) -> None:
    allowed = policy("publisher", without=("RemoveWhatOnlyPublishersNeed",))
    careful = server.store(f"careful-{uuid.uuid4().hex}", allowed)

    version = publish_version(tmp_path / "b", store=careful, digit="b")

    assert verify(f"{MODEL}@{version}", store=careful).passed
    assert unfinished(careful) == frozenset(), "what is left says that the publication is through"
    assert list(careful.list(layout.unfinished_prefix(MODEL, version))) != []


def test_a_reader_lists_verifies_pulls_and_follows_a_history(reader: ObjectStore, tmp_path: Path) -> None:
    assert [model.model_id for model in feed.read(reader)] == [MODEL]
    assert [model.model_id for model in feed.models(reader)] == [MODEL]
    assert verify(f"{MODEL}@{VERSION}", store=reader).passed
    pull(f"{MODEL}@stable", store=reader, to=tmp_path / "tiny")
    assert [row.to_version for row in channels.history(reader, MODEL, "stable").rows] == [VERSION]


def test_a_janitor_marks_and_removes_a_version_and_what_writers_left(
    publisher: ObjectStore, janitor: ObjectStore, tmp_path: Path
) -> None:
    version = publish_version(tmp_path / "c", store=publisher, digit="c")
    channels.move(publisher, MODEL, "latest", VERSION, reason=REASON, now=NOW)
    upload = _client(publisher).create_multipart_upload(Bucket=iam_server.BUCKET, Key=f"onnx/{GRAPH}.other")
    publisher.create("scratch/run/acme/tiny/stage.json", b"{}")

    publish_version(tmp_path / "e", store=publisher, digit="e")
    done = garbage.collect(
        janitor,
        policy=lambda _model_id: Retention(keep_last=1, history_days=1, grace_days=1),
        run_id="gc",
        by=Actor(kind="person", name="janitor"),
        now=NOW + timedelta(days=3650),
        delete=True,
    )

    assert version in {each.version for each in done.gone}
    assert version not in {each.version for model in feed.read(janitor) for each in model.versions}
    assert janitor.stat("scratch/run/acme/tiny/stage.json") is None
    assert upload["UploadId"] not in {left.name for left in janitor.leftovers()}
    assert verify(f"{MODEL}@stable", store=janitor).passed


def _client(store: ObjectStore) -> Any:
    assert isinstance(store, S3Store)
    return store.place.client()


def _overwrites(key: str) -> Callable[[ObjectStore], object]:
    return lambda store: store.replace(key, b"other", etag=store.read_tagged(key)[1])


def _creates(key: str) -> Callable[[ObjectStore], object]:
    return lambda store: store.create(key, b"new")


def _deletes(key: str) -> Callable[[ObjectStore], object]:
    return lambda store: store.delete(key)


def _a_row(store: ObjectStore) -> str:
    return next(info.key for info in store.list(layout.history_prefix(MODEL, "stable")))


@pytest.mark.parametrize(
    ("role", "does"),
    [
        pytest.param("reader", _creates(f"models/{MODEL}/channels/mine.json"), id="reader makes a channel"),
        pytest.param("reader", _overwrites(CHANNEL), id="reader moves a channel"),
        pytest.param("reader", _overwrites(GRAPH), id="reader overwrites a graph"),
        pytest.param("reader", _deletes(GRAPH), id="reader deletes a graph"),
        pytest.param("reader", lambda store: list(store.leftovers()), id="reader lists open uploads"),
        pytest.param("reader", lambda store: store.read("claims/acme/tiny.json"), id="reader reads a claim"),
        pytest.param("publisher", _deletes(GRAPH), id="publisher deletes a graph"),
        pytest.param("publisher", _deletes(CHANNEL), id="publisher deletes a channel"),
        pytest.param("publisher", lambda store: store.delete(_a_row(store)), id="publisher deletes a row"),
        pytest.param("publisher", _deletes("feed/index.json"), id="publisher deletes the feed"),
        pytest.param("publisher", _creates("elsewhere/file"), id="publisher writes where nothing of ours lies"),
        pytest.param("janitor", _creates(f"models/{MODEL}/01234567-dddddddd/manifest.json"), id="janitor publishes"),
        pytest.param("janitor", _overwrites(CHANNEL), id="janitor moves a channel"),
        pytest.param("janitor", _deletes(CHANNEL), id="janitor deletes a channel"),
        pytest.param("janitor", _overwrites(GRAPH), id="janitor overwrites a graph"),
        pytest.param("janitor", lambda store: _overwrites(_a_row(store))(store), id="janitor rewrites a row"),
        pytest.param("janitor", _deletes("feed/index.json"), id="janitor deletes the feed"),
    ],
)
def test_a_role_is_refused_what_is_not_its_work(
    role: str, does: Callable[[ObjectStore], object], request: pytest.FixtureRequest
) -> None:
    with pytest.raises(StoreDenied, match="AccessDenied"):
        does(request.getfixturevalue(role))


@pytest.mark.parametrize("role", ["reader", "publisher", "janitor"])
def test_nobody_removes_an_earlier_version_of_an_object(role: str, request: pytest.FixtureRequest) -> None:
    client = _client(request.getfixturevalue(role))
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.delete_object(Bucket=iam_server.BUCKET, Key=f"onnx/{GRAPH}", VersionId="null")


def test_the_line_of_the_page_puts_in_the_names_of_bucket_and_prefix(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/operations.md").read_text()
    (line,) = re.findall(r"test_iam_policies.py runs this -->\n```sh\n(.*?)```", page, flags=re.DOTALL)
    for file in sorted((root / "deploy/iam").glob("*.json")):
        assert f"`{file.name}`" in page
        subprocess.run(
            line.replace("reader", file.stem).replace(f"> {file.stem}", f"> {tmp_path}/{file.stem}"),
            shell=True,
            cwd=root,
            check=True,
        )
        text = (tmp_path / file.name).read_text()
        assert "BUCKET" not in text
        assert "PREFIX" not in text
        assert "arn:aws:s3:::my-bucket/onnx/" in text
        assert json.loads(text)["Version"] == "2012-10-17"


def test_publishing_and_moves_write_manifests_and_rows_as_the_buckets_policy_asks(tmp_path: Path) -> None:
    """moto evaluates no conditions, so another server refuses a write there without If-None-Match."""
    text = (Path(__file__).parents[2] / "deploy/iam/bucket-create-only.json").read_text()
    (statement,) = json.loads(text.replace("BUCKET", quirky_s3.BUCKET).replace("PREFIX", "prefix"))["Statement"]
    assert statement["Condition"] == {"Null": {"s3:if-none-match": "true"}}
    patterns = tuple(each.removeprefix("arn:aws:s3:::") for each in statement["Resource"])
    with quirky_s3.serve(quirky_s3.Quirks(written_once=patterns)) as server:
        store = open_store(server.address, s3=server.settings())
        for digit in "ab":
            publish_version(tmp_path / digit, store=store, digit=digit)
        channels.move(store, MODEL, "stable", VERSION, reason=REASON, now=NOW)

        assert verify(f"{MODEL}@latest", store=store).passed
        for key in (layout.manifest_key(MODEL, VERSION), _a_row(store)):
            with pytest.raises(StoreDenied):
                _overwrites(key)(store)
