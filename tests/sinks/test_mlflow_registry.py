"""Bundles in a real MLflow registry: a version for each, aliases where the channels are, and what can be loaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from fixtures.forwarding_port import ForwardingPort
from fixtures.mlflow_server import PYTHON
from fixtures.moved import REASON
from fixtures.printed_lines import printed
from fixtures.stages import NOW
from fixtures.told_events import moved, published
from onnx_fleet.bundles import bundle, events, fleet_event
from onnx_fleet.sinks import configuration, delivery
from onnx_fleet.sinks.configuration import ConfiguredSink
from onnx_fleet.sinks.delivery import Patience
from onnx_fleet.store import ObjectStore, layout
from onnx_fleet_demo import processes
from onnx_fleet_demo.s3_server import EmbeddedS3

AT_ONCE = Patience(tries=1)
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sinks.md").read_text()
SECTION = (ROOT / "docs/operations.md").read_text().partition("\n## Mirror into a registry\n")[2]
SAID = "http://mlflow.example.com:5000"
YESTERDAY = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")


def mlflow(url: str, more: str = "") -> ConfiguredSink:
    text = f"sinks:\n- {{name: mlflow, kind: mlflow, url: '{url}'{more}}}\n"
    (made,) = configuration.parse(text, source="sinks.yaml", secrets=lambda _name: "a-token")
    return made


def registered(url: str, name: str) -> dict[str, Any]:
    answer = httpx2.get(f"{url}/api/2.0/mlflow/registered-models/get", params={"name": name}, timeout=60)
    model: dict[str, Any] = answer.raise_for_status().json()["registered_model"]
    return model


def versions(url: str, name: str) -> dict[str, dict[str, Any]]:
    """MLflow's versions of a model, by those of the bundles."""
    asked = {"filter": f"name = '{name}'"}
    answer = httpx2.get(f"{url}/api/2.0/mlflow/model-versions/search", params=asked, timeout=60).json()
    found = [{**each, "tags": {tag["key"]: tag["value"] for tag in each["tags"]}} for each in answer["model_versions"]]
    assert len({each["tags"]["onnx_fleet.version"] for each in found}) == len(found)
    return {each["tags"]["onnx_fleet.version"]: each for each in found}


def aliases(url: str, name: str) -> dict[str, str]:
    """The bundles' versions, by the aliases that point at them."""
    numbers = {each["version"]: version for version, each in versions(url, name).items()}
    return {each["alias"]: numbers[each["version"]] for each in registered(url, name)["aliases"]}


@pytest.fixture
def model_id() -> str:
    """A model that no other test has: the server is one for all."""
    return f"acme/{uuid.uuid4().hex}"


def test_a_bundle_is_a_version_with_its_source_and_its_digest(
    tmp_path: Path, s3_store: ObjectStore, mlflow_server: str, model_id: str
) -> None:
    done = published(tmp_path, s3_store, model_id=model_id)
    sink = mlflow(mlflow_server)
    assert delivery.run(sink, store=s3_store, patience=AT_ONCE).error is None
    name = model_id.replace("/", "--")
    found = versions(mlflow_server, name)[done.version]

    assert found["source"] == f"{s3_store.address}/models/{model_id}/{done.version}"
    assert found["tags"]["onnx_fleet.manifest_sha256"] == done.manifest_sha256
    assert found["tags"]["onnx_fleet.model_id"] == model_id
    assert found["tags"]["onnx_fleet.licence"] == "apache-2.0"
    assert f"{model_id}@{done.version}" in found["description"]
    assert aliases(mlflow_server, name) == {"current": done.version}


def test_aliases_follow_channels_forth_and_back_and_a_replay_changes_nothing(
    tmp_path: Path, s3_store: ObjectStore, mlflow_server: str, model_id: str
) -> None:
    name, sink = model_id.replace("/", "--"), mlflow(mlflow_server)
    old, new = (published(tmp_path, s3_store, model_id=model_id, digit=digit).version for digit in "ab")
    for version in (new, old):
        moved(s3_store, "stable", version, model_id=model_id)
        assert delivery.run(sink, store=s3_store, patience=AT_ONCE).error is None
        assert aliases(mlflow_server, name) == {"current": new, "stable": version}

    before = registered(mlflow_server, name)["aliases"], versions(mlflow_server, name)
    delivery.replay(sink, store=s3_store, since=bundle.find(model_id, store=s3_store).manifest.bundle.created_at)
    assert delivery.run(sink, store=s3_store, patience=AT_ONCE).delivered == 4
    assert (registered(mlflow_server, name)["aliases"], versions(mlflow_server, name)) == before


def test_drivers_that_deliver_at_once_leave_one_version(
    tmp_path: Path, s3_store: ObjectStore, mlflow_server: str, model_id: str
) -> None:
    published(tmp_path, s3_store, model_id=model_id)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: delivery.run(mlflow(mlflow_server), store=s3_store), range(4)))
    assert {each.error for each in done} == {None}
    assert len(versions(mlflow_server, model_id.replace("/", "--"))) == 1


def test_a_store_that_is_a_folder_is_refused_by_the_server_and_the_next_event_goes_on(
    tmp_path: Path, local_store: ObjectStore, mlflow_server: str, model_id: str
) -> None:
    published(tmp_path, local_store, model_id=model_id)
    done = delivery.run(mlflow(mlflow_server), store=local_store, patience=AT_ONCE)
    assert (done.set_aside, done.error) == (1, None)


def test_a_version_whose_bundle_was_removed_stays_and_says_so(
    tmp_path: Path, s3_store: ObjectStore, mlflow_server: str, model_id: str
) -> None:
    name, sink = model_id.replace("/", "--"), mlflow(mlflow_server)
    old, new = (published(tmp_path, s3_store, model_id=model_id, digit=digit) for digit in "ab")
    assert delivery.run(sink, store=s3_store, patience=AT_ONCE).error is None
    s3_store.delete(layout.manifest_key(model_id, old.version))
    gone = fleet_event.of_deletion(
        model_id, old.version, manifest_sha256=old.manifest_sha256, by=REASON.by, why="it is old", now=NOW
    )
    events.append(s3_store, gone)
    assert delivery.run(sink, store=s3_store, patience=AT_ONCE).error is None
    found = versions(mlflow_server, name)
    assert found[old.version]["tags"]["onnx_fleet.deleted"] == "2026-11-21T12:00:00+00:00"
    assert "onnx_fleet.deleted" not in found[new.version]["tags"]


def test_a_server_that_is_no_mlflow_holds_the_sink_until_the_address_is_right(
    tmp_path: Path, s3_store: ObjectStore, s3_server: EmbeddedS3
) -> None:
    published(tmp_path, s3_store)
    done = delivery.run(mlflow(s3_server.endpoint_url), store=s3_store, patience=AT_ONCE)
    assert (done.delivered, done.error) == (0, "SinkDenied")
    assert "correct url" in done.message


def test_the_lines_of_the_page_load_a_version_by_its_alias(
    tmp_path: Path, s3_store: ObjectStore, s3_server: EmbeddedS3, mlflow_server: str, model_id: str
) -> None:
    published(tmp_path, s3_store, model_id=model_id)
    assert delivery.run(mlflow(mlflow_server), store=s3_store, patience=AT_ONCE).error is None
    (lines,) = re.findall(r"```python\n(import mlflow.*?)```", PAGE, flags=re.DOTALL)
    lines = lines.replace("BAAI--bge-small-en-v1.5", model_id.replace("/", "--"))
    told = (
        "import json, numpy; given = {'input_ids': numpy.ones((1, 2), dtype='float32')}\n"
        "answer = function.predict(given)['last_hidden_state'].tolist()\n"
        "print(json.dumps([folder, [each.op_type for each in model.graph.node], answer]))"
    )
    access = {
        "MLFLOW_TRACKING_URI": mlflow_server,
        "MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint_url,
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-key",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", f"{lines}\n{told}"],
        env={**os.environ, **access},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder, operators, answer = json.loads(done.stdout.splitlines()[-1])
    assert (operators, answer) == (["Mul"], [[2.0, 2.0]])
    found = bundle.find(model_id, store=s3_store)
    assert {file.path for file in found.manifest.files} < {
        path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")
    }


def calls(number: int) -> list[tuple[str, str]]:
    """The lines of one block of the section, each with what it prints."""
    block = re.findall(r"```console\n(.*?)```", SECTION.partition("\n## ")[0], flags=re.DOTALL)[number]
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)


def test_the_lines_about_operations_mirror_a_fleet_through_an_outage(
    tmp_path: Path, s3_store: ObjectStore, s3_server: EmbeddedS3, mlflow_server: str
) -> None:
    (file,) = re.findall(r"```yaml\n(# sinks\.yaml\n.*?)```", SECTION.partition("\n## ")[0], flags=re.DOTALL)
    (port,) = processes.free_ports(1)
    with ForwardingPort(port, to=urlsplit(mlflow_server).port or 0) as registry:
        (tmp_path / "sinks.yaml").write_text(file.replace(SAID, registry.url))
        environment = {
            "ONNX_FLEET_SINKS": str(tmp_path / "sinks.yaml"),
            "ONNX_FLEET_STORE": s3_store.address,
            "AWS_ENDPOINT_URL_S3": s3_server.endpoint_url,
            "AWS_ACCESS_KEY_ID": "a-key",
            "AWS_SECRET_ACCESS_KEY": "a-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

        def hold(number: int) -> None:
            told = calls(number)
            lines = [line.replace("2026-11-01", YESTERDAY) for line, _shown in told]
            for (line, shown), done in zip(told, printed(lines, **environment), strict=True):
                output = done.text.replace(registry.url, SAID)
                assert _words(output) == _words(shown), f"$ {line}\n{output}"
                assert done.exit_code == (1 if number == 1 else 0)

        for model_id in ("acme/small", "acme/tiny"):
            published(tmp_path, s3_store, model_id=model_id)
        registry.open()
        hold(0)
        registry.close()
        published(tmp_path, s3_store, digit="b")
        hold(1)
        registry.open()
        hold(2)
        hold(3)


def _words(text: str) -> list[list[str]]:
    return [TIME.sub("WHEN", line).split() for line in text.strip("\n").splitlines()]
