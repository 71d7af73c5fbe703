"""Drift: how far the outputs of two versions of one graph are apart for the same inputs. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import comparison, session
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.graphs.session import Arrays, Session

if TYPE_CHECKING:
    from onnx_fleet.graphs.text_inputs import TokenSpace
    from onnx_fleet.graphs.workloads import Workload

DRIFT, OLD_RUNS, NEW_RUNS = "drift", "old_runs", "new_runs"
"""The names of the checks: outputs are near each other; each version runs at all."""
SOURCE = "the version in use"

_ROWS, _LENGTH = 2, 13
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_PADDED = "padded on the right"

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One graph in both versions."""

    old: GraphInfo
    new: GraphInfo
    old_folder: Path
    new_folder: Path

    def open(self, *, threads: int) -> tuple[Session, Session]:
        """Open new sessions of the old and the new version.

        Raises:
            ValidationFailed: a version does not load.
        """
        return self.open_old(threads=threads), self.open_new(threads=threads)

    def open_old(self, *, threads: int) -> Session:
        """Open a session of the version in use."""
        return session.open_session(self.old_folder / self.old.path, threads=threads, libraries=self.old.libraries)

    def open_new(self, *, threads: int) -> Session:
        """Open a session of the new version."""
        return session.open_session(self.new_folder / self.new.path, threads=threads, libraries=self.new.libraries)

    def works(self, *, batch_size: int, length: int, space: TokenSpace | None) -> Iterator[tuple[Workload, Arrays]]:
        """Return the graph's kinds of work at one size, with inputs for whatever either version takes."""
        from onnx_fleet.graphs import workloads

        both = [workloads.of(info, batch_size=batch_size, length=length, space=space) for info in (self.old, self.new)]
        before = {work.phase: work.feeds(self.old, seed=0) for work in both[0]}
        for work in both[1]:
            yield work, {**before.get(work.phase, {}), **work.feeds(self.new, seed=0)}


def of_pair(
    pair: Pair, *, space: TokenSpace | None, longest: int, threads: int, tolerances: Tolerances
) -> tuple[CheckRow, ...]:
    """Run both versions on the same inputs.

    Args:
        tolerances: how far the outputs may be apart.
    Returns:
        One row for every output that both have, and one for every time that a version did not load or run.
    """
    rows: list[CheckRow] = []

    def attempt(check: str, name: str, call: Callable[[], Made]) -> Made | None:
        try:
            return call()
        except ValidationFailed as err:
            case = Case(check=check, graph=pair.new.path, case=name, tolerances=tolerances)
            rows.append(case.row("error", detail=str(err)))
            return None

    old = attempt(OLD_RUNS, "load", partial(pair.open_old, threads=threads))
    new = attempt(NEW_RUNS, "load", partial(pair.open_new, threads=threads))
    if old is None or new is None:
        return tuple(rows)
    for name, feeds in _cases(pair, space=space, longest=longest):
        before = attempt(OLD_RUNS, name, partial(old.run, feeds))
        after = attempt(NEW_RUNS, name, partial(new.run, feeds))
        if before is not None and after is not None:
            case = Case(check=DRIFT, graph=pair.new.path, case=name, tolerances=tolerances)
            rows += _compared(pair, before, after, feeds=feeds, case=case)
    return tuple(rows)


def _cases(pair: Pair, *, space: TokenSpace | None, longest: int) -> Iterator[tuple[str, Arrays]]:
    """Return inputs with words for people: each kind of the graph's work, and real text where it takes text alone."""
    from onnx_fleet.graphs import text_inputs

    length = (space.fixed_length if space else None) or min(_LENGTH, longest)
    for work, feeds in pair.works(batch_size=_ROWS, length=length, space=space):
        yield f"{work.text}, seed 0", feeds
    takes = {spec.name for info in (pair.old, pair.new) for spec in info.inputs}
    known = _TEXT_INPUTS | {each.name for each in (space.further if space else ())}
    if space is not None and takes <= known and (pair.new_folder / "tokenizer.json").exists():
        for batch, what in zip(
            text_inputs.text_batches(pair.new_folder, space), ("texts", "pairs of texts"), strict=True
        ):
            yield f"{len(batch)} {what}, {_PADDED}", batch.feeds


def _compared(pair: Pair, old: Arrays, new: Arrays, *, feeds: Arrays, case: Case) -> tuple[CheckRow, ...]:
    """Compare outputs of the same name; those that only one version has are the contract's matter."""
    common = [spec.name for spec in pair.new.outputs if spec.name in old]
    sides: list[Arrays] = [{name: given[name] for name in common} for given in (old, new)]
    if case.case.endswith(_PADDED):
        real = feeds["attention_mask"].astype(bool)
        sides = [comparison.at_real_positions(side, real=real, specs=pair.new.outputs) for side in sides]
    return comparison.compare(sides[0], sides[1], case=case, source=SOURCE)
