"""Variants are made without their weights, and get these as they are written: nothing else may come of that."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from fixtures.exported import Exported
from fixtures.varied import Varied, vary, wanting
from onnx_fleet.graphs import recorded_feeds
from onnx_fleet.graphs.initializers import size_bytes
from onnx_fleet.variants import float16, int8, mixed_precision, preprocessing
from onnx_fleet.variants.streamed import Streamed


@pytest.fixture
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The prepared graph of a model, by the name of its fixture."""
    found = request.getfixturevalue(request.param)
    exported: Exported = found.exported if isinstance(found, Varied) else found
    return preprocessing.prepare(exported.graph, tmp_path)


KINDS = pytest.mark.parametrize("prepared", ["varied_encoder", "varied_decoder", "convolutions", "gpt2"], indirect=True)


def _of_half_its_layers(path: Path) -> list[str]:
    """Names of nodes to leave as they are: every other one that has a weight."""
    layers = mixed_precision.kinds(onnx.load(path, load_external_data=False))
    return sorted(node for kind in layers for node in kind.nodes)[::2]


def _is_the_same(found: Streamed, expected: ModelProto, folder: Path) -> None:
    """Every node, and every bit of every weight."""
    found.write(folder / "found.onnx")
    written = onnx.load(folder / "found.onnx")
    tensors, wanted = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (written, expected)
    )
    assert list(tensors) == list(wanted)
    for name, array in wanted.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape), name
        assert tensors[name].tobytes() == array.tobytes(), name
    assert list(written.graph.node) == list(expected.graph.node)


@KINDS
@pytest.mark.parametrize("spares", [False, True])
def test_int8_is_what_onnxruntime_makes_of_the_whole_graph(prepared: Path, spares: bool, tmp_path: Path) -> None:
    excluded = _of_half_its_layers(prepared) if spares else []
    quantize_dynamic(
        prepared,
        tmp_path / "whole.onnx",
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
    )

    _is_the_same(int8.dynamic(prepared, excluded=excluded), onnx.load(tmp_path / "whole.onnx"), tmp_path)


@pytest.mark.parametrize("spares", [False, True])
@pytest.mark.parametrize("model", ["varied_encoder", "varied_decoder", "convolutions"])
def test_int8_static_is_what_onnxruntime_makes_of_the_whole_graph(
    model: str, spares: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixture = request.getfixturevalue(model)
    varied = fixture if isinstance(fixture, Varied) else vary(fixture.copy(tmp_path / "varied"), wanting("int8_static"))
    prepared = preprocessing.prepare(varied.exported.graph, tmp_path)
    excluded = _of_half_its_layers(prepared) if spares else []
    names = {value.name for value in onnx.load(prepared, load_external_data=False).graph.input}
    samples = list(recorded_feeds.read(varied.stage_dir, "model", "calibration"))

    class Reader:
        feeds = iter([{name: array for name, array in each.feeds.items() if name in names} for each in samples])

        def get_next(self) -> object:
            return next(self.feeds, None)

    quantize_static(
        prepared,
        tmp_path / "whole.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "MatMul", "Gemm", "Gather"],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )

    found = int8.static(prepared, samples=samples, excluded=excluded)
    _is_the_same(found, onnx.load(tmp_path / "whole.onnx"), tmp_path)


def _with_weights(path: Path, change: Callable[[np.ndarray], np.ndarray], *, of: str = "") -> Path:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2 and of in tensor.name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("prepared", ["varied_encoder"], indirect=True)
def test_int8_of_a_column_of_zeros_and_of_subnormal_numbers(prepared: Path, tmp_path: Path) -> None:
    def change(weight: np.ndarray) -> np.ndarray:
        weight[..., :2] = 0.0
        weight[..., 2:4] *= 1e-40
        return weight

    path = _with_weights(prepared, change)
    options = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    quantize_dynamic(path, tmp_path / "whole.onnx", op_types_to_quantize=["MatMul", "Gather"], **options)

    _is_the_same(int8.dynamic(path), onnx.load(tmp_path / "whole.onnx"), tmp_path)


@pytest.mark.parametrize("prepared", ["varied_encoder"], indirect=True)
def test_a_weight_that_is_not_finite_is_not_rounded(prepared: Path) -> None:
    def change(weight: np.ndarray) -> np.ndarray:
        weight[..., -1] = np.nan
        return weight

    with pytest.raises(ValueError, match=r"layer\.0\..* has values that are not finite"):
        int8.dynamic(_with_weights(prepared, change, of="layer.0."))


def _in_half(path: Path) -> dict[str, np.ndarray]:
    """Every weight as onnxruntime's converter rounds it, in a graph whose nodes may all be in half precision."""
    model = convert_float_to_float16(onnx.load(path), max_finite_val=1e4, op_block_list=[])
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@KINDS
def test_fp16_has_the_weights_that_onnxruntime_makes(prepared: Path, tmp_path: Path) -> None:
    """Numbers that have no float16 of their own are the converter's business."""

    def change(weight: np.ndarray) -> np.ndarray:
        odd = np.array([5e-8, -5e-8, 1e-9, -0.0, 9_999.0, 10_001.0, -70_000.0, 1e-7, 3e-8], dtype=np.float32)
        weight.reshape(-1)[: len(odd)] = odd[: weight.size]
        return weight

    path = _with_weights(prepared, change)
    expected = _in_half(path)

    float16.convert(path).write(tmp_path / "found.onnx")

    found = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "found.onnx").graph.initializer
    }
    halves = [name for name, array in found.items() if array.dtype == np.float16]
    assert len(halves) > len(found) / 4
    for name in halves:
        assert found[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("prepared", ["varied_encoder"], indirect=True)
def test_a_converted_graph_holds_no_matrix_before_it_is_written(prepared: Path) -> None:
    """All of them together are what a worker has no room for."""
    for made in (float16.convert(prepared), int8.dynamic(prepared)):
        tensors = made.model.graph.initializer
        matrices = [tensor for tensor in tensors if len(tensor.dims) == 2 and size_bytes(tensor) >= 1024]
        assert len(matrices) > 5
        assert sum(len(tensor.raw_data) for tensor in matrices) == 0
        assert made.values.keys() >= {tensor.name for tensor in matrices}


def test_each_weight_is_gone_before_the_next_one_is_computed(tmp_path: Path) -> None:
    held: list[weakref.ref[np.ndarray]] = []

    def computed() -> np.ndarray:
        assert [each for each in held if each() is not None] == []
        values = np.ones((64, 64), dtype=np.float32)
        held.append(weakref.ref(values))
        return values

    names = ("a", "b", "c")
    weights = [TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[64, 64]) for name in names]
    model = helper.make_model(helper.make_graph([], "three", [], [], weights))
    Streamed(model=model, values=dict.fromkeys(names, computed)).write(tmp_path / "three.onnx")

    assert len(held) == len(names)


def test_a_small_graph_has_its_weights_inside(tmp_path: Path) -> None:
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[16, 32])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch_size", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch_size", 32])],
        [weight],
    )
    values = np.arange(512, dtype=np.float32).reshape(16, 32)
    for room, files in ((4096, ["small.onnx"]), (2048, ["small.onnx", "small.onnx_data"])):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        Streamed(model=model, values={"weight": lambda: values}).write(tmp_path / "small.onnx", inline_max_bytes=room)
        assert sorted(path.name for path in tmp_path.iterdir()) == files
        (found,) = onnx.load(tmp_path / "small.onnx").graph.initializer
        np.testing.assert_array_equal(numpy_helper.to_array(found), values)
