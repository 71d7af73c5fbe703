"""Every output gives a row, and each kind of difference is a finding of its own."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.graph_info import TensorSpec
from onnx_fleet.graphs.comparison import Case, at_real_positions, best_and_margin, compare, tie_width

CASE = Case(check="parity", graph="onnx/model.onnx", case="by hand", tolerances=Tolerances(atol=1e-4, rtol=1e-3))


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("expected", "actual", "finding"),
    [
        (floats(1, -2), floats(1, -2), "equal"),
        (floats(1, -2), floats(1.0005, -2), "equal"),
        (floats(1, -2), floats(1.01, -2), "different"),
        (floats(1, -2), floats(1, np.nan), "nan"),
        (floats(1, -2), floats(1, np.inf), "nan"),
        (floats(1, -np.inf), floats(1, -np.inf), "equal"),
        (floats(1, -np.inf), floats(1, -1e30), "different"),
        (floats(1, -2), floats(1), "shape"),
        (floats(1, -2), floats(1, -2).astype(np.float16), "dtype"),
    ],
)
def test_a_finding_says_what_kind_of_difference_it_is(expected: np.ndarray, actual: np.ndarray, finding: str) -> None:
    (row,) = compare({"logits": expected}, {"logits": actual}, case=CASE)

    assert row.finding == finding
    assert row.passed == (finding == "equal")


def test_outputs_of_one_side_only_are_findings_too() -> None:
    one = floats(1)

    rows = compare({"a": one, "b": one}, {"b": one, "c": one}, case=CASE)

    assert [(row.output, row.finding) for row in rows] == [("a", "missing"), ("b", "equal"), ("c", "unexpected")]


def test_the_worst_differences_are_kept_when_the_row_passes() -> None:
    (row,) = compare({"logits": floats(1, 4)}, {"logits": floats(1.0002, 4.0001)}, case=CASE)

    assert row.max_abs_diff == pytest.approx(2e-4, rel=1e-2)
    assert row.max_rel_diff == pytest.approx(2e-4, rel=1e-2)


def test_an_output_of_any_size_takes_little_memory_to_compare_and_its_last_value_counts() -> None:
    """The logits of one batch are 200 MB for GPT-2, and were 2 GB while they were compared."""
    expected = np.ones(8 << 20, dtype=np.float32)
    actual = expected.copy()
    actual[-1] = 1.5
    actual[5] = 1.0002
    tracemalloc.start()

    (row,) = compare({"logits": expected}, {"logits": actual}, case=CASE)

    assert tracemalloc.get_traced_memory()[1] < 2 * expected.nbytes
    tracemalloc.stop()
    assert (row.finding, row.max_abs_diff) == ("different", 0.5)
    (without,) = compare({"logits": expected[:-1]}, {"logits": actual[:-1]}, case=CASE)
    assert (without.finding, without.max_abs_diff) == ("equal", pytest.approx(2e-4, rel=1e-2))


@pytest.mark.parametrize("size", [1.0, 0.05, 1e-4])
def test_small_outputs_get_small_tolerances(size: float) -> None:
    """A fault of one percent is caught at any size of the outputs."""
    expected = floats(*np.linspace(-1, 1, 11)) * np.float32(size)

    (row,) = compare({"embedding": expected}, {"embedding": expected * np.float32(1.01)}, case=CASE)

    assert row.finding == "different"
    assert row.atol == pytest.approx(CASE.tolerances.atol * size)


def test_large_outputs_get_the_entrys_tolerance() -> None:
    (row,) = compare({"logits": floats(100, -200)}, {"logits": floats(100, -200)}, case=CASE)

    assert row.atol == CASE.tolerances.atol


def test_padding_is_cut_from_outputs_per_token_only() -> None:
    specs = (
        TensorSpec(name="hidden", dtype="float32", shape=("batch_size", "sequence_length", 1)),
        TensorSpec(name="pooled", dtype="float32", shape=("batch_size", 2)),
    )
    real = np.array([[True, True], [False, True]])
    outputs = {"hidden": np.arange(4.0).reshape(2, 2, 1), "pooled": np.ones((2, 2))}

    cut = at_real_positions(outputs, real=real, specs=specs)

    assert cut["hidden"].ravel().tolist() == [0, 1, 3]
    assert cut["pooled"].shape == (2, 2)


@pytest.mark.parametrize(("axis", "best", "margin"), [(-1, [7, 4], [2, 2]), (0, [4, 5, 7], [3, 3, 7])])
def test_the_best_of_an_axis_comes_with_what_it_is_ahead_of_the_next(
    axis: int, best: list[float], margin: list[float]
) -> None:
    found = best_and_margin(np.array([[1.0, 5.0, 7.0], [4.0, 2.0, 0.0]]), axis=axis)

    assert [array.tolist() for array in found] == [best, margin]


def test_a_tie_is_as_wide_as_both_values_may_be_off() -> None:
    tolerances = Tolerances(atol=0.5, rtol=0.1)

    assert tie_width(-10.0, tolerances=tolerances) == 3.0
    assert tie_width(floats(0, -10), tolerances=tolerances).tolist() == [1.0, 3.0]
