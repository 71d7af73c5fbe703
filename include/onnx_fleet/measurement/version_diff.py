"""Differences: all that has to be measured of two versions of a bundle; measurement/gates.py judges it.

Called through onnx_fleet.processes.isolation; onnxruntime alone, so that the figures are those of a process that
serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_fleet import jsonio
from onnx_fleet.entities.entry import LatencyGrid, Tolerances
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.regression_report import Differences, OpsRow, SizeRow, SlowdownRow
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import inspection, structure
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.measurement import io_contract, latency_ratio, output_drift, value_dependence
from onnx_fleet.measurement.latency_ratio import Point
from onnx_fleet.measurement.output_drift import Pair
from onnx_fleet.processes import hardware
from onnx_fleet.processes.progress import Count

_LONGEST = 13
"""The number of tokens to feed where no latency report says how many the model takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two versions, in a folder."""

    folder: Path
    graphs: tuple[GraphInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferencesRequest:
    """The request that the process which compares gets."""

    old: Side
    new: Side
    """The stage that was measured: its latency report has the sizes."""
    tolerances: Tolerances
    """The tolerances of the outputs' differences."""
    grid: LatencyGrid


def find(request: DifferencesRequest) -> Differences:
    """Compare graph by graph; a version that does not load or run gets a row that says so, and no figures."""
    from onnx_fleet.graphs import text_inputs, workloads

    old, new = io_contract.by_role(request.old.graphs), io_contract.by_role(request.new.graphs)
    pairs = [
        Pair(old=old[key], new=new[key], old_folder=request.old.folder, new_folder=request.new.folder)
        for key in new
        if key in old
    ]
    threads = request.grid.threads or hardware.usable_cores()
    points = _points(request.new.folder)
    longest = max((point.length for each in points.values() for point in each), default=_LONGEST)
    only = workloads.fixed_length(request.new.graphs) or workloads.fixed_length(request.old.graphs)
    space = text_inputs.token_space_of_files(
        request.new.folder, graphs=request.new.graphs, longest=longest, fixed_length=only
    )
    outputs: list[CheckRow] = []
    timed: list[SlowdownRow] = []
    equal = _equal_graphs(pairs, request)
    count = Count((len(pairs) - len(equal)) * latency_ratio.ROUNDS, "rounds")
    for pair in pairs:
        rows = output_drift.of_pair(pair, space=space, longest=longest, threads=threads, tolerances=request.tolerances)
        outputs += rows
        if pair in equal or any(row.finding == "error" for row in rows):
            continue
        try:
            timed += latency_ratio.of_pair(
                pair,
                points=points.get(pair.new.path, ()),
                space=space,
                threads=threads,
                warmup_runs=request.grid.warmup_runs,
                timed_runs=request.grid.timed_runs,
                count=count,
            )
        except ValidationFailed as err:  # the new one was measured at these very sizes
            case = Case(check=output_drift.OLD_RUNS, graph=pair.new.path, case="latency", tolerances=request.tolerances)
            outputs.append(case.row("error", detail=str(err)))
    return Differences(
        sizes=tuple(_sizes(request.old, request.new)),
        ops=tuple(_ops(pairs)),
        outputs=tuple(outputs),
        latency=tuple(timed),
        equal_graphs=tuple(pair.new.path for pair in equal),
        threads=threads,
    )


def _equal_graphs(pairs: Iterable[Pair], request: DifferencesRequest) -> list[Pair]:
    """Return the graphs that take as long in both versions: one process runs them, and the values do not matter."""
    equal = [] if request.grid.reuse == "never" else [pair for pair in pairs if _is_one_graph(pair)]
    if equal and any(value_dependence.reason(side.folder, side.graphs) for side in (request.old, request.new)):
        return []  # the weights are read for that, and only where it decides
    return equal


def _is_one_graph(pair: Pair) -> bool:
    """Say whether two versions of a graph are the same but for the values of their weights."""
    old, new = pair.old_folder / pair.old.path, pair.new_folder / pair.new.path
    return structure.digest(old) == structure.digest(new)


def _points(stage_dir: Path) -> dict[str, tuple[Point, ...]]:
    """Return the smallest and the largest measured size of each graph: overheads show at one, work at the other."""
    path = stage_dir / "reports" / "latency.json"
    if not path.exists():
        return {}
    found: dict[str, set[tuple[int, int]]] = {}
    for row in jsonio.parse(LatencyReport, path.read_bytes()).rows:
        found.setdefault(row.graph, set()).add((row.batch_size, row.sequence_length or 1))
    return {graph: _ends(sizes) for graph, sizes in found.items()}


def _ends(sizes: Iterable[tuple[int, int]]) -> tuple[Point, ...]:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size[1]))
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    return tuple(Point(batch_size=rows, length=length) for rows, length in ends)


def _sizes(old: Side, new: Side) -> Iterable[SizeRow]:
    before, after = _bytes_by_variant(old), _bytes_by_variant(new)
    for variant in sorted(before.keys() & after.keys()):
        yield SizeRow(variant=variant, old_bytes=before[variant], new_bytes=after[variant])


def _bytes_by_variant(side: Side) -> dict[str, int]:
    files: dict[str, set[str]] = {}
    for info in side.graphs:
        files.setdefault(info.variant, set()).update((info.path, *info.weight_files))
    return {variant: sum((side.folder / path).stat().st_size for path in paths) for variant, paths in files.items()}


def _ops(pairs: Sequence[Pair]) -> Iterable[OpsRow]:
    for pair in pairs:
        (old,) = inspection.inspect(pair.old_folder / pair.old.path).graphs
        (new,) = inspection.inspect(pair.new_folder / pair.new.path).graphs
        counts = {op: (old.ops.get(op, 0), new.ops.get(op, 0)) for op in sorted({*old.ops, *new.ops})}
        yield OpsRow(
            graph=pair.new.path,
            old_nodes=old.nodes,
            new_nodes=new.nodes,
            changed={op: both for op, both in counts.items() if both[0] != both[1]},
        )
