"""Two answers between which PyTorch itself does not choose are both right, and no other two are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.validation.checks.float64 import Exact, nobody
from onnx_fleet.validation.checks.ties import choices_equal, tokens_equal, weighed

TOLERANCES = Tolerances(atol=0.01, rtol=0.0)
"""Two values may be 0.02 apart and be a tie."""
CASE = Case(check="greedy", graph="onnx/model.onnx", case="by hand", tolerances=TOLERANCES)


def floats(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def chosen(expected: np.ndarray, actual: np.ndarray) -> CheckRow:
    return choices_equal(expected, actual, axis=-1, output="logits", case=CASE)


@pytest.mark.parametrize(("size", "is_tie"), [(0.019, True), (-0.019, True), (0.021, False), (-0.021, False)])
def test_each_of_two_values_may_be_off_by_the_tolerance(size: float, is_tie: bool) -> None:
    assert weighed(size, largest=3.0, tolerances=TOLERANCES).is_tie == is_tie


def test_the_relative_tolerance_is_of_the_largest_value() -> None:
    tolerances = Tolerances(atol=0.0, rtol=0.01)

    assert weighed(0.5, largest=-30.0, tolerances=tolerances).is_tie
    assert not weighed(0.5, largest=20.0, tolerances=tolerances).is_tie


def test_float64_is_asked_only_where_the_tolerance_makes_no_tie() -> None:
    asked: list[float] = []

    def rounding() -> float:
        asked.append(0.2)
        return asked[-1]

    near, far, farther = (
        weighed(size, largest=1.0, tolerances=TOLERANCES, rounding=rounding) for size in (0.01, 0.3, 0.5)
    )

    assert len(asked) == 2
    assert (near.tolerance, far.tolerance) == (pytest.approx(0.02), pytest.approx(0.4))
    assert [margin.is_tie for margin in (near, far, farther)] == [True, True, False]


@pytest.mark.parametrize(("size", "finding", "passed"), [(0.01, "near_tie", True), (0.1, "different", False)])
def test_the_row_of_two_answers_says_whether_they_are_a_tie(size: float, finding: str, passed: bool) -> None:
    margin = weighed(size, largest=1.0, tolerances=TOLERANCES)

    row = margin.row(CASE, output="tokens", detail=f"they {margin.said}")

    assert (row.finding, row.passed, row.output) == (finding, passed, "tokens")
    assert row.detail == f"they differ by {size:.2g}, the tolerance is 0.02"


def test_another_choice_passes_where_pytorch_has_a_tie_alone() -> None:
    expected = floats([1.0, 1.01, 0.0], [1.0, 2.0, 0.0])

    tied = chosen(expected, floats([1.01, 1.0, 0.0], [1.0, 2.0, 0.0]))
    wrong = chosen(expected, floats([1.0, 1.01, 0.0], [2.0, 1.0, 0.0]))

    assert (tied.finding, tied.detail) == ("equal", "1 of 2 choices are clear in PyTorch")
    assert wrong.finding == "different"
    assert wrong.detail.endswith("1 of them are others; the first is 0 where the source says 1")


def test_a_choice_that_pytorchs_own_rounding_turns_around_is_a_tie_too() -> None:
    """The two classes are 5e-4 apart, and PyTorch in float32 is off from float64 by twice the tolerance of 1e-4."""
    case = replace(CASE, tolerances=Tolerances(atol=1e-4, rtol=0.0))
    expected, actual = floats([1.0, 1.0005]), floats([1.0005, 1.0])
    wide = expected.astype(np.float64) + 2e-4

    def finding(exact: Exact) -> str:
        return choices_equal(expected, actual, axis=-1, output="logits", case=case, exact=exact).finding

    assert finding(nobody) == "different"
    assert finding(lambda: wide) == "equal"
    assert finding(lambda: expected.astype(np.float64)) == "different", "PyTorch loses nothing"
    assert finding(lambda: wide[:, :1]) == "different", "it is of another shape"


def test_choices_are_compared_by_words_where_places_have_words() -> None:
    logits = floats([0.0, 5.0])

    row = choices_equal(
        logits, logits, axis=-1, output="logits", case=CASE, words=(["joy", "fear"].__getitem__, "ab".__getitem__)
    )

    assert (row.finding, "the first is b where the source says fear" in row.detail) == ("different", True)


def test_choices_of_another_shape_are_a_finding() -> None:
    row = chosen(floats([1.0, 2.0]), floats([1.0, 2.0, 3.0]))

    assert (row.finding, row.passed, row.detail) == ("shape", False, "[1, 3] where PyTorch has [1, 2]")


def told(
    wanted: list[list[int]],
    found: list[list[int]],
    *,
    logits: Callable[[int, np.ndarray], np.ndarray],
    exact: Callable[[int, np.ndarray], np.ndarray | None] = lambda index, tokens: None,
) -> list[CheckRow]:
    rows = tokens_equal(
        np.array(wanted), np.array(found), case=CASE, row="prompt", next_logits=logits, exact_logits=exact
    )
    return list(rows)


def test_tokens_are_weighed_by_pytorchs_logits_where_they_first_part() -> None:
    asked: list[tuple[int, list[int]]] = []

    def logits(index: int, tokens: np.ndarray) -> np.ndarray:
        asked.append((index, tokens.tolist()))
        return np.array([0.0, 1.0, 1.01, 0.2], dtype=np.float32)

    same, tied, other = told([[3, 1, 2], [3, 1, 0], [1, 3, 3]], [[3, 1, 2], [3, 2, 3], [3, 3, 3]], logits=logits)

    assert asked == [(1, [3]), (2, [])]
    assert [row.case for row in (same, tied, other)] == [f"by hand, prompt {index}" for index in range(3)]
    assert [row.finding for row in (same, tied, other)] == ["equal", "near_tie", "different"]
    assert tied.detail == (
        "token 1 is 2 where generate gives 1; PyTorch's logits of the two differ by -0.01, the tolerance is 0.02"
    )
    assert not other.passed


def test_a_text_that_ends_early_is_compared_as_far_as_it_goes() -> None:
    (row,) = told([[3, 1, 2]], [[3, 1]], logits=lambda index, tokens: np.zeros(4, dtype=np.float32))

    assert row.finding == "equal"
