"""The reports of a bundle fit the schemas in docs/."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from fixtures.exported import Exported
from fixtures.stages import tiny_stage
from onnx_fleet import schemas
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


def _schema(name: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text())
    return read
