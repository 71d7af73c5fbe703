"""Another positional encoding: the model is changed before anything else, so PyTorch computes with it too."""

from typing import Any

import torch

from onnx_fleet.recipes import Recipe


class _Waves(torch.nn.Module):
    """Sines and cosines of a position, computed at need: no table, and no longest position."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", 10_000 ** (-torch.arange(0, size, 2) / size), persistent=False)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        angles = positions.unsqueeze(-1) * self.frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _use_waves(model: Any) -> None:
    model.base_model.embeddings.position_embeddings = _Waves(model.config.hidden_size)


waves = Recipe(summary="a BERT with sinusoidal positions instead of its table", prepare=_use_waves)
