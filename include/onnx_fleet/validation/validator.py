"""Validation: graphs against PyTorch -> ValidationReport. Imports torch and onnxruntime when called.

It works on the files that would be published, and sees nothing of the export but its record. A mismatch is data first:
every row is kept, and require_passed makes an exception of it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from onnx_fleet.bundles import charts
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.provider import report_name
from onnx_fleet.entities.validation_report import CheckRow, FullProof, ValidationReport, _badness, describe
from onnx_fleet.entities.variant import FP32
from onnx_fleet.errors import GpuUnavailable, ValidationFailed
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.graphs.session import Session, open_session, require_provider
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.progress import Count
from onnx_fleet.processes.two_threads import beside

if TYPE_CHECKING:
    from onnx_fleet.source.reference import Load, Reference
    from onnx_fleet.validation.checks import Check, CheckContext
    from onnx_fleet.validation.pipelines import Said

__all__ = ["validate"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What stays the same over all graphs."""

    stage: Stage
    source_dir: Path
    provider: str
    threads: int
    gpu: GpuOptions
    load: Load | None
    repeats: bool

    def case(self, check: str, info: GraphInfo) -> Case:
        return Case(check=check, graph=info.path, case=self.provider, tolerances=self.tolerances)

    @property
    def tolerances(self) -> Tolerances:
        return self.stage.item.model.entry.tolerances or Tolerances()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proof:
    """What the checks gave."""

    rows: tuple[CheckRow, ...] = ()
    nodes_by_provider: Mapping[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> list[CheckRow]:
        """The worst first."""
        return sorted((row for row in self.rows if not row.passed), key=_badness, reverse=True)

    @property
    def status(self) -> Literal["passed", "failed"]:
        return "passed" if self.rows and not self.failed else "failed"

    @property
    def summary(self) -> str:
        if not self.rows:
            return "nothing was compared: the export recorded no graph"
        if not self.failed:
            rounding = sum(row.finding == "rounding" for row in self.rows)
            said = f", {rounding} of them within PyTorch's own rounding against float64" if rounding else ""
            return f"{len(self.rows)} comparisons, all within tolerance{said}"
        checks = ", ".join(dict.fromkeys(row.check for row in self.rows if not row.passed))
        return (
            f"{len(self.failed)} of {len(self.rows)} comparisons failed ({checks}); worst: {describe(self.failed[0])}"
        )


def validate(
    stage: Stage,
    *,
    source_dir: Path,
    provider: str = "cpu",
    threads: int = 1,
    gpu: GpuOptions | None = None,
    load: Load | None = None,
    rests_on: FullProof | None = None,
    why_full: str = "",
) -> ValidationReport:
    """Hold every fp32 graph of a stage to the source model in PyTorch, and write the report into the stage.

    Where the entry wants variants, what the graphs are fed is kept in the stage, for these to be held to.

    Args:
        stage: takes ``reports/validation.json`` and its picture, or ``validation_<provider>.*``.
        source_dir: the source's files at the stage's commit.
        provider: ``cpu`` or ``cuda``. Where that cannot run the report says ``not_run``: the CPU never stands in.
        threads: of PyTorch and of onnxruntime each. One gives the same bits on any number of cores, and is three times
            as fast on a busy machine, where threads wait for each other.
        gpu: which one, for cuda; None is the first. PyTorch computes on the CPU in any case.
        load: who loads the reference; None is reference.load. It is held to the source's files, whoever does.
        rests_on: the whole proof of the same graphs with other weights, which is repeated in part; None compares
            everything.
        why_full: why it does, where there is such a proof.
    Raises:
        BundleNotFound: nothing was exported into the stage.
        ModelInvalid, ExportUnsupported: PyTorch cannot load the source.
    """
    started = time.perf_counter()
    item, record = stage.item, stage.read_export()
    bench = _Bench(
        stage=stage,
        source_dir=source_dir,
        provider=provider,
        threads=threads,
        gpu=gpu or GpuOptions(),
        load=load,
        repeats=rests_on is not None,
    )
    proof, unavailable = _Proof(), ""
    try:
        proof = _prove(bench, tuple(info for info in record.graphs if info.variant == FP32))
    except GpuUnavailable as err:
        unavailable = str(err)
    report = ValidationReport(
        model_id=item.model_id,
        version=item.version,
        provider=provider,
        status="not_run" if unavailable else proof.status,
        reason=unavailable or proof.summary,
        rows=proof.rows,
        nodes_by_provider=proof.nodes_by_provider,
        duration_s=time.perf_counter() - started,
        rests_on=rests_on,
        why_full=why_full,
    )
    name = report_name("validation", provider)
    stage.write_report(name, report)
    stage.write_picture(name, charts.validation(report) if report.rows else None)
    log.info("validated %s on %s: %s", item.model.at_commit, provider, report.status)
    return report


def _prove(bench: _Bench, graphs: tuple[GraphInfo, ...]) -> _Proof:
    """Run every check of the family on the graphs together."""
    require_provider(bench.provider)  # before torch is imported and weights are read for nothing
    from onnx_fleet.source import reference
    from onnx_fleet.validation import pipelines

    with TemporaryDirectory(prefix="onnx-fleet-") as folder, reference.threads(bench.threads):
        # The source is asked first, and forgotten again: two models that PyTorch has loaded need twice the memory.
        ask = partial(pipelines.ask_source, bench.stage.item, bench.source_dir, graphs=graphs)
        said, (sessions, rows) = beside(ask, partial(_opened, bench, graphs, profile_dir=Path(folder)))
        if graphs and len(sessions) == len(graphs):
            expected = (bench.load or reference.load)(bench.stage.item, source_dir=bench.source_dir)
            rows += _rows_of(bench, graphs, sessions=sessions, expected=expected, said=said)
        nodes: Counter[str] = Counter()
        for session in sessions.values():
            nodes.update(session.placement.nodes_by_provider if session.placement else {})
    return _Proof(rows=tuple(rows), nodes_by_provider=dict(nodes))


def _opened(
    bench: _Bench, graphs: Iterable[GraphInfo], *, profile_dir: Path
) -> tuple[dict[str, Session], list[CheckRow]]:
    """Return the sessions by their roles, and a row for each graph that does not load."""
    sessions: dict[str, Session] = {}
    rows = []
    for info in graphs:
        try:
            sessions[info.role] = open_session(
                bench.stage.folder / info.path,
                provider=bench.provider,
                threads=bench.threads,
                libraries=info.libraries,
                profile_dir=profile_dir,
                gpu=bench.gpu,
            )
        except ValidationFailed as err:
            rows.append(bench.case("load", info).row("error", detail=str(err)))
    return sessions, rows


def _rows_of(
    bench: _Bench,
    graphs: tuple[GraphInfo, ...],
    *,
    sessions: Mapping[str, Session],
    expected: Reference,
    said: Said,
) -> Iterator[CheckRow]:
    from onnx_fleet.validation.checks import CHECKS, CheckContext, held_to_its_rounding

    subject = CheckContext(
        stage=bench.stage,
        source_dir=bench.source_dir,
        graphs={info.role: info for info in graphs},
        sessions=sessions,
        reference=expected,
        tolerances=bench.tolerances,
        said=said,
        repeats=bench.repeats,
    )
    if bench.provider == "cpu":  # others round otherwise: they keep the most that is allowed
        subject = held_to_its_rounding(subject)
    entry = bench.stage.item.model.entry
    checks = [check for check in CHECKS[bench.stage.item.family] if not (bench.repeats and check.once)]
    if bench.provider != "cpu" or set(entry.variants) == {FP32}:
        yield from _run(checks, subject)
        return
    from onnx_fleet.graphs import recorded_feeds
    from onnx_fleet.planning.calibration import source as calibration_source
    from onnx_fleet.validation import calibration_feeds

    root = calibration_source.root_of(bench.stage)
    ask = calibration_feeds.question(subject, entry.calibration, root=root)
    recorder = recorded_feeds.FeedRecorder(
        recorded_feeds.folder(bench.stage.folder),
        predicts_next_token=ask is not None and calibration_feeds.predicts_next_token(subject),
    )
    if ask is None:
        recorder.watch(sessions)
    yield from _run(checks, subject)
    if ask is not None:
        recorder.watch(sessions)
        ask()


def _run(checks: Sequence[Check], subject: CheckContext) -> Iterator[CheckRow]:
    for check in Count(len(checks), "checks").each(checks):
        yield from check.run(subject)
