"""How far rounding alone may take an output, where an entry does not say: by type, by depth, and by measurement.

Nothing of the graph that is judged has a say in it but its operators: it could make room for its own faults.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.validation.checks.context import CheckContext
from onnx_fleet.validation.checks.single_graph import Feeds

if TYPE_CHECKING:
    from torch.nn import Module

log = logging.getLogger(__name__)

Probe = Callable[[CheckContext], Feeds]
"""What a family's plain model is fed to see how it rounds."""

OF_ONE_LAYER = 64 * float(np.finfo(np.float32).eps)
"""What one layer may lose; times the root of the number of layers with weights, since independent errors add so. Sound
graphs needed up to 14 eps, and most of them 5, with 2 layers as with 169."""
MARGIN = 16
"""How many times what PyTorch in float32 loses against float64 on the probe: longer and other inputs lose more."""
_ROUGH = frozenset({"DFT"})
"""onnxruntime sums a transform of n points term by term where PyTorch takes log n steps."""


def tolerances(subject: CheckContext, *, probe: Probe) -> Tolerances:
    """Return what the subject's outputs are held to: the entry's own, or else what its model's rounding needs.

    They never exceed the default, and stay there where PyTorch cannot be asked in float64. Where the same graphs were
    proven with other weights, PyTorch is not asked: its layers alone count, which allows less and never more.
    """
    entry, most = subject.item.model.entry, Tolerances()
    if entry.tolerances is not None:
        return entry.tolerances
    if _ROUGH & _operators(subject):
        return most
    lost = 0.0 if subject.repeats else _lost(subject, probe(subject))
    if lost is None:
        return most
    layers = sum(map(_multiplies, subject.reference.model.modules()))
    needed = max(OF_ONE_LAYER * math.sqrt(layers), MARGIN * lost)
    off = "was not asked in float64" if subject.repeats else f"in float32 is off by {lost:.1e}"
    log.info("%s: %d layers, PyTorch %s: %.1e", subject.item.model_id, layers, off, needed)
    return Tolerances(atol=min(most.atol, needed), rtol=min(most.rtol, needed))


def _multiplies(module: Module) -> bool:
    """Whether it is a layer with a matrix or kernels, whatever its class: a lookup in a table rounds nothing."""
    import torch

    weight = getattr(module, "weight", None)
    return torch.is_tensor(weight) and weight.dim() > 1 and "Embedding" not in type(module).__name__


def _lost(subject: CheckContext, feeds: Feeds) -> float | None:
    """The largest error of PyTorch's float32 on these feeds, as tolerances count it; None where nobody can tell."""
    exact = subject.reference.in_float64(feeds)
    if not exact:
        return None
    own, case = subject.reference(feeds), Case(check="", graph="", case="", tolerances=Tolerances(atol=1.0, rtol=1.0))
    shares = [row.tolerance_used for row in compare(_wide(exact), _wide(own), case=case)]
    return None if None in shares else max(share for share in shares if share is not None)


def _wide(outputs: Outputs) -> Outputs:
    return {name: array.astype(np.float64) for name, array in outputs.items()}


def _operators(subject: CheckContext) -> set[str]:
    import onnx

    paths = (subject.stage_dir / info.path for info in subject.graphs.values())
    return {node.op_type for path in paths for node in onnx.load(path, load_external_data=False).graph.node}
