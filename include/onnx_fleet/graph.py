"""Finish a graph: I/O names, symbolic dims, metadata, checker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output."""

    name: str
    dtype: str
    """numpy's name: ``int64``, ``float32``."""
    shape: tuple[int | str, ...]
    """Numbers, and the contract's symbols: ``batch_size``, ``sequence_length``, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInfo:
    """One ONNX file of a bundle."""

    role: str
    """``model``, ``encoder_model``, …"""
    variant: str
    path: str
    """Relative to the bundle: ``onnx/model.onnx``."""
    opset: int
    ir_version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weight_files: tuple[str, ...]
    """Relative to the bundle: ``onnx/model.onnx_data``; empty when the weights are inside the graph."""
    onnxruntime_min: str
    """The oldest onnxruntime that takes this opset and IR version."""
