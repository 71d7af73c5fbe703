"""What padding may do to a batch: every way to break it is a row, and what PyTorch itself does not keep is no fault.

The rows are of one number a token, and the model is their running mean over real tokens: the runners are a few lines
of numpy, one of them with a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fixtures.subjects import TOLERANCES, subject_of
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.comparison import Case, Outputs, at_places
from onnx_fleet.validation.checks import CheckContext
from onnx_fleet.validation.checks.padding import EACH_ROW_ALONE, OTHER_TOKENS, Kept, Parts, Run, Runners, padded_rows

CASE = Case(check="padding", graph="onnx/model.onnx", case="rows of 4, 2 tokens", tolerances=TOLERANCES)
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
VALUES = np.array([[1, 5, 3, 2], [4, 2, 0, 0]], dtype=np.float32)
NOISE = np.array([[1, 5, 3, 2], [4, 2, 9, 7]], dtype=np.float32)

Feeds = Mapping[str, np.ndarray]


@pytest.fixture
def subject(tmp_path: Path) -> CheckContext:
    return subject_of(nn.Identity(), tmp_path)


def means(feeds: Feeds, *, dtype: type = np.float32) -> Outputs:
    """[rows, tokens]: of the tokens so far, and no padding among them."""
    mask = feeds["mask"].astype(dtype)
    found = np.cumsum(feeds["values"].astype(dtype) * mask, axis=1) / np.maximum(np.cumsum(mask, axis=1), 1)
    return {"means": found.astype(dtype)}


def means_of_all(feeds: Feeds) -> Outputs:
    """A row ends in the mean of its padding, too."""
    last = feeds["values"].mean(axis=1, keepdims=True) + means(feeds)["means"]
    return {"means": last.astype(np.float32)}


def shifted(feeds: Feeds, *, run: Run = means, by: float) -> Outputs:
    return {name: (array + by).astype(array.dtype) for name, array in run(feeds).items()}


def none(feeds: Feeds) -> Outputs:
    return {}


def feed(run: Run) -> Parts:
    whole = run({"values": VALUES, "mask": MASK})
    alone = [run({"values": VALUES[[0]], "mask": MASK[[0]]}), run({"values": VALUES[[1], :2], "mask": MASK[[1], :2]})]
    return {
        "whole": whole,
        "batch": real(whole),
        "alone": {name: np.concatenate([one[name].reshape(-1) for one in alone]) for name in alone[0]},
        "noisy": real(run({"values": NOISE, "mask": MASK})),
    }


def real(outputs: Outputs) -> Outputs:
    return {name: at_places(MASK.astype(bool), array) for name, array in outputs.items()}


def rows_of(
    subject: CheckContext, *, torch: Run = means, graph: Run = means, float64: Run = none, **settings: object
) -> list[CheckRow]:
    runners = Runners(torch=torch, graph=graph, float64=float64)
    return list(padded_rows(subject, feed, runners=runners, case=CASE, **settings))  # type: ignore[arg-type]


def findings(rows: list[CheckRow]) -> dict[str, str]:
    return {row.case.partition(": ")[2]: row.finding for row in rows}


SAME, ALONE, NOISY = "as PyTorch on the same batch", EACH_ROW_ALONE.said, OTHER_TOKENS.said


def test_a_sound_graph_gives_a_row_for_each_comparison(subject: CheckContext) -> None:
    rows = rows_of(subject)

    assert [(row.check, row.case, row.output, row.finding, row.passed) for row in rows] == [
        ("padding", f"rows of 4, 2 tokens: {said}", "means", "equal", True) for said in (SAME, ALONE, NOISY)
    ]


@pytest.mark.parametrize(
    ("graph", "caught"),
    [
        (means_of_all, {SAME, ALONE, NOISY}),
        (partial(shifted, by=0.1), {SAME}),
        (lambda feeds: shifted(feeds, by=0.1 * len(feeds["values"])), {SAME, ALONE}),
        (lambda feeds: shifted(feeds, by=0.1 * float(feeds["values"].max() > 5)), {NOISY}),
    ],
    ids=["mask-ignored", "wrong-everywhere", "rows-read-each-other", "padding-is-read"],
)
def test_a_fault_is_caught_by_the_comparisons_that_can_see_it(
    subject: CheckContext, graph: Run, caught: set[str]
) -> None:
    rows = rows_of(subject, graph=graph)

    assert {row.case.partition(": ")[2] for row in rows if not row.passed} == caught
    assert {row.finding for row in rows if not row.passed} == {"different"}


def test_what_pytorchs_own_rows_do_not_keep_is_asked_of_no_graph(subject: CheckContext) -> None:
    rows = rows_of(subject, torch=means_of_all, graph=means_of_all, meaning="it reads padding")

    assert findings(rows) == {SAME: "equal", ALONE: "skipped", NOISY: "skipped"}
    assert all(row.passed for row in rows)
    assert [row.detail for row in rows[1:]] == [
        "PyTorch's own differ by up to 1.5: it reads padding",
        "PyTorch's own differ by up to 4: it reads padding",
    ]


def test_a_family_may_have_to_keep_it_all_the_same(subject: CheckContext) -> None:
    rows = rows_of(subject, torch=means_of_all, graph=means_of_all, even_if_pytorch_does_not=True)

    assert findings(rows) == {SAME: "equal", ALONE: "different", NOISY: "different"}


def test_what_stands_at_padding_is_compared_where_it_is_asked_for(subject: CheckContext) -> None:
    def graph(feeds: Feeds) -> Outputs:
        return {"means": means(feeds)["means"] + np.float32(0.1) * (1 - feeds["mask"]).astype(np.float32)}

    assert findings(rows_of(subject, graph=graph))[SAME] == "equal"
    assert findings(rows_of(subject, graph=graph, as_pytorch="whole"))[SAME] == "different"
    assert findings(rows_of(subject, graph=graph, as_pytorch=None)) == {ALONE: "equal", NOISY: "equal"}


@pytest.mark.parametrize(("as_pytorch", "said"), [("batch", SAME), (None, ALONE)])
def test_a_graph_that_does_not_run_gives_one_row(subject: CheckContext, as_pytorch: str | None, said: str) -> None:
    def graph(feeds: Feeds) -> Outputs:
        if len(feeds["values"]) == 1:
            raise ValidationFailed("no batch of one")
        return means(feeds)

    (row,) = rows_of(subject, graph=graph, as_pytorch=as_pytorch)

    assert (row.case.partition(": ")[2], row.finding, row.detail) == (said, "error", "no batch of one")


def test_nothing_more_is_compared_where_outputs_have_other_names(subject: CheckContext) -> None:
    rows = rows_of(subject, graph=lambda feeds: {"others": means(feeds)["means"]})

    assert [(row.output, row.finding) for row in rows] == [("means", "missing"), ("others", "unexpected")]


def test_rows_keep_the_familys_order_and_words(subject: CheckContext) -> None:
    kept = (OTHER_TOKENS, Kept(part="alone", said="each sound as that sound alone", is_expected=True))

    assert list(findings(rows_of(subject, kept=kept))) == [SAME, NOISY, "each sound as that sound alone"]
    assert list(findings(rows_of(subject, kept=()))) == [SAME]


@pytest.mark.parametrize(("is_expected", "relative"), [(True, 0.5), (False, 1.0)])
def test_differences_are_measured_by_the_side_that_is_expected(
    subject: CheckContext, is_expected: bool, relative: float
) -> None:
    """In the batch every value is half of what its row is alone."""

    def graph(feeds: Feeds) -> Outputs:
        return {"means": np.full(feeds["values"].shape, 2.0 / len(feeds["values"]), dtype=np.float32)}

    kept = (Kept(part="alone", said="alone", is_expected=is_expected),)
    (row,) = rows_of(subject, graph=graph, as_pytorch=None, kept=kept)

    assert (row.finding, row.max_abs_diff, row.max_rel_diff) == ("different", 1.0, relative)


def test_graphs_are_called_in_the_order_of_the_family(subject: CheckContext) -> None:
    called: list[tuple[int, ...]] = []

    def graph(feeds: Feeds) -> Outputs:
        called.append(feeds["values"].shape)
        return means(feeds)

    rows_of(subject, graph=graph)

    assert called == [(2, 4), (1, 4), (1, 2), (2, 4)]


def test_where_pytorch_rounds_as_much_the_graph_may_too(tmp_path: Path) -> None:
    """Either side is off from the exact values by 8e-4 on the batch, each in its own direction."""

    def off(by: float) -> Callable[[Feeds], Outputs]:
        return lambda feeds: shifted(feeds, by=by if feeds["values"].shape == (2, 4) else 0.0)

    asked: list[Feeds] = []

    def exactly(feeds: Feeds) -> Outputs:
        asked.append(feeds)
        return means(feeds, dtype=np.float64)

    derived = subject_of(nn.Identity(), tmp_path)
    sides = {"torch": off(8e-4), "graph": off(-8e-4)}
    kept = (EACH_ROW_ALONE,)

    rounded = rows_of(derived, float64=exactly, kept=kept, **sides)
    untold = rows_of(derived, kept=kept, **sides)

    assert findings(rounded) == {SAME: "rounding", ALONE: "equal"}
    assert "against PyTorch in float64 the graph is off by 0.0008" in rounded[0].detail
    assert len(asked) == 4, "once for each of the runs"
    assert findings(untold)[SAME] == "different"
    assert findings(rows_of(subject_of(nn.Identity(), tmp_path, strict=True), float64=exactly, kept=kept, **sides))[
        SAME
    ] == "different"  # fmt: skip
