"""Comparisons of one graph on given feeds, whatever its model does: with PyTorch, and of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.validation.checks.context import CheckContext
from onnx_fleet.validation.checks.float64 import Side, judged

Feeds = Mapping[str, np.ndarray]
Size = TypeVar("Size")


def rows_of(feeds: Feeds, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of a batch."""
    return {name: array[rows] for name, array in feeds.items()}


def run(subject: CheckContext, feeds: Feeds, *, case: Case, role: str = "model") -> tuple[Outputs, list[CheckRow]]:
    """One graph's outputs, or none and the row that says why."""
    try:
        return subject.session(role).run(feeds), []
    except ValidationFailed as err:
        return {}, [case.row("error", detail=str(err))]


def against_pytorch(
    subject: CheckContext,
    feeds: Feeds,
    expected: Outputs,
    actual: Outputs,
    *,
    case: Case,
    role: str | None = None,
    read: Callable[[Outputs], Outputs] = lambda outputs: outputs,
) -> Iterator[CheckRow]:
    """The outputs of graphs against PyTorch's on the same feeds.

    Args:
        role: of one graph whose work alone is compared; None of the whole model.
        read: what is compared of outputs: those at real positions, for one.
    """
    rows = compare(read(expected), read(actual), case=case)
    yield from judged(
        subject,
        rows,
        Side(
            expected=read(expected),
            actual=read(actual),
            exact=lambda: read(wide) if (wide := subject.reference.in_float64(feeds, role=role)) else {},
        ),
    )


def outputs_equal(
    subject: CheckContext,
    expected: Outputs,
    run: Callable[[], Outputs],
    *,
    case: Case,
    exact: Callable[[], Outputs],
) -> Iterator[CheckRow]:
    """What some calls of the graphs give against PyTorch's, or the row that says why they give nothing.

    Args:
        expected: arrays by name, from PyTorch. What ``run`` does not give is not compared.
        exact: the same in float64; empty where nobody can tell.
    """
    try:
        actual = run()
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    own = {name: array for name, array in expected.items() if name in actual}
    yield from judged(subject, compare(own, actual, case=case), Side(expected=own, actual=actual, exact=exact))


def logits_equal(
    subject: CheckContext,
    expected: np.ndarray,
    run: Callable[[], np.ndarray],
    *,
    case: Case,
    exact: Callable[[], Outputs],
) -> Iterator[CheckRow]:
    """As outputs_equal, for graphs of which the logits alone are read.

    Args:
        expected: float32 [batch_size, sequence_length, vocabulary] or [real tokens, vocabulary], as ``run`` returns it.
        exact: float64 of the same shape, by the name ``logits``.
    """
    return outputs_equal(subject, {"logits": expected}, lambda: {"logits": run()}, case=case, exact=exact)


def batches_equal(
    subject: CheckContext,
    feeds: Feeds,
    *,
    expected: Outputs,
    check: str,
    text: str,
    sizes: Sequence[int],
    role: str = "model",
) -> Iterator[CheckRow]:
    """The first rows of a batch, and its last row alone, against PyTorch's on all of it.

    PyTorch gives a row the same values in a batch of any size, to 1e-6; the graph has to as well.
    """
    count = len(next(iter(feeds.values())))
    parts = {f"batch_size {size}": slice(size) for size in sorted({min(size, count) for size in sizes})}
    for name, rows in {**parts, "the last row alone": slice(count - 1, count)}.items():
        case = subject.case(check, f"{name}, {text}", role=role)
        few = rows_of(feeds, rows)
        actual, faults = run(subject, few, case=case, role=role)
        alone = None if role == "model" else role
        wanted = rows_of(expected, rows)
        yield from faults or against_pytorch(subject, few, wanted, actual, case=case, role=alone)


def parity_over_sizes(
    subject: CheckContext,
    sizes: Sequence[Size],
    *,
    feed: Callable[[int, Size], Feeds],
    said: Callable[[Size], str],
    batch_sizes: Sequence[int],
) -> Iterator[CheckRow]:
    """Every output equals PyTorch's: at the first size in several batches, at every other one in two rows.

    Args:
        sizes: of whatever is fed; where PyTorch itself cannot run at one, that is skipped.
        feed: (rows, size) -> feeds.
        said: a size and what is fed, for people.
    """
    usual, *others = sizes
    feeds = feed(max(batch_sizes), usual)
    expected = subject.reference(feeds)
    yield from batches_equal(subject, feeds, expected=expected, check="parity", text=said(usual), sizes=batch_sizes)
    for size in others:
        case = subject.case("parity", f"batch_size 2, {said(size)}")
        feeds = feed(2, size)
        try:
            expected = subject.reference(feeds)
        except ValidationFailed as err:
            yield case.row("skipped", passed=True, detail=str(err))
            continue
        actual, faults = run(subject, feeds, case=case)
        yield from faults or against_pytorch(subject, feeds, expected, actual, case=case)
