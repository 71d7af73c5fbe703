"""Comparisons of one graph on given feeds, whatever its model does: with PyTorch, and of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TypeVar

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks.context import CheckContext
from onnx_fleet.validation.checks.float64 import Side, judged

Feeds = Mapping[str, np.ndarray]
Size = TypeVar("Size")
Actual = TypeVar("Actual")


def rows_of(feeds: Feeds, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of a batch.

    Args:
        feeds: arrays by name, each [batch_size, …].
        rows: which; int64 or bool where it is an array.
    """
    return {name: array[rows] for name, array in feeds.items()}


def run(subject: CheckContext, feeds: Feeds, *, case: Case, role: str = "model") -> tuple[Outputs, list[CheckRow]]:
    """Run one graph: return its outputs by name, or none and the row that says why."""
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
    """Compare the outputs of graphs with PyTorch's on the same feeds: one row an output.

    Args:
        feeds: arrays by the names of inputs; float64 is asked for the same ones.
        expected: arrays by name, from PyTorch; what is not equal in shape is a row that says so.
        actual: arrays by name, from the graphs.
        role: the graph whose work alone is compared; None compares the whole model's.
        read: takes what is compared of outputs: those at real positions, for one.
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
    expected: Callable[[], Outputs],
    run: Callable[[], Outputs],
    *,
    case: Case,
    exact: Callable[[], Outputs],
) -> Iterator[CheckRow]:
    """Compare what some calls of the graphs return with PyTorch's, or yield the row that says why they do not run.

    Args:
        expected: returns arrays by name, from PyTorch; it is called beside ``run``. What that does not return is not
            compared.
        run: returns arrays by name; a ValidationFailed that it raises becomes the row.
        exact: the same in float64; empty where nobody can tell.
    """
    wanted, actual = beside(expected, partial(or_fault, run))
    if isinstance(actual, ValidationFailed):
        yield case.row("error", detail=str(actual))
        return
    own = {name: array for name, array in wanted.items() if name in actual}
    yield from judged(subject, compare(own, actual, case=case), Side(expected=own, actual=actual, exact=exact))


def or_fault(run: Callable[[], Actual]) -> Actual | ValidationFailed:
    """Return what a call returns, or why it does not run: of one side that is a finding, and of the other not."""
    try:
        return run()
    except ValidationFailed as err:
        return err


def logits_equal(
    subject: CheckContext,
    expected: Callable[[], np.ndarray],
    run: Callable[[], np.ndarray],
    *,
    case: Case,
    exact: Callable[[], Outputs],
) -> Iterator[CheckRow]:
    """Do as outputs_equal, for graphs of which the logits alone are read.

    Args:
        expected: returns float32 [batch_size, sequence_length, vocabulary] or [real tokens, vocabulary], like ``run``.
        exact: float64 of the same shape, by the name ``logits``.
    """
    return outputs_equal(subject, lambda: {"logits": expected()}, lambda: {"logits": run()}, case=case, exact=exact)


def batches_equal(
    subject: CheckContext,
    feeds: Feeds,
    *,
    expected: Callable[[], Outputs],
    check: str,
    text: str,
    sizes: Sequence[int],
    role: str = "model",
) -> Iterator[CheckRow]:
    """Compare the first rows of a batch, and its last row alone, with PyTorch's on all of it.

    PyTorch computes the same values for a row in a batch of any size, to 1e-6; the graph has to as well.

    Args:
        feeds: arrays by the names of inputs, each [batch_size, …].
        expected: returns arrays by name, each [batch_size, …], from PyTorch on all rows; it is called
            beside the graph, for each of the batches.
        text: says what is fed, for people.
        sizes: how many rows are fed; a size beyond the batch's is fed as the whole batch.
    """
    count = len(next(iter(feeds.values())))
    parts = {f"batch_size {size}": slice(size) for size in sorted({min(size, count) for size in sizes}, reverse=True)}
    last = {"the last row alone": slice(count - 1, count)}
    for name, rows in subject.sizes({**parts, **last}, repeated=last).items():
        case = subject.case(check, f"{name}, {text}", role=role)
        few = rows_of(feeds, rows)
        everything, (actual, faults) = beside(expected, partial(run, subject, few, case=case, role=role))
        alone = None if role == "model" else role
        wanted = rows_of(everything, rows)
        yield from faults or against_pytorch(subject, few, wanted, actual, case=case, role=alone)


def parity_over_sizes(
    subject: CheckContext,
    sizes: Sequence[Size],
    *,
    feed: Callable[[int, Size], Feeds],
    said: Callable[[Size], str],
    batch_sizes: Sequence[int],
) -> Iterator[CheckRow]:
    """Compare every output with PyTorch's: at the first size in several batches, at every other one in two rows.

    Args:
        sizes: the sizes of whatever is fed; where PyTorch itself cannot run at one, that is skipped.
        feed: (rows, size) -> arrays by the names of inputs, each [rows, …].
        said: a size and what is fed, for people.
    """
    usual, *others = subject.sizes(sizes, repeated=sizes[:1])
    feeds = feed(max(batch_sizes), usual)
    expected = cache(partial(subject.reference, feeds))
    yield from batches_equal(subject, feeds, expected=expected, check="parity", text=said(usual), sizes=batch_sizes)
    for size in others:
        case = subject.case("parity", f"batch_size 2, {said(size)}")
        feeds = feed(2, size)
        asked, answered = partial(subject.reference, feeds), partial(run, subject, feeds, case=case)
        wanted, (actual, faults) = beside(partial(or_fault, asked), answered)
        if isinstance(wanted, ValidationFailed):
            yield case.row("skipped", passed=True, detail=str(wanted))
            continue
        yield from faults or against_pytorch(subject, feeds, wanted, actual, case=case)
