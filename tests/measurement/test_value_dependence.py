"""Weights whose values may decide how long a call takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.measurement import value_dependence

WEIGHT = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(64, 64)


def reason(folder: Path, *, weight: np.ndarray = WEIGHT, op: str = "Relu", beside: bool = False, **config: Any) -> str:
    """What is said of ``op(x @ weight)``."""
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch_size", 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT64 if op == "NonZero" else TensorProto.FLOAT, None)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"]), helper.make_node(op, ["product"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")]))
    onnx.save(model, folder / "model.onnx", save_as_external_data=beside, location="model.onnx_data", size_threshold=0)
    info = GraphInfo(
        role="model",
        variant="fp32",
        path="model.onnx",
        opset=20,
        ir_version=10,
        inputs=(),
        outputs=(),
        weight_files=("model.onnx_data",) if beside else (),
        onnxruntime_min="1.17",
    )
    return value_dependence.reason(folder, [info])


@pytest.mark.parametrize("beside", [True, False])
def test_usual_weights_have_no_effect_zeros_among_them(tmp_path: Path, beside: bool) -> None:
    sparse = np.where(np.abs(WEIGHT) < 0.9, np.float32(0), WEIGHT)

    assert reason(tmp_path, weight=sparse, beside=beside) == ""


@pytest.mark.parametrize("beside", [True, False])
def test_subnormal_weights_are_counted(tmp_path: Path, beside: bool) -> None:
    weight = WEIGHT.copy()
    weight[3, 5:7] = -1e-40, 1e-45
    weight[3, 7] = np.finfo(np.float32).smallest_normal

    assert reason(tmp_path, weight=weight, beside=beside).startswith("2 of its 4,096 weights are subnormal numbers")


def test_a_mixture_of_experts_is_known_by_its_configuration(tmp_path: Path) -> None:
    assert "mixture of experts (num_local_experts)" in reason(tmp_path, text_config={"num_local_experts": 8})
    assert reason(tmp_path, num_experts=0) == ""


def test_an_operator_whose_work_follows_from_values_is_named(tmp_path: Path) -> None:
    assert reason(tmp_path, op="NonZero") == "model.onnx has NonZero: values decide what is computed"
