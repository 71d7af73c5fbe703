"""The manifest: canonical, strict, and for ever readable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fixtures.stages import NOW, PROVENANCE, tiny_stage, validation_report, work_item
from onnx_fleet import jsonio
from onnx_fleet.bundles import manifest, seal
from onnx_fleet.bundles.stage import PRIVATE, Stage
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, ValidationFailed

ROOT = Path(__file__).parents[2]
RELEASED = sorted((ROOT / "tests" / "golden").glob("manifest-v*.json"))


@pytest.fixture
def sealed(tmp_path: Path) -> manifest.Manifest:
    return seal.seal(Stage.open(tiny_stage(tmp_path / "stage")), provenance=PROVENANCE, created_at=NOW)


def test_writing_and_reading_give_the_same_manifest_and_the_same_bytes(sealed: manifest.Manifest) -> None:
    data = manifest.write(sealed)
    assert manifest.read(data) == sealed
    assert manifest.write(manifest.read(data)) == data


def test_sealing_the_same_stage_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path / "stage")
    first, second = (seal.seal(Stage.open(stage), provenance=PROVENANCE, created_at=NOW) for _ in range(2))
    assert manifest.write(first) == manifest.write(second)


def test_the_manifest_says_what_is_left_to_do_beside_a_sentence_transformers_graph(tmp_path: Path) -> None:
    folder = tiny_stage(tmp_path / "stage")
    assert seal.seal(Stage.open(folder), provenance=PROVENANCE, created_at=NOW).sentence_transformers is None

    told = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "truncate_dim": 16}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules += [{"type": "sentence_transformers.models.Dense", "path": "head/last"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "head" / "last").mkdir(parents=True)
    (folder / "head" / "last" / "model.safetensors").write_bytes(b"weights")

    sealed = manifest.read(manifest.write(seal.seal(Stage.open(folder), provenance=PROVENANCE, created_at=NOW)))

    said = sealed.sentence_transformers
    assert said is not None
    assert (said.kind, said.prompts, said.default_prompt_name, said.truncate_dim) == (
        "SentenceTransformer",
        {"query": "query: "},
        "query",
        16,
    )
    roles = {file.path: file.role for file in sealed.files}
    assert roles["head/last/model.safetensors"] == "sentence_transformers"


def test_the_schema_in_the_docs_is_the_one_of_the_code() -> None:
    committed = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    assert committed == manifest.json_schema(), "run: make schemas"


def test_a_manifest_fits_the_schema_in_the_docs(sealed: manifest.Manifest) -> None:
    schema = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(json.loads(manifest.write(sealed)))


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.name)
def test_every_released_manifest_still_reads_and_fits_the_schema(path: Path) -> None:
    data = path.read_bytes()
    assert manifest.read(data).bundle.model_id == "acme/tiny"
    jsonschema.validate(json.loads(data), json.loads((ROOT / "docs" / "manifest.schema.json").read_text()))


def test_there_is_a_released_manifest_of_every_schema_version() -> None:
    assert [path.name for path in RELEASED] == [f"manifest-v{n}.json" for n in range(1, manifest.SCHEMA_VERSION + 1)]


def test_the_manifest_says_what_was_checked_over_how_many_cases(sealed: manifest.Manifest) -> None:
    (check,) = sealed.validation.checks
    assert (check.check, check.output, check.cases, check.cases_passed) == ("parity", "last_hidden_state", 2, 2)
    assert (check.max_abs_diff, check.worst_case) == (3e-6, "batch_size 5, sequence_length 7")
    assert sealed.validation.gpu == "not validated on GPU: it was not asked for"


def test_each_file_has_its_role(sealed: manifest.Manifest) -> None:
    assert {file.path: file.role for file in sealed.files} == {
        "LICENSE": "licence",
        "bom.json": "report",
        "config.json": "config",
        "onnx/model.onnx": "graph",
        "onnx/model.onnx_data": "weights",
        "provenance.json": "report",
        "reports/latency.json": "report",
        "reports/validation.json": "report",
        "tokenizer.json": "tokenizer",
    }


def _set(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        place: Any = data
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("surprise", to=1), "surprise"),
        (_set("bundle", "surprise", to=1), "bundle.surprise"),
        (_set("bundle", "model_id", to=7), "bundle.model_id"),
        (_set("bundle", "created_at", to="2026-11-21T12:00:00"), "timezone"),
        (_set("files", 0, "size_bytes", to="12"), "files.0.size_bytes"),
        (_set("schema_version", to=2), "upgrade onnx-fleet"),
        (_set("files", 0, "path", to="../../etc/passwd"), "leads out"),
        (_set("files", 0, "path", to="/etc/passwd"), "leads out"),
        (_set("files", 0, "path", to="config.json"), "listed 2 times"),
        (_set("files", 0, "path", to="manifest.json"), "lists itself"),
        (_set("files", 0, "sha256", to="abc"), "files.0.sha256"),
        (_set("files", 0, "size_bytes", to=-1), "files.0.size_bytes"),
        (_set("bundle", "version", to="v1"), "bundle.version"),
        (_set("graphs", 0, "path", to="onnx/other.onnx"), "onnx/other.onnx belongs to a graph"),
        (_set("bundle", "version", to="00000000-00000000"), "does not follow"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(
    sealed: manifest.Manifest, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    data = json.loads(manifest.write(sealed))
    change(data)
    with pytest.raises(BundleCorrupt, match=says):
        manifest.read(jsonio.canonical(data))


def test_a_number_that_is_not_finite_is_never_written(sealed: manifest.Manifest) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonio.canonical({"max_abs_diff": float("nan")})


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda stage: (stage / "reports" / "validation.json").unlink(), ValidationFailed, "onnx-fleet validate"),
        (lambda stage: (stage / "reports" / "validation.json").write_text("{"), ValidationFailed, "make it again"),
        (lambda stage: (stage / "onnx" / "model.onnx").unlink(), BundleCorrupt, r"onnx/model\.onnx is missing"),
        (lambda stage: (stage / "onnx" / "model.onnx_data").unlink(), BundleCorrupt, "model.onnx_data is missing"),
        (lambda stage: (stage / PRIVATE / "work.json").unlink(), BundleNotFound, "onnx-fleet export"),
        (lambda stage: (stage / PRIVATE / "export.json").unlink(), BundleNotFound, "onnx-fleet export"),
    ],
    ids=["no report", "broken report", "no graph", "no weights", "no work", "no export"],
)
def test_a_stage_that_is_not_ready_is_not_sealed(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception], says: str
) -> None:
    stage = tiny_stage(tmp_path / "stage")
    spoil(stage)
    with pytest.raises(error, match=says):
        seal.seal(Stage.open(stage), provenance=PROVENANCE, created_at=NOW)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("validation", {"status": "failed", "reason": "logits differ by 0.3"}, "logits differ by 0.3"),
        ("validation", {"status": "not_run", "reason": "no time"}, "validation on cpu is not_run"),
        ("validation_cuda", {"status": "failed", "reason": "NaN", "provider": "cuda"}, "validation on cuda is failed"),
        ("validation", {"version": "01234567-00000000"}, "is about acme/tiny@01234567-00000000"),
        ("validation", {"provider": "cuda"}, "no validation report for the CPU"),
    ],
)
def test_a_stage_whose_reports_do_not_prove_it_is_not_sealed(
    tmp_path: Path, name: str, changes: dict[str, str], says: str
) -> None:
    stage = tiny_stage(tmp_path / "stage")
    Stage.open(stage).write_report(name, jsonio.to_json(validation_report(work_item())) | changes)
    with pytest.raises(ValidationFailed, match=says):
        seal.seal(Stage.open(stage), provenance=PROVENANCE, created_at=NOW)
