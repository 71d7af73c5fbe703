"""Bundles in a real OCI registry: pushed once, pulled back byte for byte, their tags where the channels are."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from fixtures.oci_registry import LOGIN, PASSWORD, OciRegistry
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.told_events import moved, published
from onnx_fleet.bundles import bundle
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.sinks import configuration, delivery
from onnx_fleet.sinks.configuration import ConfiguredSink
from onnx_fleet.sinks.delivery import Patience
from onnx_fleet.store import ObjectStore

AT_ONCE = Patience(tries=1)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def oci(host: str, prefix: str, *, password: str = PASSWORD) -> ConfiguredSink:
    text = f"""sinks:
- name: oci
  kind: oci
  registry: {host}/{prefix}
  login: {LOGIN}
  secret: registry-password
  plain_http: true
"""
    (made,) = configuration.parse(text, source="sinks.yaml", secrets=lambda _name: password)
    return made


def pulled(registry: OciRegistry, repository: str, tag: str) -> dict[str, bytes]:
    """Every file of an artefact, by its path, as any client of OCI gets it."""
    artefact = registry.get(f"{repository}/manifests/{tag}", accept=MANIFEST).json()
    return {
        layer["annotations"]["org.cncf.model.filepath"]: registry.get(f"{repository}/blobs/{layer['digest']}").content
        for layer in artefact["layers"]
    }


def test_a_bundle_comes_back_byte_for_byte(tmp_path: Path, any_store: ObjectStore, oci_registry: OciRegistry) -> None:
    version = published(tmp_path, any_store, model_id="Acme/Tiny").version
    done = delivery.run(oci(oci_registry.host, "whole"), store=any_store, patience=AT_ONCE)

    assert (done.delivered, done.error) == (1, None)
    found = bundle.find("Acme/Tiny", store=any_store)
    files = {file.path: any_store.read(found.key(file.path)) for file in found.manifest.files}
    for tag in (version, "latest"):  # a repository's name has no capitals
        assert pulled(oci_registry, "whole/acme/tiny", tag) == {**files, "manifest.json": found.manifest_json}


def test_the_artefact_is_one_of_model_pack(tmp_path: Path, local_store: ObjectStore, oci_registry: OciRegistry) -> None:
    version = published(tmp_path, local_store).version
    delivery.run(oci(oci_registry.host, "kinds"), store=local_store)
    artefact = oci_registry.get(f"kinds/acme/tiny/manifests/{version}", accept=MANIFEST).json()
    config = oci_registry.get(f"kinds/acme/tiny/blobs/{artefact['config']['digest']}").json()
    kinds = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in artefact["layers"]}

    assert artefact["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert artefact["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert kinds["onnx/model.onnx"] == "application/vnd.cncf.model.weight.v1.raw"
    assert kinds["config.json"] == "application/vnd.cncf.model.weight.config.v1.raw"
    assert kinds["LICENSE"] == "application/vnd.cncf.model.doc.v1.raw"
    assert artefact["annotations"]["org.opencontainers.image.version"] == version
    assert config["descriptor"]["name"] == "acme/tiny"
    assert config["config"]["format"] == "onnx"
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in artefact["layers"]]


def test_what_the_registry_has_is_not_sent_again(
    tmp_path: Path, local_store: ObjectStore, oci_registry: OciRegistry
) -> None:
    sink = oci(oci_registry.host, "once")
    published(tmp_path, local_store)
    delivery.run(sink, store=local_store)
    first = [path for path in oci_registry.requests("PUT") if "/once/" in path]
    published(tmp_path, local_store, digit="b")  # the same graphs and weights, under another version
    delivery.run(sink, store=local_store)
    second = [path for path in oci_registry.requests("PUT") if "/once/" in path][len(first) :]

    weights = bundle.find("acme/tiny", store=local_store).manifest
    (digest,) = (file.sha256 for file in weights.files if file.path == "onnx/model.onnx_data")
    assert any(digest in path for path in first)
    assert not any(digest in path for path in second)
    assert 0 < len(second) < len(first)
    assert delivery.run(oci(oci_registry.host, "once"), store=local_store).delivered == 0


def test_a_tag_follows_its_channel_forth_and_back(
    tmp_path: Path, local_store: ObjectStore, oci_registry: OciRegistry
) -> None:
    sink = oci(oci_registry.host, "tags")
    versions = [published(tmp_path, local_store, digit=digit).version for digit in "ab"]

    def digest(tag: str) -> str:
        answer = oci_registry.get(f"tags/acme/tiny/manifests/{tag}", accept=MANIFEST)
        return hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else ""

    for version in (versions[1], versions[0], versions[1]):
        moved(local_store, "stable", version)
        assert delivery.run(sink, store=local_store, patience=AT_ONCE).error is None
        assert digest("stable") == digest(version) != ""
    assert digest("latest") == digest(versions[1])


def test_a_large_file_is_not_held_in_memory(
    tmp_path: Path, local_store: ObjectStore, oci_registry: OciRegistry
) -> None:
    weight_bytes = 48 * 1024 * 1024
    stage = tiny_stage(tmp_path / "large", item=work_item(), weight_bytes=weight_bytes)
    publish(Stage.open(stage), store=local_store, provenance=PROVENANCE, created_at=NOW)
    tracemalloc.start()
    try:
        done = delivery.run(oci(oci_registry.host, "large"), store=local_store, patience=AT_ONCE)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.error is None
    assert peak_bytes < weight_bytes / 3


@pytest.mark.parametrize(
    ("host", "password", "error"),
    [("127.0.0.1:9", PASSWORD, "SinkUnavailable"), ("", "another password", "SinkDenied")],
)
def test_a_registry_that_is_down_or_refuses_the_password_leaves_the_events_waiting(
    tmp_path: Path, local_store: ObjectStore, oci_registry: OciRegistry, host: str, password: str, error: str
) -> None:
    published(tmp_path, local_store)
    sink = oci(host or oci_registry.host, "refused", password=password)
    done = delivery.run(sink, store=local_store, patience=AT_ONCE)
    assert (done.delivered, done.error) == (0, error)
    assert password not in json.dumps(done.message)
    assert delivery.waiting(sink, store=local_store) == 1
