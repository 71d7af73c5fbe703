"""The third word on a difference: the same PyTorch model in double precision, and how far either side is from it.

Where PyTorch in float32 is itself off by about the tolerance, a sound graph may differ from it by more: both round,
each in its own way. Then the graph is held to the exact values, and may be as far from them as PyTorch's own float32
is, and little more. docs/decisions/tolerances.md has the figures that the bounds come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs.comparison import Outputs, scale_of
from onnx_fleet.validation.checks.context import CheckContext

COMPARABLE = 1 / 8
"""The share of the tolerance that PyTorch's own largest error has to reach: a smaller one excuses no graph."""
MEAN = 3.0
"""How many times PyTorch's the root mean square of all errors may be; graphs of trained models had up to 2.1."""
LARGEST = 2.0
"""How many times PyTorch's the largest error may be, beyond the tolerance: single values spread more than a mean."""
MOST = 4.0
"""How many times the default tolerance an error may be: beyond that nothing is rounding, whatever PyTorch does."""


Exact = Callable[[], "np.ndarray | None"]
"""A call that returns an output in float64, or None where nobody can tell."""


def nobody() -> None:
    """Return None: nothing is known in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What PyTorch and the graph return for one input, and what is exact: arrays by name, alike in shape."""

    expected: Outputs
    actual: Outputs
    exact: Callable[[], Outputs]
    """The outputs in float64, asked for only when something differs; empty where nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far both are from float64 on one output, as shares of the tolerance."""

    graph: float
    """The largest share of all values."""
    torch: float
    graph_rms: float
    torch_rms: float
    graph_abs: float
    """The largest difference as it is."""
    torch_abs: float
    of_most: float
    """The graph's largest share of the most that tolerances are where no entry says more."""

    @property
    def is_rounding(self) -> bool:
        """Whether the graph rounds as PyTorch does, and no more is wrong with it.

        A fault in few values shows in the largest error, one in all of them in the mean.
        """
        return (
            self.torch >= COMPARABLE
            and self.graph <= 1 + LARGEST * self.torch
            and self.graph_rms <= MEAN * self.torch_rms
            and self.of_most <= MOST
        )


def distance(expected: np.ndarray, actual: np.ndarray, exact: np.ndarray, *, tolerances: Tolerances) -> Distance:
    """Measure how far the graph's values, and PyTorch's in float32, are from the exact ones.

    Args:
        expected: float32 of any shape, from PyTorch.
        actual: float32 of the same shape, from the graph.
        exact: float64 of the same shape, from PyTorch.
        tolerances: those before they shrink with small outputs.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        graph, torch = (np.abs(own.astype(np.float64) - exact) for own in (actual, expected))
        allowed, at_most = _allowed(expected, exact, tolerances=tolerances)
        of_graph, of_torch, of_most = graph / allowed, torch / allowed, graph / at_most
    return Distance(
        graph=_largest(of_graph),
        torch=_largest(of_torch),
        graph_rms=_rms(of_graph),
        torch_rms=_rms(of_torch),
        graph_abs=_largest(graph),
        torch_abs=_largest(torch),
        of_most=_largest(of_most),
    )


def room(expected: np.ndarray, exact: np.ndarray, *, tolerances: Tolerances) -> np.ndarray:
    """Return how far from each exact value a graph may be that ``is_rounding``: never less than the tolerances.

    Args:
        expected: float32 of any shape, from PyTorch.
        exact: float64 of the same shape, from PyTorch; the result is like it.
    """
    told = distance(expected, expected, exact, tolerances=tolerances)
    allowed, at_most = _allowed(expected, exact, tolerances=tolerances)
    if told.torch < COMPARABLE:
        return allowed
    widened: np.ndarray = np.maximum(allowed, np.minimum((1 + LARGEST * told.torch) * allowed, MOST * at_most))
    return widened


def most_off(expected: np.ndarray, exact: np.ndarray | None, *, tolerances: Tolerances) -> float:
    """Return the largest ``room`` of all values, and 0 where nobody can tell what is exact.

    Args:
        expected: float32 of any shape, from PyTorch.
        exact: float64 of the same shape, or None.
    """
    return 0.0 if exact is None else float(room(expected, exact, tolerances=tolerances).max())


def word(
    subject: CheckContext,
    feeds: Mapping[str, np.ndarray],
    name: str,
    *,
    read: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Exact:
    """Return a call that asks for one output in float64; where an entry has tolerances of its own nobody is asked.

    Args:
        feeds: arrays by the names of the source model's inputs.
        read: takes what is wanted of the output, float64 of the model's shape.
    """

    def ask() -> np.ndarray | None:
        wide = exactly(subject, feeds)
        return read(wide[name]) if name in wide else None

    return ask


def exactly(subject: CheckContext, feeds: Mapping[str, np.ndarray]) -> Outputs:
    """Return the whole model's outputs in float64, and none where an entry's own tolerances are taken at their word.

    Args:
        feeds: arrays by the names of the source model's inputs.
    """
    return {} if _are_strict(subject) else subject.reference.in_float64(feeds)


def _allowed(expected: np.ndarray, exact: np.ndarray, *, tolerances: Tolerances) -> tuple[np.ndarray, np.ndarray]:
    """How far each value may be off by the tolerances, and by the most that they are where no entry says more."""
    size, scale = np.abs(exact.astype(np.float64)), scale_of(expected)
    own, most = (each.atol * scale + each.rtol * size for each in (tolerances, Tolerances()))
    return own, most


def _largest(values: np.ndarray) -> float:
    return float(values.max(initial=0.0))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def judged(subject: CheckContext, rows: Sequence[CheckRow], *sides: Side) -> Iterator[CheckRow]:
    """Yield the rows; where values differ they also say who is off, and pass as ``rounding`` where that is all it is.

    An entry's own tolerances are taken at their word: float64 then explains a failure, and passes none.

    Args:
        sides: every input that the rows compare: one, or two where a graph is held to itself. The graph has to be
            near the exact values on each of them.
    """
    if not any(row.finding == "different" for row in rows):
        yield from rows
        return
    exact = [side.exact() for side in sides]
    for row in rows:
        told = row.finding == "different"
        found = list(_distances(row.output, sides, exact, tolerances=subject.tolerances)) if told else []
        if not found:
            yield row
            continue
        worst = max(found, key=lambda each: each.graph)
        said = (
            f"against PyTorch in float64 the graph is off by {worst.graph_abs:.2g} and PyTorch in float32 by"
            f" {worst.torch_abs:.2g}"
        )
        passed = not _are_strict(subject) and all(each.is_rounding for each in found)
        yield replace(
            row,
            passed=passed,
            finding="rounding" if passed else row.finding,
            detail=f"{row.detail}; {said}" if row.detail else said,
        )


def _are_strict(subject: CheckContext) -> bool:
    own = subject.item.model.entry.tolerances
    return own is not None and not own.derived


def _distances(
    output: str, sides: Sequence[Side], exact: Sequence[Outputs], *, tolerances: Tolerances
) -> Iterator[Distance]:
    """One for each side; none at all where one of them cannot be told."""
    shapes = [
        {outputs[output].shape for outputs in (side.expected, side.actual, wide) if output in outputs}
        for side, wide in zip(sides, exact, strict=True)
    ]
    if not all(output in wide for wide in exact) or any(len(each) != 1 for each in shapes):
        return
    for side, wide in zip(sides, exact, strict=True):
        yield distance(side.expected[output], side.actual[output], wide[output], tolerances=tolerances)
