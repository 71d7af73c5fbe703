"""Compare two sets of named outputs: every output has a row, whatever is found. numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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
_PART = 1 << 20
"""The number of values that are compared at a time."""


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


def parts(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the values of arrays of one shape a million at a time: in float64 all logits of a batch are gigabytes."""
    flat = [array.ravel() for array in arrays]
    for start in range(0, flat[0].size, _PART):
        yield tuple(each[start : start + _PART] for each in flat)


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
    return _scale(_largest(expected))


def best_and_margin(values: np.ndarray, *, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest value along an axis, and by how much it exceeds the next one; each has the other axes.

    Args:
        values: floats of any shape, two or more along the axis.
    """
    import numpy as np

    place = np.expand_dims(values.argmax(axis=axis), axis)
    best = np.take_along_axis(values, place, axis=axis)
    others = values.copy()
    np.put_along_axis(others, place, -np.inf, axis=axis)
    return best.squeeze(axis), (best - others.max(axis=axis, keepdims=True)).squeeze(axis)


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
    odd = sum(int((~np.isfinite(own) & ~(own == wanted)).sum()) for wanted, own in parts(expected, actual))
    if odd:
        return case.row("nan", output=name, detail=f"{odd} of {expected.size} values are not finite")
    largest = _largest(expected)
    atol, rtol = case.tolerances.atol * _scale(largest), case.tolerances.rtol
    told = [_differences(*part, atol=atol, rtol=rtol, largest=largest) for part in parts(expected, actual)]
    passed = all(each.passed for each in told)
    return replace(
        case.row("equal" if passed else "different", output=name, detail=detail, passed=passed),
        max_abs_diff=_most(each.absolute for each in told),
        max_rel_diff=_most(each.relative for each in told),
        atol=atol,
        tolerance_used=_most(each.used for each in told),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differences:
    """How far a part of an output's values are apart at most."""

    passed: bool
    absolute: float
    relative: float
    """The largest relative difference of the values that are no less than a tenth of the output's largest."""
    used: float
    """The largest difference as a share of what is allowed."""


def _differences(expected: np.ndarray, actual: np.ndarray, *, atol: float, rtol: float, largest: float) -> _Differences:
    """Subtract values in float64.

    Args:
        largest: the largest finite value of the whole output that is expected.
    """
    import numpy as np

    size = np.abs(expected.astype(np.float64))
    with np.errstate(invalid="ignore"):  # an infinity that both have is no difference
        difference = np.where(actual == expected, 0.0, np.abs(actual.astype(np.float64) - expected))
    allowed = atol + rtol * np.where(np.isfinite(size), size, 0.0)
    used = np.divide(difference, allowed, out=np.zeros_like(allowed), where=difference > 0)
    far = (size >= largest / 10) & (size > 0) & np.isfinite(size)
    return _Differences(
        passed=bool((difference <= allowed).all()),
        absolute=float(difference.max(initial=0.0)),
        relative=float((difference[far] / size[far]).max(initial=0.0)),
        used=float(used.max(initial=0.0)),
    )


def _scale(largest: float) -> float:
    return min(1.0, max(largest, _SMALLEST_SCALE))


def _largest(expected: np.ndarray) -> float:
    """Return the largest size of the values that are finite; 0 where there is none."""
    import numpy as np

    sizes = (np.abs(part[np.isfinite(part)].astype(np.float64)) for (part,) in parts(expected))
    return max((float(size.max(initial=0.0)) for size in sizes), default=0.0)


def _most(values: Iterable[float]) -> float | None:
    """Return the largest of some values, None where that is no number: JSON has neither infinity nor NaN."""
    told = list(values)
    most = math.nan if any(map(math.isnan, told)) else max(told, default=0.0)
    return most if math.isfinite(most) else None
