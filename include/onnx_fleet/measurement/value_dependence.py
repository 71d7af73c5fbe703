"""Weights whose values may decide how long a call takes: of such a model nothing is taken over, by it or from it.

docs/decisions/latency-method.md has what was looked for, and what was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.variant import FP32
from onnx_fleet.graphs import initializers

_EXPERTS: Final = re.compile(r"expert|(?:^|_)moe(?:_|$)")
"""Keys of a configuration that only a mixture of experts has."""
_BY_VALUE: Final = frozenset(
    {
        "If", "Loop", "Scan", "NonZero", "Compress", "Unique", "NonMaxSuppression", "MoE", "QMoE", "BeamSearch",
        "GreedySearch", "Sampling", "SparseAttention",
    }
)  # fmt: skip
"""The operators that choose a branch, a number of rounds, or the size of an output by values."""
MOST_SUBNORMAL: Final = 1e-6
"""The largest share of subnormal weights that is taken for none; trained weights have none."""
_CHUNK: Final = 1 << 22
"""How many weights are looked at together."""


def reason(stage_dir: Path, graphs: Iterable[GraphInfo]) -> str:
    """Say why the values of a stage's weights may decide its latencies, for people; empty where they do not.

    Args:
        graphs: the stage's; the weights of the fp32 ones are read, each file once.
    """
    graphs = tuple(graphs)
    config = json.loads((stage_dir / "config.json").read_text(encoding="utf-8"))
    if (key := next(_experts(config), None)) is not None:
        return f"it is a mixture of experts ({key}): the values of its weights decide which of them a text needs"
    for info in graphs:
        if found := sorted(_operators(stage_dir / info.path) & _BY_VALUE):
            return f"{info.path} has {', '.join(found)}: values decide what is computed"
    subnormal, weights = _subnormal(stage_dir, [info for info in graphs if info.variant == FP32])
    if subnormal > MOST_SUBNORMAL * weights:
        return (
            f"{subnormal:,} of its {weights:,} weights are subnormal numbers (below 1.2e-38), for which some processors"
            " take longer"
        )
    return ""


def _experts(config: Any) -> Iterator[str]:
    """Yield the keys of a configuration that tell of experts, at any depth."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if _EXPERTS.search(str(key)) and value:
                yield str(key)
            yield from _experts(value)
    elif isinstance(config, list):
        for value in config:
            yield from _experts(value)


def _operators(path: Path) -> set[str]:
    import onnx

    model = onnx.load(path, load_external_data=False)
    return {node.op_type for nodes in initializers.subgraphs(model) for node in nodes}


def _subnormal(stage_dir: Path, graphs: Iterable[GraphInfo]) -> tuple[int, int]:
    """Count the subnormal weights of float32, and all of float32; weights that graphs share are counted once."""
    import onnx

    subnormal, weights, seen = 0, 0, set()
    for info in graphs:
        model = onnx.load(stage_dir / info.path, load_external_data=False)
        for tensor in initializers.tensors_of(model):
            data = initializers.external_data(tensor)
            place = (data.location, data.offset) if data else (info.path, tensor.name)
            if tensor.data_type != onnx.TensorProto.FLOAT or 0 in tensor.dims or place in seen:
                continue
            seen.add(place)
            bits = initializers.array(tensor, (stage_dir / info.path).parent).reshape(-1).view("uint32")
            weights += bits.size
            subnormal += sum(_count(bits[start : start + _CHUNK]) for start in range(0, bits.size, _CHUNK))
    return subnormal, weights


def _count(bits: Any) -> int:
    """Count the float32 numbers whose exponent is 0 and whose mantissa is not: uint32 [n]."""
    import numpy as np

    without_sign = bits << np.uint32(1)
    return int(np.count_nonzero(without_sign - np.uint32(1) < np.uint32(0x00FFFFFF)))
