"""Weights that make faults visible: with the default initialisation a tiny model's outputs are nearly constant."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_TABLE_STD = 0.5
"""Embeddings, position tables, class tokens: tied to a head they give logits of a few units."""
_VECTOR_STD = 0.1
"""Norms, biases: around what the architecture starts from."""
_LEAST_VARIANCE = 0.05
"""Of a batch norm that saw three rows and no area: dividing by less would only enlarge rounding."""
_GATE_BELOW = 0.1
"""Layer scales start near zero, and would hide everything behind them."""


def scale(model: nn.Module) -> None:
    """Draw every weight again, in place, from torch's global generator.

    Matrices and kernels get a standard deviation of ``1 / sqrt(fan in)``, so that unit inputs give unit outputs;
    vectors stay around their initial value. What cannot be trained (sinusoidal tables) stays as it is.
    """
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and parameter.is_floating_point():
                    _draw(module, name, parameter)
            for name, buffer in module.named_buffers(recurse=False):
                if name == "running_mean":
                    buffer.normal_(std=_VECTOR_STD)
                elif name == "running_var":
                    buffer.uniform_(0.8, 1.2)


def settle(model: nn.Module, feeds: Mapping[str, Tensor]) -> None:
    """Give batch norms the statistics of what they see, as training does: without them deep stacks fade out."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(**feeds)
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.eval()
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_var.clamp_(min=_LEAST_VARIANCE)
        norm.running_mean.add_(torch.randn_like(norm.running_mean) * norm.running_var.sqrt() * _VECTOR_STD)


def _draw(module: nn.Module, name: str, parameter: Tensor) -> None:
    if isinstance(module, nn.Embedding):
        parameter.normal_(std=_TABLE_STD)
        if module.padding_idx is not None:
            parameter[module.padding_idx] = 0  # some architectures do so again when they load
    elif _is_vector(parameter) or name.startswith("original0"):  # original0: the lengths of weight_norm
        _draw_vector(module, name, parameter)
    elif _is_table(name):
        parameter.normal_(std=_TABLE_STD)
    else:
        parameter.normal_(std=1 / math.sqrt(_fan_in(module, parameter)))


def _draw_vector(module: nn.Module, name: str, parameter: Tensor) -> None:
    """Around the initial value; a gate that starts shut is opened."""
    constant = bool((parameter == parameter.flatten()[0]).all())
    first = float(parameter.flatten()[0])
    if constant and 0 < abs(first) <= _GATE_BELOW:
        parameter.fill_(1.0)
    elif constant and first == 0 and ("gamma" in name or "layer_scale" in name or "scale" in name):
        parameter.fill_(0.5)
    parameter.add_(torch.randn_like(parameter) * _VECTOR_STD)


def _is_vector(parameter: Tensor) -> bool:
    """One axis longer than 1 at most: biases, norms, and their broadcast forms [1, C, 1, 1]."""
    return sum(size > 1 for size in parameter.shape) <= 1


def _is_table(name: str) -> bool:
    return any(part in name for part in ("embed", "token", "pos", "bias", "query", "queries", "table"))


def _fan_in(module: nn.Module, parameter: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, nn.modules.conv._ConvNd) or parameter.dim() == 4:
        kernel = math.prod(parameter.shape[2:])
        if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
            return max(1, parameter.shape[0] * kernel // math.prod(module.stride))
        return int(parameter.shape[1]) * kernel
    if type(module).__name__ == "Conv1D":  # GPT-2's: [in, out]
        return int(parameter.shape[0])
    return max(1, round(math.sqrt(math.prod(parameter.shape[-2:]))))
