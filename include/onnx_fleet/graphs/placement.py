"""Where a session's nodes really run, by its own profile."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_fleet.errors import GpuUnavailable

_FLOATS = ("float", "double", "bfloat")
_BOOKKEEPING_VALUES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlacement:
    """Where the nodes of one profiled run were executed."""

    execution_provider: str
    """Where they were asked to run."""
    nodes_by_provider: Mapping[str, int]
    strays: tuple[str, ...]
    """``Softmax x12``: the operators that compute, and ran somewhere else."""

    @property
    def placed(self) -> bool:
        """At least one node ran where it was asked to, and none that computes ran elsewhere."""
        return not self.strays and self.nodes_by_provider.get(self.execution_provider, 0) > 0


def read_placement(profile: Path, *, execution_provider: str) -> NodePlacement:
    """Read the JSON that onnxruntime's profiler wrote."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    nodes: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event in events:
        args = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in args:
            nodes[event["name"], args["provider"]] = args
    strays = Counter(
        args["op_name"]
        for (_, provider), args in nodes.items()
        if provider != execution_provider and not _is_bookkeeping(args)
    )
    return NodePlacement(
        execution_provider=execution_provider,
        nodes_by_provider=dict(sorted(Counter(provider for _, provider in nodes).items())),
        strays=tuple(f"{op} x{count}" for op, count in sorted(strays.items())),
    )


def require_placed(placement: NodePlacement, *, graph: str) -> None:
    """Refuse a run whose computing nodes were executed somewhere else.

    Raises:
        GpuUnavailable: names the operators.
    """
    if placement.placed:
        return
    counts = ", ".join(f"{name} {count}" for name, count in placement.nodes_by_provider.items())
    what = f"these ran elsewhere: {', '.join(placement.strays)}" if placement.strays else "no node ran there"
    raise GpuUnavailable(
        f"{graph}: asked for {placement.execution_provider}, and {what} (nodes by provider: {counts or 'none'}); "
        "use an onnxruntime whose provider has these operators, or another opset"
    )


def _is_bookkeeping(args: Mapping[str, Any]) -> bool:
    """Size, index and mask arithmetic, which an accelerator's provider rightly leaves on the CPU.

    onnxruntime keeps there what depends on sizes, graph inputs and initializers of up to 100 values alone
    (GetCpuPreferredNodes), of any rank. The model's own work reads or writes floats in earnest: weights, hidden states.
    So profile a short input, whose masks are small too.
    """
    tensors = [*args.get("input_type_shape", []), *args.get("output_type_shape", [])]
    return all(
        not dtype.startswith(_FLOATS) or math.prod(shape) <= _BOOKKEEPING_VALUES
        for tensor in tensors
        for dtype, shape in tensor.items()
    )
