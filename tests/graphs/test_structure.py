"""What two graphs have alike that differ in the values of their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fleet.graphs import structure

WEIGHT = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)


def saved(
    path: Path,
    *,
    weight: np.ndarray = WEIGHT,
    shape: tuple[int, ...] = (-1, 8),
    op: str = "Relu",
    beside: bool = False,
    said: str = "",
) -> Path:
    """``y = op(reshape(x @ weight, shape))``."""
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    x, y = (helper.make_tensor_value_info(name, kind, ["batch_size", 8]) for name in ("x", "y"))
    nodes = [
        helper.make_node("MatMul", ["x", "layer.weight"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["shaped"]),
        helper.make_node(op, ["shaped"], ["y"]),
    ]
    constants = [numpy_helper.from_array(weight, "layer.weight"), numpy_helper.from_array(np.array(shape), "shape")]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants))
    if said:
        model.metadata_props.add(key="onnx_fleet.model_id", value=said)
    onnx.save(model, path, save_as_external_data=beside, location=f"{path.name}_data", size_threshold=128)
    return path


def test_values_of_weights_where_they_lie_and_whose_they_are_make_no_difference(tmp_path: Path) -> None:
    digests = {
        structure.digest(saved(tmp_path / "one.onnx", said="acme/one")),
        structure.digest(saved(tmp_path / "two.onnx", weight=WEIGHT * 3, said="beta/two")),
        structure.digest(saved(tmp_path / "three.onnx", beside=True)),
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "differing",
    [
        {"op": "Tanh"},
        {"shape": (1, -1, 8)},
        {"weight": WEIGHT.astype(np.float16)},
        {"weight": np.tile(WEIGHT, (1, 2))},
    ],
    ids=["an operator", "a size", "a type", "a weight's shape"],
)
def test_whatever_else_differs_makes_another_digest(tmp_path: Path, differing: dict[str, object]) -> None:
    usual = structure.digest(saved(tmp_path / "usual.onnx"))

    assert structure.digest(saved(tmp_path / "other.onnx", **differing)) != usual  # type: ignore[arg-type]


def test_an_integer_beside_the_graph_is_read_too(tmp_path: Path) -> None:
    def of(values: range) -> str:
        table = numpy_helper.from_array(np.array(values, dtype=np.int64), "table")
        x = helper.make_tensor_value_info("x", TensorProto.INT64, [1])
        y = helper.make_tensor_value_info("y", TensorProto.INT64, [1])
        node = helper.make_node("Gather", ["table", "x"], ["y"])
        path = tmp_path / f"{values.start}.onnx"
        model = helper.make_model(helper.make_graph([node], "g", [x], [y], [table]))
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=0)
        return structure.digest(path)

    assert of(range(100)) == of(range(100))
    assert of(range(100)) != of(range(1, 101))
