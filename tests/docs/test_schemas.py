"""The reports of a bundle fit the schemas in docs/."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from fixtures.exported import Exported
from fixtures.stages import tiny_stage
from onnx_fleet import jsonio, schemas
from onnx_fleet.bundles import channel_history
from onnx_fleet.bundles.channel_history import Row
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.validation import validator

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_the_schema_in_the_docs_is_the_one_of_the_code(name: str) -> None:
    assert _schema(name) == schemas.json_schema(name), "run: make schemas"


@pytest.mark.parametrize("name", ["latency", "validation"])
def test_a_report_fits_its_schema_and_a_field_too_many_does_not(name: str, tmp_path: Path) -> None:
    schema = _schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    found = json.loads((tiny_stage(tmp_path / "stage") / "reports" / f"{name}.json").read_bytes())

    jsonschema.validate(found, schema)
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate({**found, "surprise": 1}, schema)


def test_the_report_of_a_real_proof_fits_its_schema_and_has_a_picture(questions: Exported) -> None:
    validator.validate(questions.stage, source_dir=questions.source_dir)

    jsonschema.validate(
        json.loads((questions.stage_dir / "reports/validation.json").read_bytes()), _schema("validation")
    )
    assert b"start_logits" in (questions.stage_dir / "reports/validation.svg").read_bytes()


@pytest.mark.parametrize(("name", "kind"), [("channel", Channel), ("history", Row)])
def test_the_documents_of_a_channel_in_the_docs_fit_their_schemas_and_each_other(name: str, kind: type) -> None:
    page = (ROOT / "docs/bundle-format.md").read_text()
    told = {"row" in json.loads(block): block for block in re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)}
    document = json.loads(told[name == "channel"])
    jsonschema.validate(document, _schema(name))
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate({**document, "surprise": 1}, _schema(name))
    pointer, row = jsonio.parse(Channel, told[True]), jsonio.parse(Row, told[False])
    assert isinstance(jsonio.from_json(kind, document), kind)
    assert (pointer.row, pointer.version, pointer.previous) == (row.name, row.to_version, row.from_version)
    assert channel_history.to_bytes(row).decode() == told[False]
    assert f"{row.name}.json" in page


def _schema(name: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text())
    return read
