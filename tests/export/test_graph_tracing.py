"""Tracing keeps what the model computes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig

from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.export import graph_tracing, weight_placement
from onnx_fleet.source.families import GraphSpec


class _Norm(torch.nn.Module):
    """Divides each row by its length, as RMS norms do: the epsilon is all that keeps a row of zeros from 0 / 0."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.config = PretrainedConfig()

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"normed": rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + self.epsilon)}


@pytest.mark.parametrize("epsilon", [1e-8, 1e-12])
def test_a_tiny_epsilon_stays_in_the_graph(tmp_path: Path, epsilon: float) -> None:
    shape = ("batch_size", 4)
    spec = GraphSpec(
        role="model",
        module=_Norm(epsilon),
        example_inputs={"rows": torch.randn(3, 4)},
        inputs={"rows": ("batch_size", None)},
        outputs={"normed": shape},
    )
    model, _ = graph_tracing.trace(spec, opset=20)
    weight_placement.save_all({"model": ir.to_proto(model)}, tmp_path, tensors={})

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (normed,) = session.run(["normed"], {"rows": np.zeros((2, 4), dtype=np.float32)})

    assert normed.tolist() == [[0.0] * 4] * 2


class _Pooled(torch.nn.Module):
    """Any number of rows and columns in, four columns out."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig()

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"pooled": rows.mean(dim=2, keepdim=True).expand(-1, -1, 4)}


class _Cached(_Pooled):
    """Reads the length of its cache as a number."""

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"pooled": rows * int(rows.shape[2])}


def _spec(module: torch.nn.Module, *, columns: str, output: str, fixable: tuple[str, ...] = ()) -> GraphSpec:
    return GraphSpec(
        role="model",
        module=module,
        example_inputs={"rows": torch.randn(3, 2, 12)},
        inputs={"rows": ("batch_size", None, columns)},
        outputs={"pooled": ("batch_size", None, output)},
        fixable=fixable,
    )


def test_an_axis_of_an_output_alone_falls_back_where_it_may() -> None:
    spec = _spec(_Pooled(), columns="width", output="output_width")

    with pytest.raises(ExportUnsupported, match=r"may_be_fixed: \[output_width\]"):
        graph_tracing.trace(spec, opset=20)
    model, (fallback,) = graph_tracing.trace(spec, opset=20, may_be_fixed=["output_width"])

    assert fallback.what == "model: dynamic -> fixed output_width"
    assert list(model.graph.outputs[0].shape or ())[1:] == [2, 4]
    assert str(list(model.graph.inputs[0].shape or ())[2]) == "width"


def test_a_family_may_let_an_axis_of_an_output_fall_back_too() -> None:
    spec = _spec(_Pooled(), columns="width", output="output_width", fixable=("output_width",))

    assert graph_tracing.trace(spec, opset=20)[1][0].what == "model: dynamic -> fixed output_width"


def test_no_length_of_a_cache_is_fixed_whatever_an_entry_says() -> None:
    spec = _spec(_Cached(), columns="past_sequence_length", output="past_sequence_length")

    with pytest.raises(ExportUnsupported, match="would hold for") as refused:
        graph_tracing.trace(spec, opset=20, may_be_fixed=["past_sequence_length"])
    assert "may_be_fixed" not in str(refused.value)


class _Peaks(torch.nn.Module):
    """BiT's first layers: zeros around the image, and the maxima of what is there then."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.pad = torch.nn.ConstantPad2d(1, 0.0)
        self.pool = torch.nn.MaxPool2d(3, stride=2)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"pooled": self.pool(self.pad(rows))}


def test_onnxruntime_keeps_the_zeros_around_an_image_in_front_of_maxima(tmp_path: Path) -> None:
    given = -1 - torch.rand(2, 3, 8, 8)
    shape = ("batch_size", None, None, None)
    module = _Peaks()
    spec = GraphSpec(
        role="model",
        module=module,
        example_inputs={"rows": given},
        inputs={"rows": shape},
        outputs={"pooled": shape},
    )
    model, _ = graph_tracing.trace(spec, opset=20)

    assert (_run(model, tmp_path, given) == module(rows=given)["pooled"].numpy()).all()


class _Remembering(torch.nn.Module):
    """LeViT's biases: worked out from a weight once, and kept until training begins again."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.bias = torch.nn.Parameter(torch.zeros(2, 12))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> _Remembering:
        if mode:
            self.kept.clear()
        return super().train(mode)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"pooled": rows + self.kept.setdefault("doubled", 2 * self.bias)}


@pytest.mark.filterwarnings("ignore:The tensor attribute self.module.kept:UserWarning")  # what the test is about
def test_what_a_layer_worked_out_before_is_no_constant_of_the_graph(tmp_path: Path) -> None:
    module = _Remembering().eval()
    given = torch.randn(3, 2, 12)
    with torch.no_grad():
        module(rows=given)
        module.bias.add_(1)

        model, _ = graph_tracing.trace(_spec(module, columns="width", output="width"), opset=20, may_be_fixed=["width"])

    np.testing.assert_allclose(_run(model, tmp_path, given), given.numpy() + 2, rtol=1e-6)


def _run(model: ir.Model, folder: Path, rows: Tensor) -> np.ndarray:
    weight_placement.save_all({"model": ir.to_proto(model)}, folder, tensors={})
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (pooled,) = session.run(["pooled"], {"rows": rows.numpy()})
    array: np.ndarray = pooled
    return array


_COUNTING = """
import torch
from transformers import PretrainedConfig

class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = PretrainedConfig()

    def forward(self, rows):
        return {"pooled": rows.new_ones(len(rows), 1, 1).expand(-1, rows.shape[1], rows.shape[2]) * rows}
"""


def test_a_model_that_asks_how_many_rows_there_are_takes_any_number(tmp_path: Path) -> None:
    code = ModuleType("transformers_modules.counting")
    sys.modules[code.__name__] = code
    try:
        exec(_COUNTING, vars(code))
        spec = _spec(code.Counting(), columns="width", output="width")

        model, fallbacks = graph_tracing.trace(spec, opset=20)
    finally:
        del sys.modules[code.__name__]

    assert fallbacks == ()
    assert "len" not in vars(code)
    given = torch.randn(5, 2, 7)
    assert (_run(model, tmp_path, given) == given.numpy()).all()
