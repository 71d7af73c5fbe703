"""A smoke test: every graph of a folder, loaded and run in onnxruntime. Nothing is compared, and torch is not imported.

A bundle whose source is gone can still be tested in this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import text_inputs, workloads
from onnx_fleet.graphs.session import open_session

_LENGTH = 5
_ROWS = (1, 2)
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTestRequest:
    """The request that the process which runs the graphs gets."""

    folder: Path
    graphs: tuple[GraphInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTestRow:
    """The result for one graph."""

    graph: str
    """The graph's path in the bundle."""
    fault: str
    """The reason why the graph does not load or run; empty where it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTestReport:
    """The results for all graphs of a folder."""

    rows: tuple[SmokeTestRow, ...]


def run(request: SmokeTestRequest) -> SmokeTestReport:
    """Run each graph on a few rows of every kind of work that it does."""
    return SmokeTestReport(
        rows=tuple(SmokeTestRow(graph=info.path, fault=next(_faults(request, info), "")) for info in request.graphs)
    )


def _faults(request: SmokeTestRequest, info: GraphInfo) -> Iterator[str]:
    only = workloads.fixed_length(request.graphs)
    space = text_inputs.token_space_of_files(
        request.folder, graphs=request.graphs, longest=only or _LENGTH, fixed_length=only
    )
    try:
        session = open_session(request.folder / info.path, threads=1, libraries=info.libraries)
        for rows in _ROWS:
            for work in workloads.of(info, batch_size=rows, length=only or _LENGTH, space=space):
                outputs = session.run(work.feeds(info, seed=_SEED))
                yield from (
                    f"{name} has values that are not a number, on {work.text}"
                    for name, array in outputs.items()
                    if array.dtype.kind == "f" and np.isnan(array).any()
                )
    except ValidationFailed as err:
        yield str(err)
