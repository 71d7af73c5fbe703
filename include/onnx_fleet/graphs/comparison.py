"""Compare two sets of named outputs: every output has a row, whatever is found. numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.graph_info import JOINT_LENGTH, TensorSpec
from onnx_fleet.entities.validation_report import CheckFinding, CheckRow

if TYPE_CHECKING:
    import numpy as np


Outputs: TypeAlias = "Mapping[str, np.ndarray]"
"""Arrays by the names of a graph's outputs."""

Size = TypeVar("Size", float, "np.ndarray")

_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a row is about, before anything is compared."""

    check: str
    graph: str
    case: str
    tolerances: Tolerances

    def row(self, finding: CheckFinding, *, output: str = "", detail: str = "", passed: bool = False) -> CheckRow:
        """Return a row without figures."""
        return CheckRow(
            check=self.check,
            graph=self.graph,
            case=self.case,
            output=output,
            passed=passed,
            finding=finding,
            max_abs_diff=None,
            max_rel_diff=None,
            atol=self.tolerances.atol,
            rtol=self.tolerances.rtol,
            detail=detail,
        )


def compare(
    expected: Outputs, actual: Outputs, *, case: Case, detail: str = "", source: str = "PyTorch"
) -> tuple[CheckRow, ...]:
    """Return one row for every output that is on either side.

    Args:
        expected: arrays of any shape and type by name, from PyTorch eager or the run that the other one must equal.
        actual: arrays by name; another shape, another type and values that are not finite are findings of their own.
        detail: goes into the rows that have nothing else to say.
        source: what messages call the expected side.
    """
    rows = [
        _compare_one(name, expected[name], actual[name], case=case, detail=detail, source=source)
        if name in actual
        else case.row("missing", output=name, detail=f"{source} returns it, the graph does not")
        for name in expected
    ]
    rows += [
        case.row("unexpected", output=name, detail=f"the graph returns it, {source} does not")
        for name in actual
        if name not in expected
    ]
    return tuple(rows)


def at_real_positions(outputs: Outputs, *, real: np.ndarray, specs: tuple[TensorSpec, ...]) -> Outputs:
    """Cut outputs per token down to real positions, in row order: [real tokens, …]. All others stay whole.

    What is computed for padding is nobody's to read.

    Args:
        outputs: arrays by name, as ``specs`` describe them.
        real: bool [batch_size, sequence_length], True where a token is no padding.
        specs: the graph's outputs; ``sequence_length`` as second axis is what makes one an output per token.
    """
    if real.all():
        return outputs
    per_token = {spec.name: spec for spec in specs if is_per_token(spec)}
    return {
        name: at_places(real_places(per_token[name], array, real=real), array) if name in per_token else array
        for name, array in outputs.items()
    }


def real_places(spec: TensorSpec, array: np.ndarray, *, real: np.ndarray) -> np.ndarray:
    """Return which values of an output per token are of no padding: bool, as the first two axes of the array.

    All values that belong to an image, behind a row's tokens, are real.

    Args:
        array: [batch_size, sequence_length, …], the output that ``spec`` describes.
        real: bool [batch_size, sequence_length], True where a token is no padding.
    """
    import numpy as np

    if spec.shape[1] != JOINT_LENGTH:
        return real
    return np.pad(real, ((0, 0), (0, max(0, array.shape[1] - real.shape[1]))), constant_values=True)


def at_places(places: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Return the values at some places, in row order: [places that are True, …].

    An array of other sizes is returned as it is, for a comparison to tell.

    Args:
        places: bool [batch_size, tokens].
        array: [batch_size, tokens, …].
    """
    return array[places] if array.shape[:2] == places.shape else array


def is_per_token(spec: TensorSpec) -> bool:
    """Return whether an output is [batch_size, sequence_length, …], or so with an image's values behind the tokens."""
    return spec.shape[:2] in (("batch_size", "sequence_length"), ("batch_size", JOINT_LENGTH))


def scale_of(expected: np.ndarray) -> float:
    """Return what atol is multiplied by, from 1e-6 to 1: it is meant for outputs whose largest value is 1 or more.

    Normalised embeddings stay below 0.2, untrained models' outputs may be far less, and a wrong graph would pass.

    Args:
        expected: numbers of any shape and type; values that are not finite do not count.
    """
    import numpy as np

    size = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    return min(1.0, max(float(size.max(initial=0.0)), _SMALLEST_SCALE))


def best_and_margin(values: np.ndarray, *, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest value along an axis, and by how much it exceeds the next one; each has the other axes.

    Args:
        values: floats of any shape, two or more along the axis.
    """
    import numpy as np

    ordered = np.partition(values, -2, axis=axis)
    best = np.take(ordered, -1, axis=axis)
    return best, best - np.take(ordered, -2, axis=axis)


def tie_width(largest: Size, *, tolerances: Tolerances) -> Size:
    """Return how far apart two values may be for rounding to turn them around: each may be off by the tolerance.

    Args:
        largest: what the tolerance is relative to, of either sign: a number, or floats of any shape.
    """
    width: Size = 2 * (tolerances.atol + tolerances.rtol * abs(largest))
    return width


def _compare_one(
    name: str, expected: np.ndarray, actual: np.ndarray, *, case: Case, detail: str, source: str
) -> CheckRow:
    """Names, then shape, dtype, finite values, and only then values: each is a finding of its own."""
    import numpy as np

    if actual.shape != expected.shape:
        found = f"{list(actual.shape)} where {source} returns {list(expected.shape)}"
        return case.row("shape", output=name, detail=found)
    if actual.dtype != expected.dtype:
        return case.row("dtype", output=name, detail=f"{actual.dtype} where {source} returns {expected.dtype}")
    odd = ~np.isfinite(actual) & ~(actual == expected)
    if odd.any():
        return case.row("nan", output=name, detail=f"{int(odd.sum())} of {odd.size} values are not finite")
    size = np.abs(expected.astype(np.float64))
    largest = float(size[np.isfinite(size)].max(initial=0.0))
    atol, rtol = case.tolerances.atol * scale_of(expected), case.tolerances.rtol
    with np.errstate(invalid="ignore"):  # an infinity that both have is no difference
        difference = np.where(actual == expected, 0.0, np.abs(actual.astype(np.float64) - expected))
    allowed = atol + rtol * np.where(np.isfinite(size), size, 0.0)
    passed = bool((difference <= allowed).all())
    used = np.divide(difference, allowed, out=np.zeros_like(allowed), where=difference > 0)
    far = (size >= largest / 10) & (size > 0) & np.isfinite(size)
    return replace(
        case.row("equal" if passed else "different", output=name, detail=detail, passed=passed),
        max_abs_diff=_finite(difference.max(initial=0.0)),
        max_rel_diff=_finite((difference[far] / size[far]).max(initial=0.0)),
        atol=atol,
        tolerance_used=_finite(used.max(initial=0.0)),
    )


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return float(value) if math.isfinite(value) else None
