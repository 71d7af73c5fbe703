"""int8 and int8_static: 8-bit weights, by onnxruntime's own quantiser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from onnx_fleet.graphs.recorded_feeds import Sample

_DYNAMIC = ("MatMul", "Gather")
"""The operators that are quantised; not Conv: the CPU's ConvInteger is slow and takes no signed weights."""
_STATIC = ("Conv", "MatMul", "Gemm", "Gather")


def dynamic(path: Path, *, excluded: Iterable[str] = ()) -> onnx.ModelProto:
    """Quantise weights to 8 bits; each call finds the ranges of its own activations.

    Seven bits of the eight are used: without VNNI instructions the products of two larger ones overflow 16 bits, and
    one file has to be right on every machine.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        excluded: names of nodes to leave as they are.
    """
    with TemporaryDirectory(prefix="onnx-fleet-") as folder:
        target = Path(folder, "quantised.onnx")
        quantize_dynamic(
            path,
            target,
            op_types_to_quantize=list(_DYNAMIC),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(excluded),
            use_external_data_format=True,
        )
        return onnx.load(target)


def static(
    path: Path, *, samples: Iterable[Sample], ranges: Path | None = None, excluded: Iterable[str] = ()
) -> onnx.ModelProto:
    """Quantise weights and activations to 8 bits, between QuantizeLinear and DequantizeLinear nodes.

    The activations' ranges are those seen on samples. Accelerators and mobile runtimes compile such graphs.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        samples: to calibrate with.
        ranges: a file that keeps what was calibrated; where it is there, nothing is calibrated anew.
        excluded: names of nodes to leave as they are.
    """
    with TemporaryDirectory(prefix="onnx-fleet-") as folder:
        target = Path(folder, "quantised.onnx")
        quantize_static(
            path,
            target,
            _Reader(samples, {value.name for value in onnx.load(path, load_external_data=False).graph.input}),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_STATIC),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(excluded),
            use_external_data_format=True,
            calibrate_method=CalibrationMethod.MinMax,
            calibration_cache_path=ranges,
            extra_options={
                # A product of two activations is attention; eight bits lose what the softmax behind it decides by.
                "MatMulConstBOnly": True,
                # Sums have outliers that factors have not: what a product gives stays as it is, and what the next one
                # takes is rounded (docs/decisions/variants.md has what that costs and saves).
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
        return onnx.load(target)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Read samples as onnxruntime's calibration asks for them."""

    def __init__(self, samples: Iterable[Sample], names: set[str]) -> None:
        self._feeds: Iterator[Mapping[str, np.ndarray]] = (
            {name: array for name, array in sample.feeds.items() if name in names} for sample in samples
        )

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        """Return one call's inputs; None at the end."""
        return next(self._feeds, None)
