"""The layout for Triton: its own protobuf reads the configurations, which say what the graphs beside them do."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format

from fixtures.arranged import arranged
from fixtures.exported import Exported

OF_ONNXRUNTIME = {
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_BOOL": "tensor(bool)",
}


@pytest.fixture(scope="module")
def triton() -> Any:
    """Triton's model_config.proto as tritonclient has it; its package refuses to be imported without gRPC."""
    file = metadata.distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(file))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configuration(triton: Any, model: Path) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(), triton.ModelConfig())


def shapes(triton: Any, tensors: Any, *, batched: bool) -> dict[str, tuple[str, list[int]]]:
    return {
        each.name: (OF_ONNXRUNTIME[triton.DataType.Name(each.data_type)], [-1] * batched + list(each.dims))
        for each in tensors
    }


def in_the_graph(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {each.name: (each.type, [size if isinstance(size, int) else -1 for size in each.shape]) for each in tensors}


@pytest.mark.parametrize(
    ("fixture", "roles", "batched"),
    [
        pytest.param("embeddings", [""], True, id="pooled"),
        pytest.param("gpt2", [""], True, id="decoder"),
        pytest.param("bart", ["-decoder_model_merged", "-encoder_model"], True, id="encoder and decoder"),
        pytest.param("pairs", ["-model", "-text_model", "-vision_model"], None, id="dual"),
        pytest.param("boxes", [""], True, id="detector"),
    ],
)
def test_each_configuration_says_what_the_graph_beside_it_does(
    fixture: str, roles: list[str], batched: bool | None, triton: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = arranged(request.getfixturevalue(fixture), tmp_path, layout="triton")

    name = found.bundle.model_id.partition("/")[2]
    models = sorted((tmp_path / "served/models").iterdir())
    assert [model.name for model in models] == [f"{name}{role}" for role in roles]
    for model in models:
        config = configuration(triton, model)
        session = onnxruntime.InferenceSession(model / "1/model.onnx/model.onnx", providers=["CPUExecutionProvider"])
        by_row = config.max_batch_size > 0
        assert config.backend == "onnxruntime"
        assert config.HasField("dynamic_batching") == by_row
        assert batched is None or by_row == batched
        assert shapes(triton, config.input, batched=by_row) == in_the_graph(session.get_inputs())
        assert shapes(triton, config.output, batched=by_row) == in_the_graph(session.get_outputs())
        (instances,) = config.instance_group
        assert triton.ModelInstanceGroup.Kind.Name(instances.kind) == "KIND_CPU", "it was not validated on a GPU"


def test_a_graph_whose_rows_are_not_a_batchs_takes_whole_batches(pairs: Exported, triton: Any, tmp_path: Path) -> None:
    """Similarities have an axis of texts and one of images."""
    found = arranged(pairs, tmp_path, layout="triton")

    name = found.bundle.model_id.partition("/")[2]
    config = configuration(triton, tmp_path / f"served/models/{name}-model")
    assert config.max_batch_size == 0
    assert shapes(triton, config.input, batched=False)["input_ids"][1] == [-1, -1]


def test_weights_that_two_graphs_share_are_on_the_disk_once(bart: Exported, tmp_path: Path) -> None:
    arranged(bart, tmp_path, layout="triton")

    weights = list((tmp_path / "served").rglob("*.onnx_data"))
    assert len(weights) == 2
    assert len({path.stat().st_ino for path in weights}) == 1
    assert {path.stat().st_nlink for path in weights} == {2}
