"""The page about serving: what its script lays out for Triton fits the graphs, and the page shows what it writes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from fixtures.exported import Exported
from fixtures.stages import NOW, PROVENANCE, latency_report, validation_report
from onnx_fleet.bundles import manifest, seal

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text()
SCRIPT = ROOT / "docs/examples/triton_repository.py"
OF_ONNXRUNTIME = {"TYPE_INT64": "tensor(int64)", "TYPE_FP32": "tensor(float)", "TYPE_BOOL": "tensor(bool)"}


def configuration(text: str) -> Any:
    """Parse a config.pbtxt by the fields of Triton's model_config.proto that this project writes."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(("INVALID", "BOOL", "INT32", "INT64", "FP16", "FP32")):
        types.value.add(name=f"TYPE_{name}", number=number)
    file.message_type.add(name="ModelDynamicBatching")
    for name in ("ModelInput", "ModelOutput"):
        tensor = file.message_type.add(name=name)
        tensor.field.add(name="name", number=1, type=kinds.TYPE_STRING, label=1)
        tensor.field.add(name="data_type", number=2, type=kinds.TYPE_ENUM, label=1, type_name=".inference.DataType")
        tensor.field.add(name="dims", number=3, type=kinds.TYPE_INT64, label=3)
    config = file.message_type.add(name="ModelConfig")
    config.field.add(name="backend", number=1, type=kinds.TYPE_STRING, label=1)
    config.field.add(name="max_batch_size", number=2, type=kinds.TYPE_INT32, label=1)
    for number, (name, label, message) in enumerate(
        (("input", 3, "ModelInput"), ("output", 3, "ModelOutput"), ("dynamic_batching", 1, "ModelDynamicBatching")), 3
    ):
        config.field.add(
            name=name, number=number, type=kinds.TYPE_MESSAGE, label=label, type_name=f".inference.{message}"
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    return text_format.Parse(text, made)


def laid_out(exported: Exported, folder: Path, *, name: str = "served") -> Path:
    """Make a bundle of what was exported, and a Triton repository of the bundle."""
    stage = exported.copy(folder).stage
    stage.write_report("validation", validation_report(stage.item))
    stage.write_report("latency", latency_report(stage.item, 1.0))
    sealed = seal.seal(stage, provenance=PROVENANCE, created_at=NOW)
    (stage.folder / manifest.FILE_NAME).write_bytes(manifest.write(sealed))
    subprocess.run([sys.executable, SCRIPT, stage.folder, folder / "models", name], check=True)
    return folder / "models"


def shapes(tensors: Any, *, batched: bool) -> dict[str, tuple[str, list[int]]]:
    types = tensors[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    return {
        each.name: (OF_ONNXRUNTIME[types[each.data_type].name], [-1] * batched + list(each.dims)) for each in tensors
    }


def in_the_graph(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {each.name: (each.type, [size if isinstance(size, int) else -1 for size in each.shape]) for each in tensors}


@pytest.mark.parametrize(
    ("fixture", "models", "batched"),
    [
        pytest.param("embeddings", {"served"}, True, id="pooled"),
        pytest.param("bart", {"served-encoder_model", "served-decoder_model_merged"}, True, id="encoder and decoder"),
        pytest.param("pairs", {"served-model", "served-text_model", "served-vision_model"}, None, id="dual"),
        pytest.param("boxes", {"served"}, True, id="detector"),
    ],
)
def test_each_configuration_is_the_graphs_beside_it(
    fixture: str, models: set[str], batched: bool | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    repository = laid_out(request.getfixturevalue(fixture), tmp_path)

    assert {folder.name for folder in repository.iterdir()} == models
    for folder in repository.iterdir():
        config = configuration((folder / "config.pbtxt").read_text())
        session = onnxruntime.InferenceSession(folder / "1/model.onnx/model.onnx", providers=["CPUExecutionProvider"])
        by_row = config.max_batch_size > 0
        assert config.backend == "onnxruntime"
        assert config.HasField("dynamic_batching") == by_row
        assert batched is None or by_row == batched
        assert shapes(config.input, batched=by_row) == in_the_graph(session.get_inputs())
        assert shapes(config.output, batched=by_row) == in_the_graph(session.get_outputs())


def test_a_graph_whose_rows_are_not_a_batchs_takes_whole_batches(pairs: Exported, tmp_path: Path) -> None:
    """Similarities have an axis of texts and one of images."""
    repository = laid_out(pairs, tmp_path)

    config = configuration((repository / "served-model/config.pbtxt").read_text())
    assert config.max_batch_size == 0
    assert shapes(config.input, batched=False)["input_ids"][1] == [-1, -1]


def test_the_page_shows_what_the_script_writes_for_minilm(minilm: Exported, tmp_path: Path) -> None:
    repository = laid_out(minilm, tmp_path, name="all-MiniLM-L6-v2")

    (shown,) = re.findall(r"test_serving.py makes this -->\n```\n(.*?)```", PAGE, flags=re.DOTALL)
    assert (repository / "all-MiniLM-L6-v2/config.pbtxt").read_text() == shown
    for path in re.findall(r"^  (1/\S+)", PAGE, flags=re.MULTILINE):
        assert (repository / "all-MiniLM-L6-v2" / path).is_file(), path


def test_a_variant_that_a_bundle_lacks_is_named(minilm: Exported, tmp_path: Path) -> None:
    laid_out(minilm, tmp_path)

    command = [sys.executable, SCRIPT, tmp_path / "stage", tmp_path / "other", "served", "int8"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "has no int8; it has fp32" in refused.stderr
