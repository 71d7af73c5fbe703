"""An operator that ONNX has not, and a library of onnxruntime operators has: the graph calls it by its name."""

from typing import Any

import torch

from onnx_fleet.recipes import Recipe


class _Inverted(torch.nn.Module):
    """Multiplies with the inverse of its weight, as flows do that run backwards. The model's own code."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.inverted(self.weight + 8 * torch.eye(len(self.weight)))

    def inverted(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix.inverse()


class _InvertedByTheLibrary(_Inverted):
    """What is traced: a node of the library, with the dtype and shape that it gives."""

    def inverted(self, matrix: torch.Tensor) -> torch.Tensor:
        return torch.onnx.ops.symbolic(
            "ai.onnx.contrib::Inverse", (matrix,), dtype=matrix.dtype, shape=matrix.shape, version=1
        )


def _invert(model: Any) -> None:
    for layer in model.base_model.encoder.layer:
        layer.attention.output.dense = _Inverted(layer.attention.output.dense.weight)


def _invert_by_the_library(model: Any) -> None:
    for layer in model.base_model.encoder.layer:
        layer.attention.output.dense.__class__ = _InvertedByTheLibrary


inverse = Recipe(
    summary="a BERT that inverts matrices, by an operator of onnxruntime-extensions",
    prepare=_invert,
    rewrite=_invert_by_the_library,
    libraries=("onnxruntime_extensions",),
)
