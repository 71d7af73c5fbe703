"""Sentence embeddings as a sentence-transformers source defines them, computed again from hidden states. numpy only.

Recipes pool in PyTorch, and the reference applies the same recipe: this is the independent word on what it should be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_LEGACY_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """What modules.json and 1_Pooling/config.json say."""

    mode: str
    normalised: bool

    @property
    def computable(self) -> bool:
        """Whether pool knows the mode; rarer ones, and several at once, are left to their recipes."""
        return self.mode in _POOLS

    def pool(self, hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """One embedding a row.

        Args:
            hidden: float32 [batch_size, sequence_length, hidden].
            mask: int64 [batch_size, sequence_length].
        Returns:
            float32 [batch_size, hidden].
        """
        pooled = np.stack([_POOLS[self.mode](row[kept]) for row, kept in zip(hidden, mask.astype(bool), strict=True)])
        if self.normalised:
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        return pooled.astype(np.float32)


def read(stage_dir: Path) -> Pooling | None:
    """The source's own pooling; None where it is no sentence-transformers model, or has further layers behind."""
    modules = _json(stage_dir / "modules.json")
    if not isinstance(modules, list):
        return None
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    config = _json(stage_dir / modules[1].get("path", "") / "config.json")
    if not isinstance(config, dict):
        return None
    modes = [mode for key, mode in _LEGACY_KEYS.items() if config.get(key)]
    return Pooling(mode=str(config.get("pooling_mode") or "+".join(modes)), normalised=len(kinds) == 3)


def _json(path: Path) -> object:
    return json.loads(path.read_bytes()) if path.is_file() else None


_POOLS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    # Each takes the real positions of one row: float32 [tokens, hidden].
    "cls": lambda tokens: tokens[0],
    "mean": lambda tokens: tokens.mean(axis=0, dtype=np.float64),
    "max": lambda tokens: tokens.max(axis=0),
    "lasttoken": lambda tokens: tokens[-1],
}
