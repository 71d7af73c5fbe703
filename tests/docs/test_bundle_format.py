"""The page about the bundle format: its shell script fetches what pull fetches, and nothing that is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures import iam_server
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import bundle, channels
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.pull import pull
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.store import ObjectStore
from onnx_fleet_demo.s3_server import EmbeddedS3

PAGE = (Path(__file__).parents[2] / "docs/bundle-format.md").read_text()
MODEL = "acme/tiny"
ODD_NAME = "1_Pooling/50% ä + #1.txt"


def published(tmp_path: Path, store: ObjectStore) -> ObjectStore:
    """The store with two versions of a model, which the channels latest and stable point at."""
    for digit, channel in (("a", "stable"), ("b", "latest")):
        stage = tiny_stage(tmp_path / f"stage-{digit}", item=work_item(fingerprint=digit * 64))
        (stage / "1_Pooling").mkdir()
        (stage / ODD_NAME).write_text(f"version {digit}")
        publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW, channel=channel)
    return store


@pytest.fixture
def store(tmp_path: Path, s3_store: ObjectStore) -> ObjectStore:
    """An S3 store with two versions of a model."""
    return published(tmp_path, s3_store)


def fetched(
    folder: Path, *, store: ObjectStore, url: str, channel: str = "latest", options: str = ""
) -> subprocess.CompletedProcess[str]:
    """What the page's script does when it is asked for the model in the folder."""
    (script,) = re.findall(r"test_bundle_format.py runs this -->\n```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    address = f"{url}/{store.address.removeprefix('s3://')}"
    return subprocess.run(
        ["bash", "-c", script, "fetch_bundle.sh", address, MODEL, channel, folder],
        env={**os.environ, "CURL_OPTIONS": options},
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("channel", ["latest", "stable"])
def test_the_script_fetches_what_pull_fetches(
    channel: str, store: ObjectStore, s3_server: EmbeddedS3, tmp_path: Path
) -> None:
    done = fetched(tmp_path / "fetched", store=store, url=s3_server.endpoint_url, channel=channel)

    assert done.returncode == 0, done.stderr
    pull(f"{MODEL}@{channel}", store=store, to=tmp_path / "pulled")
    assert contents(tmp_path / "fetched") == contents(tmp_path / "pulled")
    assert ODD_NAME in contents(tmp_path / "fetched")


def test_the_script_signs_its_requests_as_the_page_says(tmp_path: Path) -> None:
    with iam_server.serve() as server:
        writer = server.store("publisher", iam_server.policy("publisher"))
        published(tmp_path, writer)
        key_id, secret = server.login("reader", iam_server.policy("reader"))
        lines = re.search(r"```\n(user = .*?)```", PAGE, flags=re.DOTALL)
        assert lines
        login = tmp_path / "reader.curl"
        login.write_text(
            lines[1].replace("KEY:SECRET", f"{key_id}:{secret}").replace("eu-central-1", iam_server.REGION)
        )

        done = fetched(tmp_path / "fetched", store=writer, url=server.endpoint_url, options=f"--config {login}")
        assert done.returncode == 0, done.stderr
        assert ODD_NAME in contents(tmp_path / "fetched")
        unsigned = fetched(tmp_path / "unsigned", store=writer, url=server.endpoint_url)
        assert "403" in unsigned.stderr


def _lists_a_path_outside(manifest: Any) -> object:
    first, *rest = manifest["files"]
    return {**manifest, "files": [{**first, "path": "../escaped.json"}, *rest]}


@pytest.mark.parametrize(
    ("key", "change", "complaint"),
    [
        pytest.param("config.json", lambda _data: b"{}", "checksum did NOT match", id="changed file"),
        pytest.param("manifest.json", _lists_a_path_outside, "not a manifest to trust", id="path outside"),
        pytest.param("manifest.json", lambda old: {**old, "schema_version": 2}, "not a manifest to trust", id="newer"),
        pytest.param("manifest.json", lambda old: {**old, "files": [*old["files"], {"path": "gone", "sha256": ""}]},
                     "404", id="missing file"),
    ],
)  # fmt: skip
def test_nothing_is_visible_of_a_bundle_that_is_not_right(
    key: str,
    change: Callable[[Any], object],
    complaint: str,
    store: ObjectStore,
    s3_server: EmbeddedS3,
    tmp_path: Path,
) -> None:
    found = bundle.find(MODEL, store=store)
    data, etag = store.read_tagged(found.key(key))
    changed = change(json.loads(data))
    store.replace(found.key(key), changed if isinstance(changed, bytes) else json.dumps(changed).encode(), etag=etag)
    (tmp_path / "here").mkdir()

    done = fetched(tmp_path / "here/fetched", store=store, url=s3_server.endpoint_url)

    assert done.returncode != 0
    assert complaint in done.stderr
    assert list((tmp_path / "here").iterdir()) == []
    assert not (tmp_path / "escaped.json").exists()


def test_a_folder_that_holds_something_stays_as_it_is(
    store: ObjectStore, s3_server: EmbeddedS3, tmp_path: Path
) -> None:
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched/mine.txt").write_text("mine")

    assert fetched(tmp_path / "fetched", store=store, url=s3_server.endpoint_url).returncode != 0
    assert contents(tmp_path / "fetched") == {"mine.txt": b"mine"}


def test_the_page_says_how_channels_are_named() -> None:
    (pattern,) = re.findall(r"name of a channel matches `([^`]+)`", PAGE)
    for name, valid in (("latest", True), ("eu-west_2", True), ("Latest", False), ("a/b", False), ("", False)):
        assert bool(re.fullmatch(pattern, name)) == valid == channels.is_name(name)
