"""Images to trace, prove and measure with: which size a model sees, and pictures as its preprocessor hands them over.

numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

Kind = Literal["noise", "picture"]

USUAL_SIZE = 224
"""The height and width for models that say nothing, in pixels: what ImageNet's are trained on."""

_STRIDE = 32
"""The coarsest that common architectures go; sizes that are multiples of it lose no border on the way."""


def size_of_preprocessor(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the height and width in pixels that a preprocessor makes every image; None where they keep their own."""
    named = "crop_size" if settings.get("do_center_crop") and settings.get("crop_size") else "size"
    size = settings.get(named)
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    # ConvNeXt's crops to the shortest edge after enlarging.
    if isinstance(size, Mapping) and size.keys() == {"shortest_edge"} and "crop_pct" in settings:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    return None


def size_of_config(config: object) -> tuple[int, int] | None:
    """Return the height and width in pixels that a model's configuration states, or its backbone's; else None."""
    nested = (getattr(config, name, None) for name in ("vision_config", "backbone_config"))
    for holder in (config, *nested):
        size = getattr(holder, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, list | tuple) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def unit(config: object) -> int:
    """Return the step, in pixels, in which a model's image sizes lose no border: its patch, as often as 32 hold it."""
    nested = (getattr(config, name, None) for name in ("vision_config", "backbone_config"))
    for holder in (config, *nested):
        patch = getattr(holder, "patch_size", None)
        if isinstance(patch, int) and patch > 0:
            return patch * -(-_STRIDE // patch)
    return _STRIDE


def batch(
    count: int, *, channels: int, size: tuple[int, int], seed: int, kind: Kind, settings: Mapping[str, Any]
) -> np.ndarray:
    """Return images, each another one: float32 [count, channels, height, width].

    Args:
        size: (height, width) in pixels.
        kind: ``noise`` is of unit variance; ``picture`` has flat areas and edges, and is normalised as settings say.
        settings: the model's preprocessor_config.json.
    """
    rng = np.random.default_rng((seed, count, *size))
    if kind == "noise":
        return rng.standard_normal((count, channels, *size)).astype(np.float32)
    pictures = np.stack([_picture(index, channels=channels, size=size) for index in range(count)])
    if settings.get("do_normalize", True):
        mean, std = (_by_channel(settings.get(name, 0.5), channels) for name in ("image_mean", "image_std"))
        pictures = (pictures - mean) / std
    return pictures.astype(np.float32)


def _picture(index: int, *, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Return slopes, a checkerboard and a disc, mixed otherwise in every picture: float64 [channels, height, width]."""
    rows, columns = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    board = (np.floor(rows * (3 + index)) + np.floor(columns * (4 + index))) % 2
    disc = (rows - 0.2 - 0.1 * (index % 5)) ** 2 + (columns - 0.6) ** 2 < 0.06
    scenes = (rows, columns, board, disc.astype(float), 1 - rows * columns)
    return np.stack([(scenes[(index + c) % 5] + 0.5 * scenes[(2 * index + c + 1) % 5]) / 1.5 for c in range(channels)])


def _by_channel(value: object, channels: int) -> np.ndarray:
    values = np.asarray(value, dtype=np.float64).ravel()
    return np.resize(values, channels).reshape(channels, 1, 1)
