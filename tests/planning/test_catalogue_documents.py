"""The catalogues that are shipped, and what the docs and the JSON Schema say of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from fixtures.catalogues import faults, parsed
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.planning.catalogue import schema as catalogue_schema
from onnx_fleet_demo import models

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "include/catalogue.yaml", ROOT / "include/catalogue.demo.yaml")
SCHEMA = ROOT / "docs/catalogue.schema.json"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/catalogue.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_catalogues_are_valid_here_and_to_editors(path: Path) -> None:
    assert reader.load(path).entries
    plain = YAML(typ="safe", pure=True).load(path.read_text())
    jsonschema.validate(plain, json.loads(SCHEMA.read_text()))
    first_line = path.read_text().splitlines()[0]
    reference = first_line.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / reference).resolve() == SCHEMA.resolve()


def test_the_starter_fleet_has_about_twenty_models_of_every_task_that_is_exported() -> None:
    assert len(reader.load(SHIPPED[0]).entries) >= 20


def test_the_demo_catalogue_lists_the_demo_models() -> None:
    entries = reader.load(SHIPPED[1]).entries
    assert {entry.repo_id for entry in entries} == set(models.DEMO_MODELS)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_in_the_docs_is_valid(text: str) -> None:
    assert parsed(text).entries
    jsonschema.validate(YAML(typ="safe", pure=True).load(text), json.loads(SCHEMA.read_text()))


def test_the_docs_have_examples_and_name_every_key() -> None:
    text = (ROOT / "docs/catalogue.md").read_text()
    assert len(EXAMPLES) >= 4
    sections = (
        catalogue_schema.ModelSection,
        catalogue_schema.DiscoverSection,
        catalogue_schema.LatencySection,
        catalogue_schema.CanarySection,
    )
    missing = [name for section in sections for name in section.model_fields if f"`{name}`" not in text]
    assert missing == []


def test_the_schema_file_is_fresh(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "onnx_fleet.schemas", str(tmp_path)], check=True)
    made = tmp_path / SCHEMA.name
    assert SCHEMA.read_text() == made.read_text(), "stale: run make schemas"


def test_the_schema_describes_every_key() -> None:
    schema = catalogue_schema.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    bare = [
        f"{name}.{key}"
        for name, section in schema["$defs"].items()
        for key, value in section["properties"].items()
        if "description" not in value and "$ref" not in value
    ]
    assert bare == []


@pytest.mark.parametrize(
    "text",
    [
        "models: 5",
        "models: [{revision: main}]",
        "models: [{repo_id: a/b, task: x}]",
        "extra: 1",
        "canary: 0%",
        "discover: [{limit: 0}]",
    ],
)
def test_what_editors_mark_is_a_fault_here_too(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(YAML(typ="safe", pure=True).load(text), json.loads(SCHEMA.read_text()))
    assert faults(text)
