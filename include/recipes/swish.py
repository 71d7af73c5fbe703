"""A layer with an operator of its own: PyTorch runs the operator, the graph gets an ONNX function for it."""

from typing import Any

import torch
from onnxscript import opset18 as op

from onnx_fleet.recipes import Recipe


@torch.library.custom_op("fleet::swish", mutates_args=())
def _swish(x: torch.Tensor, beta: float) -> torch.Tensor:
    return x * torch.sigmoid(beta * x)


@_swish.register_fake
def _(x: torch.Tensor, beta: float) -> torch.Tensor:
    return torch.empty_like(x)


class _Swish(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        swished: torch.Tensor = _swish(x, 1.7)
        return swished


def _use_swish(model: Any) -> None:
    """Stands for a model whose own code has the layer: then a recipe is its translations alone."""
    for layer in model.base_model.encoder.layer:
        layer.intermediate.intermediate_act_fn = _Swish()


def _swish_in_onnx(x: Any, beta: float) -> Any:
    return op.Mul(x, op.Sigmoid(op.Mul(x, beta)))


swish = Recipe(
    summary="a BERT whose activation is an operator of its own",
    prepare=_use_swish,
    translations={torch.ops.fleet.swish.default: _swish_in_onnx},
)
