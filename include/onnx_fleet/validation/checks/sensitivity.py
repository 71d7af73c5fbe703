"""The comparisons can tell: PyTorch's own outputs move when its inputs do, or a graph with such a fault would pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.validation.checks.context import CheckContext
from onnx_fleet.validation.checks.single_graph import Feeds


def moved_by(
    subject: CheckContext,
    changes: Mapping[str, tuple[Feeds, Feeds]],
    *,
    role: str | None = None,
    read: Callable[[Outputs], Outputs] = lambda outputs: outputs,
    single: str | None = None,
) -> Iterator[CheckRow]:
    """Yield one row a change: whether PyTorch's own outputs tell two inputs apart.

    Args:
        changes: what is changed, for people -> the feeds as they are, and with that change.
        role: the graph that rows name; None names the last one.
        read: what is compared of outputs: those at real positions, for one.
        single: how rows call the only output that is read; None has them name each that moves.
    """
    given: Feeds | None = None
    expected: Outputs = {}
    for change, (feeds, other) in changes.items():
        if feeds is not given:
            given, expected = feeds, read(subject.reference(feeds))
        case = subject.case("sensitivity", change, role=role)
        yield told_apart(expected, read(subject.reference(other)), case=case, single=single)


def told_apart(outputs: Outputs, others: Outputs, *, case: Case, single: str | None = None) -> CheckRow:
    """Return one row, which passes in any case: whether two sets of outputs differ by more than the tolerance.

    Args:
        outputs: arrays by name, from PyTorch.
        others: arrays of the same names and shapes, from PyTorch for other inputs.
        single: how the row calls the only output that there is; None has it name each that moves.
    """
    moved = {row.output: row.max_abs_diff for row in compare(outputs, others, case=case) if not row.passed}
    if not moved:
        what = f"PyTorch's own {single or 'outputs'} stay within the tolerance"
        return case.row("insensitive", passed=True, detail=f"{what}: a graph with this fault would pass")
    if single is not None:
        (size,) = moved.values()
        found = f"{size or 0:.2g}"
    else:
        found = ", ".join(f"{name} {size:.2g}" for name, size in moved.items() if size is not None)
    return case.row("sensitive", passed=True, detail=f"PyTorch's own {single or 'outputs'} move: {found}")
