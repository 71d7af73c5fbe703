"""Tracing keeps what the model computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig

from onnx_fleet import tracing, weights
from onnx_fleet.families import GraphSpec

pytestmark = pytest.mark.filterwarnings("ignore")


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
    model, _ = tracing.trace(spec, opset=20)
    weights.save_all({"model": ir.to_proto(model)}, tmp_path, tensors={})

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (normed,) = session.run(["normed"], {"rows": np.zeros((2, 4), dtype=np.float32)})

    assert normed.tolist() == [[0.0] * 4] * 2
