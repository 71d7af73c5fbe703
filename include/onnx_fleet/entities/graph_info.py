"""What one ONNX file says of itself, and the contract's words for axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = Sequence[str | int | None]

SYMBOLS = frozenset(
    {
        "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length", "encoder_sequence_length",
        "decoder_sequence_length", "past_encoder_sequence_length", "num_choices", "num_logits_to_keep", "height",
        "width", "output_height", "output_width", "mask_height", "mask_width", "num_samples", "num_frames",
        "image_batch_size", "text_batch_size", "num_images", "head_size", "joint_sequence_length",
    }
)  # fmt: skip
"""The contract's words for axes, the same in every graph."""

JOINT_LENGTH = "joint_sequence_length"
"""The axis of an output that has a value for every token of a text, and then for every patch of the image beside it."""

NUMBERS_TO_THE_MODEL = frozenset({"head_size"})
"""Symbols of axes that the trace has as numbers: consumers that size an empty cache wrongly need them open."""

FIXABLE = frozenset(
    {
        "sequence_length", "encoder_sequence_length", "num_choices", "num_samples", "num_frames", "height", "width",
        "output_height", "output_width",
    }
)  # fmt: skip
"""Axes of which an entry may allow one size, since a consumer can pad, cut or resize everything to it.

The number of rows and images is none of them, which every call chooses; nor is what grows while a text is generated,
or the size of a mask of its own, whose senders choose it.
"""

OPSETS = range(18, 24)
"""The operator sets that graphs may have: below 18 the exporter needs version conversion, and above 23 the pinned
onnxruntime guarantees nothing."""

_ONNXRUNTIME_BY_OPSET: Mapping[int, str] = {18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.22"}
_ONNXRUNTIME_BY_IR_VERSION: Mapping[int, str] = {8: "1.14", 9: "1.15", 10: "1.18", 11: "1.22"}
"""The first release that takes it: https://onnxruntime.ai/docs/reference/compatibility.html"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output."""

    name: str
    dtype: str
    """The type in numpy's words: ``int64``, ``float32``."""
    shape: tuple[int | str, ...]
    """The sizes of its axes: numbers, and the contract's symbols: ``batch_size``, ``sequence_length``, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInfo:
    """One ONNX file of a bundle."""

    role: str
    """What the graph computes: ``model``, ``encoder_model``, …"""
    variant: str
    path: str
    """The file, relative to the bundle: ``onnx/model.onnx``."""
    opset: int
    ir_version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weight_files: tuple[str, ...]
    """Its data files, relative to the bundle: ``onnx/model.onnx_data``; empty when the weights are inside the graph."""
    onnxruntime_min: str
    """The oldest onnxruntime that takes this opset and IR version."""
    libraries: tuple[str, ...] = ()
    """Python packages whose operators the graph uses: ``get_library_path()`` names what onnxruntime has to load."""


def onnxruntime_min(*, opset: int, ir_version: int) -> str:
    """Return the oldest onnxruntime that takes both."""
    needed = (_ONNXRUNTIME_BY_OPSET[opset], _ONNXRUNTIME_BY_IR_VERSION[ir_version])
    return max(needed, key=lambda version: tuple(map(int, version.split("."))))
