"""The layout for KServe: the definition of its resource takes the service, which serves the repository beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.layouts import pulled
from onnx_fleet.layouts.arrangement import Choice
from onnx_fleet.store import ObjectStore

SCHEMA = json.loads((Path(__file__).parent / "inferenceservice.schema.json").read_bytes())


def service(folder: Path, *, store: ObjectStore, model_id: str) -> Any:
    stage = tiny_stage(folder / "stage", item=work_item(model_id=model_id))
    publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW)
    choice = Choice(variant="fp32", storage_uri="pvc://models/tiny/")
    pulled.pull(model_id, store=store, to=folder / "served", layout="kserve", choice=choice)
    return yaml.safe_load((folder / "served/inferenceservice.yaml").read_text())


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("acme/tiny", "tiny"),
        ("acme/All-MiniLM_L6.v2", "all-minilm-l6-v2"),
        ("acme/7B-model", "m-7b-model"),
        (f"acme/{'long-name-' * 9}", "long-name-long-name-long-name-long-name"),
    ],
)
def test_kserves_own_definition_takes_the_service(
    model_id: str, name: str, local_store: ObjectStore, tmp_path: Path
) -> None:
    made = service(tmp_path, store=local_store, model_id=model_id)

    jsonschema.validate(made, SCHEMA)
    assert made["metadata"]["name"] == name
    assert made["metadata"]["annotations"]["onnx-fleet/model-id"] == model_id
    model = made["spec"]["predictor"]["model"]
    assert model["storageUri"] == "pvc://models/tiny/models"
    assert (tmp_path / "served/models" / model_id.partition("/")[2] / "config.pbtxt").is_file()


def test_the_definition_refuses_a_service_with_a_field_that_kserve_does_not_have(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    made = service(tmp_path, store=local_store, model_id="acme/tiny")
    made["spec"]["predictor"]["model"]["storageURI"] = "pvc://models/tiny"
    with pytest.raises(jsonschema.ValidationError, match="storageURI"):
        jsonschema.validate(made, SCHEMA)
