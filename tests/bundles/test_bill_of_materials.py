"""bom.json and provenance.json: what they say, and that the official schemas take them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement

from fixtures.stages import COMMIT, NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import bundle, manifest, model_card, seal
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.store import ObjectStore

CARD = """---
license: other
license_name: acme-community
license_link: https://example.com/licence
base_model:
- acme/larger
- acme/teacher
datasets:
- acme/reviews
- 7
---
# Tiny
"""


def sealed(folder: Path, *, item: WorkItem | None = None, card: str | None = CARD) -> tuple[Manifest, Path]:
    tiny_stage(folder, item=item)
    if card is not None:
        (folder / "README.md").write_text(card)
    return seal.seal(Stage.open(folder), provenance=PROVENANCE, created_at=NOW), folder


def licensed(licence: str | None) -> WorkItem:
    item = work_item()
    return replace(item, model=replace(item.model, licence=licence))


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_bytes())
    return found


def properties(component: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"].removeprefix("onnx-fleet:"): each["value"] for each in component["properties"]}


@pytest.mark.parametrize("licence", ["apache-2.0", "other", "llama3.1", "MIT AND Apache-2.0", None])
def test_the_bill_of_materials_is_what_cyclonedx_asks_for(tmp_path: Path, licence: str | None) -> None:
    _, folder = sealed(tmp_path / "stage", item=licensed(licence))
    text = (folder / "bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_schema_refuses_a_bill_of_materials_with_a_fault(tmp_path: Path) -> None:
    _, folder = sealed(tmp_path / "stage")
    bom = read(folder, "bom.json")
    bom["metadata"]["component"]["modelCard"]["modelParameters"]["layers"] = 3
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is not None


def test_the_bill_of_materials_says_model_commit_licence_origin_tools_files_and_proof(tmp_path: Path) -> None:
    made, folder = sealed(tmp_path / "stage", item=licensed("other"))
    bom = read(folder, "bom.json")
    model = bom["metadata"]["component"]
    [source] = model["pedigree"]["ancestors"]
    assert (model["group"], model["name"], model["version"]) == ("acme", "tiny", made.bundle.version)
    assert source["purl"] == f"pkg:huggingface/acme/tiny@{COMMIT}"
    assert model["licenses"] == [{"license": {"name": "acme-community", "url": "https://example.com/licence"}}]
    assert [base["name"] for base in source["pedigree"]["ancestors"]] == ["larger", "teacher"]
    card = model["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"name": "acme/reviews", "type": "dataset"}]
    assert {"type": "parity: cases passed of 2", "value": "2", "slice": "cpu"} in card["quantitativeAnalysis"][
        "performanceMetrics"
    ]
    tools = {tool["name"]: tool["version"] for tool in bom["metadata"]["tools"]["components"]}
    assert tools["onnx"] == made.toolchain["onnx"]
    hashes = {file["name"]: file["hashes"][0]["content"] for file in bom["components"]}
    assert hashes == {file.path: file.sha256 for file in made.files if file.role != "report"}
    assert "onnx/model.onnx" in hashes


def test_the_provenance_is_a_statement_that_in_toto_and_slsa_know(tmp_path: Path) -> None:
    made, folder = sealed(tmp_path / "stage")
    said = read(folder, "provenance.json")
    predicate = said.pop("predicate")
    statement = json_format.ParseDict(said, Statement(subjects=[], predicate_type="", predicate={}).pb)
    parsed = json_format.ParseDict(predicate, provenance_pb2.Provenance())
    Statement(subjects=statement.subject, predicate_type=statement.predicate_type, predicate=predicate).validate()
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    assert {each.name: each.digest["sha256"] for each in statement.subject} == {
        file.path: file.sha256 for file in made.files if file.role in ("graph", "weights", "tokenizer")
    }
    definition, details = parsed.build_definition, parsed.run_details
    assert definition.resolved_dependencies[0].digest["gitCommit"] == COMMIT
    assert definition.resolved_dependencies[1].name == "config.json"
    assert definition.external_parameters["revision"] == "main"
    assert details.metadata.invocation_id == "fleet_reexport/manual__1"
    assert details.builder.id == "pkg:generic/onnx-fleet"
    assert definition.build_type.endswith("docs/bundle-format.md")
    assert [each.name for each in details.byproducts] == ["reports/latency.json", "reports/validation.json"]


def test_the_same_stage_run_and_time_give_the_same_bytes(tmp_path: Path) -> None:
    first, _ = sealed(tmp_path / "one")
    second, _ = sealed(tmp_path / "two")
    again = seal.seal(Stage.open(tmp_path / "one"), provenance=PROVENANCE, created_at=NOW)
    assert manifest.write(first) == manifest.write(second) == manifest.write(again)


def test_neither_file_makes_a_bundle_another_one(tmp_path: Path, any_store: ObjectStore) -> None:
    """Another run at another time: both files differ, and what stands is the same bundle."""
    tiny_stage(tmp_path / "one")
    tiny_stage(tmp_path / "two")
    for days, name in enumerate(("one", "two")):
        done = publish(
            Stage.open(tmp_path / name),
            store=any_store,
            provenance=replace(PROVENANCE, run_id=name),
            created_at=NOW + timedelta(days=days),
        )
    assert done.state == "unchanged"
    found = bundle.find("acme/tiny", store=any_store)
    assert [file.path for file in found.manifest.files if file.role == "report"] == [
        "bom.json",
        "provenance.json",
        "reports/latency.json",
        "reports/validation.json",
    ]


def test_a_stage_is_not_changed_by_having_been_published(tmp_path: Path) -> None:
    _, folder = sealed(tmp_path / "stage", card=None)
    assert not Stage.open(folder).is_changed()
    (folder / "config.json").write_text("{}")
    assert Stage.open(folder).is_changed()


@pytest.mark.parametrize(
    "card", [None, "# No front matter", "---\n: [\n---\n", "---\n- a list\n---\n", "---\nbase_model: {a: 1}\n---\n"]
)
def test_a_card_that_declares_nothing_usable_is_no_hindrance(tmp_path: Path, card: str | None) -> None:
    _, folder = sealed(tmp_path / "stage", card=card)
    assert model_card.read(folder) == model_card.ModelCard()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((folder / "bom.json").read_text()) is None
