"""A change of the inputs that PyTorch's own outputs do not show is said to be one that no comparison would catch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from fixtures.subjects import TOLERANCES, subject_of
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.validation.checks.sensitivity import moved_by, told_apart

CASE = Case(check="sensitivity", graph="onnx/model.onnx", case="by hand", tolerances=TOLERANCES)
ONES = np.ones((2, 3), dtype=np.float32)


class Masked(nn.Module):
    """Values where the mask has ones, and how often it was asked."""

    calls = 0

    def forward(self, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"hidden": values * mask, "sums": values.sum(dim=1)}


def test_outputs_that_move_are_named_with_how_far() -> None:
    row = told_apart({"a": ONES, "b": ONES, "c": ONES}, {"a": ONES, "b": ONES + 0.5, "c": ONES * 3}, case=CASE)

    assert (row.finding, row.passed, row.output) == ("sensitive", True, "")
    assert row.detail == "PyTorch's own outputs move: b 0.5, c 2"


def test_what_stays_within_the_tolerance_passes_as_a_fault_that_nobody_would_see() -> None:
    row = told_apart({"a": ONES}, {"a": ONES + np.float32(1e-5)}, case=CASE)

    assert (row.finding, row.passed) == ("insensitive", True)
    assert row.detail == "PyTorch's own outputs stay within the tolerance: a graph with this fault would pass"


def test_a_single_output_is_called_by_its_name() -> None:
    moved = told_apart({"logits": ONES}, {"logits": ONES + 1}, case=CASE, single="logits")
    still = told_apart({"logits": ONES}, {"logits": ONES}, case=CASE, single="logits")

    assert moved.detail == "PyTorch's own logits move: 1"
    assert still.detail.startswith("PyTorch's own logits stay within the tolerance")


def test_every_change_gives_a_row_and_what_is_given_is_run_once(tmp_path: Path) -> None:
    module = Masked()
    mask = np.array([[1, 1, 0], [1, 1, 1]], dtype=np.float32)
    feeds = {"values": ONES, "mask": mask}
    changes = {
        "the mask ignored": (feeds, {**feeds, "mask": np.ones_like(mask)}),
        "the same again": (feeds, {**feeds}),
        "other values": (feeds, {**feeds, "values": 2 * ONES}),
    }

    rows = list(moved_by(subject_of(module, tmp_path), changes))

    assert [(row.check, row.case, row.finding) for row in rows] == [
        ("sensitivity", "the mask ignored", "sensitive"),
        ("sensitivity", "the same again", "insensitive"),
        ("sensitivity", "other values", "sensitive"),
    ]
    assert rows[2].detail == "PyTorch's own outputs move: hidden 1, sums 3"
    assert module.calls == 1 + len(changes)


def test_only_what_is_read_is_compared(tmp_path: Path) -> None:
    feeds = {"values": ONES, "mask": ONES}
    other = {**feeds, "mask": np.array([[1, 1, 0], [1, 1, 1]], dtype=np.float32)}

    (row,) = moved_by(
        subject_of(Masked(), tmp_path),
        {"a mask": (feeds, other)},
        read=lambda outputs: {"hidden": outputs["hidden"][:, :2]},
    )

    assert row.finding == "insensitive"
