"""int8 and int8_static: 8-bit weights, by onnxruntime's own quantisers.

These decide what becomes of the graph. They round the weights of a matrix channel by channel in Python, though, which
takes most of their time, and hold several copies of a whole graph. So the matrices and the tables that they would round
are not in the graph that they are given: each is a single zero there, and is rounded here, by the same arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    MinMaxCalibrater,
    QDQQuantizer,
    QuantizationMode,
    QuantType,
    TensorsData,
    load_tensors_data,
    save_tensors_data,
)
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer  # type: ignore[import-untyped]
from onnxruntime.quantization.quant_utils import (  # type: ignore[import-untyped]
    compute_data_quant_params,
    get_qmin_qmax_for_qType,
    quantize_nparray,
)

from onnx_fleet.graphs.initializers import array, subgraphs
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.variants import streamed
from onnx_fleet.variants.streamed import Streamed

_DYNAMIC: Final = ("MatMul", "Gather")
"""The operators that are quantised; not Conv: the CPU's ConvInteger is slow and takes no signed weights."""
_STATIC: Final = ("Conv", "MatMul", "Gemm", "Gather")
_MATRIX: Final = {("MatMul", 1)}
_TABLE: Final = {("Gather", 0)}
"""What reads a weight, and as which of its inputs, where it is rounded here."""
_NOTHING: Final = np.zeros((1, 1), dtype=np.float32)
"""What a quantiser is given for a weight that is rounded here."""


def dynamic(path: Path, *, excluded: Iterable[str] = ()) -> Streamed:
    """Quantise weights to 8 bits; each call finds the ranges of its own activations.

    Seven bits of the eight are used: without VNNI instructions the products of two larger ones overflow 16 bits, and
    one file has to be right on every machine.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        excluded: names of nodes to leave as they are.
    """
    return _quantised(
        path,
        partial(ONNXQuantizer, mode=QuantizationMode.IntegerOps, static=False, tensors_range=None),
        operators=_DYNAMIC,
        excluded=frozenset(excluded),
        reduces_tables=False,
        options={"MatMulConstBOnly": True},
    )


def static(
    path: Path, *, samples: Iterable[Sample], ranges: Path | None = None, excluded: Iterable[str] = ()
) -> Streamed:
    """Quantise weights and activations to 8 bits, between QuantizeLinear and DequantizeLinear nodes.

    The activations' ranges are those seen on samples. Accelerators and mobile runtimes compile such graphs.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        samples: to calibrate with.
        ranges: a file that keeps what was calibrated; where it is there, nothing is calibrated anew.
        excluded: names of nodes to leave as they are.
    """
    return _quantised(
        path,
        partial(QDQQuantizer, tensors_range=_calibrated(path, samples, ranges)),
        operators=_STATIC,
        excluded=frozenset(excluded),
        reduces_tables=True,
        options={
            # A product of two activations is attention; eight bits lose what the softmax behind it decides by.
            "MatMulConstBOnly": True,
            # Sums have outliers that factors have not: what a product gives stays as it is, and what the next one
            # takes is rounded (docs/decisions/variants.md has what that costs and saves).
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )


def _calibrated(path: Path, samples: Iterable[Sample], ranges: Path | None) -> TensorsData:
    """Return the least and the largest value of every activation on the samples."""
    if ranges is not None and ranges.exists():
        return load_tensors_data(ranges)
    model, taken = streamed.emptied(path)
    plain, augmented = (path.with_name(f"{what}-{path.name}") for what in ("weightless", "augmented"))
    onnx.save(model, plain)
    calibrator = MinMaxCalibrater(plain, _STATIC, augmented_model_path=str(augmented))
    calibrator.augment_graph()
    model = calibrator.get_augment_model()
    for tensor in model.graph.initializer:
        if tensor.name in taken:
            tensor.CopyFrom(taken[tensor.name])  # which says where its values lie
    onnx.save(model, augmented)
    calibrator.create_inference_session()
    calibrator.collect_data(_Reader(samples, {value.name for value in model.graph.input}))
    found = calibrator.compute_data()
    if ranges is not None:
        save_tensors_data(found, ranges)
    return found


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Read samples as onnxruntime's calibration asks for them."""

    def __init__(self, samples: Iterable[Sample], names: set[str]) -> None:
        self._feeds: Iterator[Mapping[str, np.ndarray]] = (
            {name: array for name, array in sample.feeds.items() if name in names} for sample in samples
        )

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        """Return one call's inputs; None at the end."""
        return next(self._feeds, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """A weight that is rounded here."""

    tensor: onnx.TensorProto
    folder: Path
    """The folder of the graph that it is of."""
    reduces: bool
    """Whether a table's numbers use seven bits of the eight, as a matrix's do in any case."""

    def fill(self, tensors: Mapping[str, onnx.TensorProto]) -> dict[str, Callable[[], np.ndarray]]:
        """Give a quantised graph the scales and zero points of the weight; its numbers are computed when it is written.

        Args:
            tensors: the graph's initializers by name, as a quantiser made them of a single zero.
        """
        name, values = self.tensor.name, array(self.tensor, self.folder)
        rounded, scale, zero = (tensors.get(f"{name}_{what}") for what in ("quantized", "scale", "zero_point"))
        if rounded is None or scale is None or zero is None:
            return {}
        kind = rounded.data_type
        if scale.dims:
            zeros, scales = _by_channel(values, kind, name=name)
        else:
            zeros, scales = compute_data_quant_params(
                values.reshape(-1), kind, kind == onnx.TensorProto.INT8, reduce_range=self.reduces
            )
        scale.CopyFrom(numpy_helper.from_array(scales, scale.name))
        zero.CopyFrom(numpy_helper.from_array(zeros, zero.name))
        rounded.CopyFrom(streamed.without_values(self.tensor, name=rounded.name, data_type=kind))
        by = partial(quantize_nparray, kind, scale=scales, zero_point=zeros)
        return {rounded.name: partial(streamed.converted, values, to=zeros.dtype, by=by)}


def _by_channel(values: np.ndarray, kind: int, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return zero points and scales: [out], as onnxruntime computes them of each column of a matrix, [in, out]."""
    least, most = get_qmin_qmax_for_qType(kind, reduce_range=True, symmetric=True)
    size = np.zeros(values.shape[1], dtype=values.dtype)
    for _, part in streamed.by_part(values):
        np.maximum(size, np.abs(part).max(axis=0), out=size)
    if not np.isfinite(size).all():
        raise ValueError(f"{name} has values that are not finite")
    scales = 2 * size.astype(np.float64) / (np.float64(most) - np.float64(least))
    scales[scales < np.finfo(values.dtype).tiny] = 1.0
    return np.zeros(len(scales), dtype=least.dtype), scales.astype(values.dtype)


def _quantised(
    path: Path,
    quantiser: Callable[..., Any],
    *,
    operators: tuple[str, ...],
    excluded: frozenset[str],
    reduces_tables: bool,
    options: Mapping[str, object],
) -> Streamed:
    """Quantise a graph with its largest weights out of it, and put them in again."""
    model, taken = streamed.emptied(path)
    reads = _readers(model, excluded)
    here = {name for name, tensor in taken.items() if _is_rounded_here(tensor, reads[name])}
    for tensor in model.graph.initializer:
        if tensor.name in taken.keys() - here and any(operator in operators for operator, _ in reads[tensor.name]):
            tensor.CopyFrom(numpy_helper.from_array(array(taken.pop(tensor.name), path.parent), tensor.name))
    made = quantiser(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(excluded),
        op_types_to_quantize=list(operators),
        extra_options=dict(options),
    )
    for tensor in made.model.initializer():
        if tensor.name in here:
            tensor.CopyFrom(numpy_helper.from_array(_NOTHING, tensor.name))
    made.quantize_model()
    made.model.topological_sort()
    tensors = {tensor.name: tensor for tensor in made.model.initializer()}
    values: dict[str, Callable[[], np.ndarray]] = {}
    for name, tensor in taken.items():
        if name in tensors:  # as it was
            tensors[name].CopyFrom(streamed.without_values(tensor))
            values[name] = partial(array, tensor, path.parent)
        if name in here:
            values |= _Weight(tensor=tensor, folder=path.parent, reduces=reduces_tables).fill(tensors)
    return Streamed(model=made.model.model, values=values)


def _readers(model: onnx.ModelProto, excluded: frozenset[str]) -> defaultdict[str, set[tuple[str, int]]]:
    """Return which operators read each value, and as which of their inputs; one that stays as it is has no name."""
    found: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    for nodes in subgraphs(model):
        for node in nodes:
            for index, name in enumerate(node.input):
                found[name].add(("" if node.name in excluded else node.op_type, index))
    return found


def _is_rounded_here(tensor: onnx.TensorProto, readers: set[tuple[str, int]]) -> bool:
    return len(tensor.dims) == _NOTHING.ndim and readers in (_MATRIX, _TABLE)
