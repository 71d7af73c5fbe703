"""Choices, and where either of two is right: PyTorch finds them equally likely, within what rounding may turn around.

Each of two values may be off by the tolerance, and by what PyTorch itself loses against float64 where that is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs.comparison import Case, best_and_margin, tie_width
from onnx_fleet.validation.checks.float64 import Exact, most_off, nobody, room

Words = Callable[[int], str]
"""What a class or a token is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """How much PyTorch prefers its own answer to the bundle's, and how much of that may be rounding."""

    size: float
    tolerance: float
    """Up to here the two are a tie."""

    @property
    def is_tie(self) -> bool:
        """Whether either answer is right."""
        return abs(self.size) <= self.tolerance

    @property
    def said(self) -> str:
        """What both numbers are, for people: it follows the words for what was weighed."""
        return f"differ by {self.size:.2g}, the tolerance is {self.tolerance:.2g}"

    def row(self, case: Case, *, output: str, detail: str) -> CheckRow:
        """Return the row of two answers that are not the same."""
        tie = self.is_tie
        return case.row("near_tie" if tie else "different", output=output, passed=tie, detail=detail)


def weighed(
    size: float, *, largest: float, tolerances: Tolerances, rounding: Callable[[], float] = lambda: 0.0
) -> Margin:
    """Weigh a margin between two of PyTorch's values: how large a tie may be between them.

    Args:
        size: the value of PyTorch's answer less that of the other one, both by PyTorch.
        largest: the absolute value that the tolerance is relative to.
        rounding: how far float64 lets either value be off, 0 where nobody can tell; asked for only where the tolerance
            alone makes no tie.
    """
    tolerance = tie_width(largest, tolerances=tolerances)
    if abs(size) > tolerance:
        tolerance = max(tolerance, 2 * rounding())
    return Margin(size=size, tolerance=tolerance)


def choices_equal(
    expected: np.ndarray,
    actual: np.ndarray,
    *,
    axis: int,
    output: str,
    case: Case,
    words: tuple[Words, Words] | None = None,
    exact: Exact = nobody,
) -> CheckRow:
    """Return one row: whether the largest value stands at the same place, wherever PyTorch's own choice is no tie.

    Args:
        expected: float32 of any shape, with two values or more along the axis, from PyTorch.
        actual: the graph's, float32 of the same shape; another shape is what the row then says.
        words: what the source and the bundle call a place; then the words have to be the same, not the places.
        exact: the same in float64, or None; asked for where a choice is another one. What PyTorch's own rounding may
            turn around is a tie, too.
    """
    if expected.shape != actual.shape:
        return case.row("shape", output=output, detail=f"{list(actual.shape)} where PyTorch has {list(expected.shape)}")
    best, margin = best_and_margin(expected, axis=axis)
    clear = margin > tie_width(best, tolerances=case.tolerances)
    own, found = expected.argmax(axis=axis), actual.argmax(axis=axis)
    spoken = (own, found) if words is None else (_said(own, words[0]), _said(found, words[1]))
    wrong = (spoken[0] != spoken[1]) & clear
    if wrong.any() and (wide := exact()) is not None and wide.shape == expected.shape:
        clear &= margin > 2 * room(expected, wide, tolerances=case.tolerances).max(axis=axis)
        wrong &= clear
    said = f"{int(clear.sum())} of {clear.size} choices are clear in PyTorch"
    if not wrong.any():
        return case.row("equal", output=output, passed=True, detail=said)
    first = tuple(np.argwhere(wrong)[0])
    example = f"the first is {spoken[1][first]} where the source says {spoken[0][first]}"
    return case.row("different", output=output, detail=f"{said}; {int(wrong.sum())} of them are others; {example}")


def tokens_equal(
    wanted: np.ndarray,
    found: np.ndarray,
    *,
    case: Case,
    row: str,
    next_logits: Callable[[int, np.ndarray], np.ndarray],
    exact_logits: Callable[[int, np.ndarray], np.ndarray | None],
) -> Iterator[CheckRow]:
    """Yield one row a prompt. Where tokens part, PyTorch's own logits say whether both were equally likely.

    Args:
        wanted: int64 [prompts, tokens], of transformers' generate.
        found: int64 [prompts, tokens], the graph's; either may end before the other.
        row: what rows call a prompt.
        next_logits: (prompt, int64 [tokens so far]) -> PyTorch's logits of the next one, float32 [vocabulary].
        exact_logits: the same in float64 [vocabulary], or None where nobody can tell.
    """
    for index, (own, other) in enumerate(zip(wanted, found, strict=True)):
        where = replace(case, case=f"{case.case}, {row} {index}")
        shared = min(len(own), len(other))
        parted = np.flatnonzero(own[:shared] != other[:shared])
        if not parted.size:
            yield where.row("equal", output="tokens", passed=True)
            continue
        place = int(parted[0])
        exact = partial(exact_logits, index, own[:place])
        yield _parted(own, other, place, case=where, logits=next_logits(index, own[:place]), exact=exact)


def _parted(
    own: np.ndarray, other: np.ndarray, place: int, *, case: Case, logits: np.ndarray, exact: Exact
) -> CheckRow:
    """The row of two lists of tokens whose first difference is at a place, by the logits of that token."""
    margin = weighed(
        float(logits[own[place]] - logits[other[place]]),
        largest=float(np.abs(logits).max()),
        tolerances=case.tolerances,
        rounding=lambda: most_off(logits, exact(), tolerances=case.tolerances),
    )
    what = f"token {place} is {other[place]} where generate gives {own[place]}; PyTorch's logits of the two"
    return margin.row(case, output="tokens", detail=f"{what} {margin.said}")


def _said(places: np.ndarray, word: Words) -> np.ndarray:
    """Each place by its word."""
    known = {int(place): word(int(place)) for place in np.unique(places)}
    said: np.ndarray = np.array([known[int(place)] for place in places.ravel()], dtype=object).reshape(places.shape)
    return said
