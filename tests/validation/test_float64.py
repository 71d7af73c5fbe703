"""PyTorch in float64 says who is off: rows that differ by rounding alone pass, and nothing else is excused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from fixtures.subjects import TOLERANCES, subject_of
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.validation.checks import CheckContext
from onnx_fleet.validation.checks.float64 import Side, exactly, judged, most_off, room, word

CASE = Case(check="parity", graph="onnx/model.onnx", case="by hand", tolerances=TOLERANCES)
EXACT = np.linspace(1, 2, 9)
"""A tolerance of 1e-4 and 1e-3 lets these be off by 1.1e-3 to 2.1e-3."""


class Third(nn.Module):
    """Its outputs are numbers that float32 does not have."""

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"thirds": values / 3}


class Table(nn.Module):
    """It reads a table of embeddings without calling it, as StaticEmbedding of sentence-transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1, 2)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"thirds": self.table.weight / 3}


@pytest.fixture
def subject(tmp_path: Path) -> CheckContext:
    return subject_of(Third(), tmp_path)


def side(*, torch: float, graph: float, exact: bool = True) -> Side:
    """PyTorch and the graph, each off by so much on every value."""
    return Side(
        expected={"logits": (EXACT + torch).astype(np.float32)},
        actual={"logits": (EXACT + graph).astype(np.float32)},
        exact=lambda: {"logits": EXACT} if exact else {},
    )


def judgement(subject: CheckContext, *sides: Side) -> CheckRow:
    (row,) = judged(subject, compare(sides[0].expected, sides[0].actual, case=CASE), *sides)
    return row


@pytest.mark.parametrize(
    ("torch", "graph", "finding"),
    [(1e-3, -1e-3, "rounding"), (1e-3, -9e-3, "different"), (1e-5, -3e-3, "different")],
    ids=["both-round", "the-graph-is-off-by-far-more", "pytorch-is-not-off"],
)
def test_a_difference_passes_where_both_round(subject: CheckContext, torch: float, graph: float, finding: str) -> None:
    row = judgement(subject, side(torch=torch, graph=graph))

    assert (row.finding, row.passed) == (finding, finding == "rounding")
    assert row.detail == (
        f"against PyTorch in float64 the graph is off by {abs(graph):.2g} and PyTorch in float32 by {torch:.2g}"
    )


def test_where_nobody_can_tell_the_row_is_as_it_was(subject: CheckContext) -> None:
    row = judgement(subject, side(torch=1e-3, graph=-1e-3, exact=False))

    assert (row.finding, row.detail) == ("different", "")


def test_an_entrys_own_tolerances_are_taken_at_their_word(tmp_path: Path) -> None:
    row = judgement(subject_of(Third(), tmp_path, strict=True), side(torch=1e-3, graph=-1e-3))

    assert (row.finding, row.passed) == ("different", False)
    assert "PyTorch in float32 by 0.001" in row.detail, "float64 explains it all the same"


def test_both_inputs_have_to_be_near_the_exact_values(subject: CheckContext) -> None:
    near, far = side(torch=1e-3, graph=-1e-3), side(torch=1e-3, graph=-9e-3)

    assert judgement(subject, near, near).finding == "rounding"
    row = judgement(subject, near, far)
    assert row.finding == "different"
    assert "the graph is off by 0.009" in row.detail, "of the side that is worse"


def test_float64_is_asked_of_nothing_that_is_equal(subject: CheckContext) -> None:
    def exact() -> Outputs:
        raise AssertionError("nobody asks")

    same = Side(expected={"logits": EXACT}, actual={"logits": EXACT}, exact=exact)

    assert judgement(subject, same).finding == "equal"


def test_shapes_and_names_are_no_matter_of_rounding(subject: CheckContext) -> None:
    short = Side(expected={"logits": EXACT}, actual={"logits": EXACT[:3]}, exact=lambda: {"logits": EXACT})

    assert judgement(subject, short).finding == "shape"


def test_the_room_of_a_value_is_never_less_than_its_tolerance() -> None:
    sure = room(EXACT.astype(np.float32), EXACT, tolerances=TOLERANCES)
    rough = room((EXACT + 2e-3).astype(np.float32), EXACT, tolerances=TOLERANCES)

    assert sure == pytest.approx(TOLERANCES.atol + TOLERANCES.rtol * EXACT)
    assert (rough > 2 * sure).all()
    assert most_off(EXACT.astype(np.float32), EXACT, tolerances=TOLERANCES) == sure.max()
    assert most_off(EXACT.astype(np.float32), None, tolerances=TOLERANCES) == 0.0


def test_the_reference_is_run_in_float64_unless_the_entry_is_strict(subject: CheckContext, tmp_path: Path) -> None:
    feeds = {"values": np.ones((1, 2), dtype=np.float32)}

    assert exactly(subject, feeds)["thirds"].tolist() == [[1 / 3, 1 / 3]]
    assert word(subject, feeds, "thirds", read=lambda array: array[0, :1])() == [1 / 3]
    assert word(subject, feeds, "others")() is None
    strict = subject_of(Third(), tmp_path, strict=True)
    assert exactly(strict, feeds) == {}
    assert word(strict, feeds, "thirds")() is None


def test_what_is_said_to_be_exact_is_in_float64_whatever_a_model_does_with_its_tables(tmp_path: Path) -> None:
    table = Table()
    expected = table.table.weight.detach().double().numpy() / 3

    found = exactly(subject_of(table, tmp_path), {"values": np.ones((1, 2), dtype=np.float32)})["thirds"]

    np.testing.assert_array_equal(found, expected, strict=True)
