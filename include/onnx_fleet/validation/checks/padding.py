"""Padding changes nothing: one definition for every family whose rows may have different lengths.

A batch of padded rows is compared with PyTorch's, with its own rows alone, and with itself when other values stand
under the mask. A family says how a runner is fed, what is read of its outputs, and which of these hold for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks.context import CheckContext
from onnx_fleet.validation.checks.float64 import Side, judged
from onnx_fleet.validation.checks.single_graph import Feeds, or_fault

Run = Callable[[Feeds], Outputs]
"""Arrays by the names of inputs -> arrays by the names of outputs."""
Part = Literal["whole", "batch", "alone", "noisy"]
Parts = Mapping[Part, Outputs]
"""What one runner returns: for the padded batch with all its positions (``whole``) or the real ones alone (``batch``),
for its rows one by one (``alone``), and for the batch with other values under the mask (``noisy``). The last three are
laid out alike: an output has one shape in all of them, [real tokens, …] where it is one per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runners:
    """Who is fed: PyTorch, the graphs, and PyTorch in float64."""

    torch: Run
    graph: Run
    float64: Run
    """It returns no outputs where nobody can tell what is exact."""

    @classmethod
    def of(cls, subject: CheckContext, *, graph: Run) -> Runners:
        """The whole model on PyTorch's side, and the graphs as they are put together for it."""
        return cls(torch=subject.reference, graph=graph, float64=subject.reference.in_float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the padded batch should be equal to."""

    part: Literal["alone", "noisy"]
    said: str
    """What is equal, for people: ``each row as that row alone``."""
    is_expected: bool
    """Whether differences are measured by the size of this part; else by that of the batch."""


EACH_ROW_ALONE = Kept(part="alone", said="each row as that row alone", is_expected=True)
OTHER_TOKENS = Kept(part="noisy", said="other tokens under the mask change nothing", is_expected=False)


def padded_rows(
    subject: CheckContext,
    feed: Callable[[Run], Parts],
    *,
    runners: Runners,
    case: Case,
    as_pytorch: Literal["whole", "batch"] | None = "batch",
    kept: Sequence[Kept] = (EACH_ROW_ALONE, OTHER_TOKENS),
    even_if_pytorch_does_not: bool = False,
    meaning: str = "",
) -> Iterator[CheckRow]:
    """Compare a padded batch with PyTorch's, and with what should be equal to it.

    Args:
        feed: has a runner run everything, and returns the parts that are compared. The graphs' calls keep its order.
        case: its text says which rows are padded.
        as_pytorch: the part that has to equal PyTorch's; None asks for none.
        kept: what the batch is equal to, in the order of the rows.
        even_if_pytorch_does_not: whether the graphs have to keep what PyTorch's own rows do not.
        meaning: what it says of the model where PyTorch's own rows do not.
    """
    same = replace(case, case=f"{case.case}: as PyTorch on the same batch")
    cases = [replace(case, case=f"{case.case}: {each.said}") for each in kept]
    torch, graph = beside(partial(feed, runners.torch), partial(or_fault, partial(feed, runners.graph)))
    if isinstance(graph, ValidationFailed):
        first = same if as_pytorch else cases[0]
        yield first.row("error", detail=str(graph))
        return
    exactly = cache(partial(_exactly, feed, runners.float64))

    def side(part: Part) -> Side:
        return Side(expected=torch[part], actual=graph[part], exact=lambda: exactly().get(part, {}))

    if as_pytorch:
        batch = side(as_pytorch)
        yield from judged(subject, compare(batch.expected, batch.actual, case=same), batch)
        if batch.expected.keys() != batch.actual.keys():
            return
    for each, where in zip(kept, cases, strict=True):
        sides = side("batch"), side(each.part)
        one, other = reversed(sides) if each.is_expected else sides
        own = () if even_if_pytorch_does_not else compare(one.expected, other.expected, case=where)
        found = compare(one.actual, other.actual, case=where)
        yield from where_pytorch_holds(subject, own, found, case=where, sides=sides, meaning=meaning)


class _NobodyCanTell(Exception):
    """PyTorch in float64 returned no outputs."""


def _exactly(feed: Callable[[Run], Parts], float64: Run) -> Parts:
    """The parts in float64; none where it does not run on one of them."""

    def told(feeds: Feeds) -> Outputs:
        wide = float64(feeds)
        if not wide:
            raise _NobodyCanTell
        return wide

    try:
        return feed(told)
    except _NobodyCanTell:
        return {}


def where_pytorch_holds(
    subject: CheckContext,
    own: Sequence[CheckRow],
    found: Sequence[CheckRow],
    *,
    case: Case,
    sides: Sequence[Side] = (),
    meaning: str = "",
) -> Iterator[CheckRow]:
    """Yield the graph's rows about a property, and skip the outputs of which PyTorch's own rows do not have it.

    Args:
        own: PyTorch's rows, one for each output.
        found: the graph's rows.
        sides: the two inputs on which the graph should return the same.
        meaning: what it says of the model where PyTorch does not.
    """
    broken = {row.output: row for row in own if not row.passed}
    yield from judged(subject, [row for row in found if row.output not in broken], *sides)
    for row in found:
        if row.output in broken:
            size = broken[row.output].max_abs_diff
            by = "" if size is None else f" by up to {size:.2g}"
            detail = f"PyTorch's own differ{by}" + (f": {meaning}" if meaning else "")
            yield case.row("skipped", output=row.output, passed=True, detail=detail)
