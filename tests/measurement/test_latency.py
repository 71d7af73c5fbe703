"""Figures that an expert would sign: how they were taken is tested, not how large they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import onnxruntime
import pytest

from fixtures.exported import Exported
from fixtures.kept_latency import confirmed_by_any_call
from fixtures.open_sessions import OpenSessions
from fixtures.stages import NOW
from onnx_fleet import jsonio
from onnx_fleet.entities.entry import LatencyGrid
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.errors import GpuUnavailable
from onnx_fleet.measurement import benchmark, latency, reuse
from onnx_fleet.measurement.benchmark import Bench
from onnx_fleet.measurement.footprint import FootprintRequest
from onnx_fleet.measurement.noise import NoiseMeter
from onnx_fleet.measurement.timing import Timed
from onnx_fleet.source import reference

ROOT = Path(__file__).parents[2]
GRID = LatencyGrid(batch_sizes=(1, 2), sequence_lengths=(8, 100), warmup_runs=2, timed_runs=11, threads=1)
"""The model takes 66 tokens."""


@pytest.fixture(scope="session")
def measured(questions: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    copied = questions.copy(tmp_path_factory.mktemp("measured"))
    return copied.with_entry(lambda entry: replace(entry, latency=GRID))


@pytest.fixture(scope="session")
def report(measured: Exported) -> LatencyReport:
    return latency.measure(measured.stage, source_dir=measured.source_dir, now=NOW)


def test_every_point_has_figures_that_agree(report: LatencyReport) -> None:
    assert report.status == "measured"
    assert [(row.role, row.batch_size, row.sequence_length) for row in report.rows] == [
        ("model", 1, 8),
        ("model", 2, 8),
    ]
    for row in report.rows:
        assert row.timed_runs == GRID.timed_runs
        assert row.warmup_runs is not None
        assert row.warmup_runs >= GRID.warmup_runs
        assert 0 < row.latency_ms_p50 <= row.latency_ms_p90 <= row.latency_ms_p95 <= row.latency_ms_p99
        assert row.throughput_per_s == pytest.approx(row.batch_size / row.latency_ms_p50 * 1e3)
        assert row.ratio_to_torch == pytest.approx(row.latency_ms_p50 / row.torch_latency_ms_p50)


def test_a_median_has_an_interval_and_a_p95_of_eleven_runs_has_none(report: LatencyReport) -> None:
    assert report.rows
    for row in report.rows:
        assert row.latency_ms_p50_interval is not None
        assert row.latency_ms_p50_interval[0] <= row.latency_ms_p50 <= row.latency_ms_p50_interval[1]
        assert row.torch_latency_ms_p50_interval is not None
        assert row.ratio_to_torch_interval is not None
        assert row.ratio_to_torch_interval[0] <= row.ratio_to_torch_interval[1]
        assert row.latency_ms_p95_interval is None


def test_the_machine_is_judged_and_a_noisy_one_says_so_where_people_read(report: LatencyReport) -> None:
    assert report.noise is not None
    assert report.noise.threads == 1
    assert report.noise.kernel_runs == 2 * 6 * 3, "points, turns, runs of each"
    assert ("noisy" in report.reason) == (report.noise.verdict == "noisy")


def test_a_point_that_is_too_long_is_said_and_not_dropped(report: LatencyReport) -> None:
    assert [(point.batch_size, point.sequence_length, point.reason) for point in report.skipped] == [
        (1, 100, "the model takes 66 tokens at most"),
        (2, 100, "the model takes 66 tokens at most"),
    ]


def test_the_report_says_what_the_figures_depend_on(report: LatencyReport) -> None:
    assert report.threads == 1
    assert report.hardware["cpu_model"]
    assert report.runtime["onnxruntime"] == onnxruntime.__version__
    assert "linear" in report.runtime["percentiles"]
    assert float(report.runtime["load_average_1m"]) >= 0


def test_load_time_and_memory_are_the_graphs_and_not_pytorchs(report: LatencyReport) -> None:
    """A process with torch in it holds 300 MB before it has done anything."""
    assert report.load_time_s is not None
    assert 0 < report.load_time_s < 30
    assert report.peak_memory_bytes is not None
    assert 20 << 20 < report.peak_memory_bytes < 200 << 20


def test_the_footprint_is_taken_without_torch(measured: Exported) -> None:
    request = FootprintRequest(
        stage_dir=measured.stage_dir,
        graphs=measured.stage.read_export().graphs,
        provider="cpu",
        threads=1,
        batch_size=1,
        sequence_length=8,
    )
    code = (
        "import sys; from onnx_fleet import jsonio; from onnx_fleet.measurement import footprint; "
        "footprint.take(jsonio.parse(footprint.FootprintRequest, sys.argv[1])); "
        "sys.exit('torch' in sys.modules)"
    )

    asked = [sys.executable, "-c", code, json.dumps(jsonio.to_json(request))]

    assert subprocess.run(asked, check=False).returncode == 0


def test_the_report_lies_in_the_stage_whole(measured: Exported, report: LatencyReport) -> None:
    written = json.loads((measured.stage_dir / "reports" / "latency.json").read_bytes())

    assert jsonio.from_json(LatencyReport, written) == report
    jsonschema.validate(written, json.loads((ROOT / "docs" / "latency.schema.json").read_text()))
    assert b"forward, ms" in (measured.stage_dir / "reports" / "latency.svg").read_bytes()


def test_a_grid_without_a_point_for_the_model_is_not_run(questions: Exported, tmp_path: Path) -> None:
    grid = LatencyGrid(batch_sizes=(1,), sequence_lengths=(1000,), threads=1)
    stage = questions.copy(tmp_path).with_entry(lambda entry: replace(entry, latency=grid))

    report = latency.measure(stage.stage, source_dir=stage.source_dir, now=NOW)

    assert (report.status, report.rows, len(report.skipped)) == ("not_run", (), 1)
    assert "too long for the model" in report.reason


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_cuda_without_cuda_is_not_run_and_never_the_cpu(questions: Exported, tmp_path: Path) -> None:
    copied = questions.copy(tmp_path)

    report = latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW, provider="cuda")

    assert (report.status, report.rows, report.load_time_s) == ("not_run", (), None)
    assert "requirements-gpu.txt" in report.reason
    assert (copied.stage_dir / "reports" / "latency_cuda.json").is_file()


def test_a_provider_that_runs_nothing_is_not_measured(measured: Exported, tmp_path: Path) -> None:
    """Live, with the second provider that the CPU wheel has."""
    copied = measured.copy(tmp_path)

    report = latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW, provider="azure")

    assert report.status == "not_run"
    assert "asked for AzureExecutionProvider" in report.reason


def test_a_variant_that_does_not_run_on_the_provider_is_left_out_and_fp32_is_not(
    measured: Exported, tmp_path: Path
) -> None:
    """Live, with the second provider that the CPU wheel has."""
    record = measured.stage.read_export()
    bench = Bench(
        stage_dir=measured.stage_dir,
        reference=reference.load(measured.stage.item, source_dir=measured.source_dir),
        provider="azure",
        threads=1,
        grid=GRID,
        meter=NoiseMeter(threads=1),
    )

    placed, left_out = bench.placed(tuple(replace(info, variant="int8") for info in record.graphs))

    assert placed == ()
    assert [each.variant for each in left_out] == ["int8"]
    assert "ran elsewhere" in left_out[0].reason
    with pytest.raises(GpuUnavailable):
        bench.placed(record.graphs)


def test_bound_inputs_and_outputs_are_timed_on_both_sides_and_said(measured: Exported, tmp_path: Path) -> None:
    copied = measured.copy(tmp_path).with_entry(lambda entry: replace(entry, latency=replace(GRID, io_binding=True)))

    report = latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW)

    assert report.io_binding
    assert len(report.rows) == 2
    assert "outputs left where the graph computes" in report.runtime["clock"]
    assert all(row.torch_latency_ms_p50 > 0 for row in report.rows)


def test_variants_are_timed_in_the_same_turns_and_loaded_apart(measured: Exported, tmp_path: Path) -> None:
    """The second variant is the same graph under its own name: what is tested is how it is taken, not how fast."""
    copied = measured.copy(tmp_path)
    record = copied.stage.read_export()
    (graph,) = record.graphs
    shutil.copy(copied.graph, copied.stage_dir / "onnx" / "model_fp16.onnx")
    second = replace(graph, variant="fp16", path="onnx/model_fp16.onnx")
    copied.stage.write_export(replace(record, graphs=(graph, second)))

    report = latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW)

    assert [(row.batch_size, row.variant) for row in report.rows] == [
        (1, "fp32"),
        (1, "fp16"),
        (2, "fp32"),
        (2, "fp16"),
    ]
    for one, other in ((report.rows[0], report.rows[1]), (report.rows[2], report.rows[3])):
        assert one.torch_latency_ms_p50 == other.torch_latency_ms_p50, "timed once, beside both"
    assert [each.variant for each in report.footprints] == ["fp32", "fp16"]
    assert (report.load_time_s, report.peak_memory_bytes) == (
        report.footprints[0].load_time_s,
        report.footprints[0].peak_memory_bytes,
    )


def test_a_point_has_an_equal_part_of_the_time_that_those_before_it_have_left(
    measured: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = measured.copy(tmp_path).with_entry(lambda entry: replace(entry, latency=replace(GRID, budget_s=600)))
    allowed_s: list[float] = []
    take_turns = benchmark.take_turns

    def noted(*calls: Callable[[], object], budget_s: float, **settings: Any) -> tuple[Timed, ...]:
        allowed_s.append(budget_s)
        return take_turns(*calls, budget_s=budget_s, **settings)

    monkeypatch.setattr(benchmark, "take_turns", noted)
    latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW, point_budget_s=1000)

    first, second = allowed_s
    assert first == 300
    assert 480 < second < 600


def test_a_variant_of_which_nothing_is_known_is_measured_and_the_others_are_taken_over(
    measured: Exported, report: LatencyReport, tmp_path: Path
) -> None:
    """Alone beside PyTorch; the second variant is the same graph under its own name."""
    copied = measured.copy(tmp_path)
    record = copied.stage.read_export()
    (graph,) = record.graphs
    shutil.copy(copied.graph, copied.stage_dir / "onnx" / "model_fp16.onnx")
    second = replace(graph, variant="fp16", path="onnx/model_fp16.onnx")
    copied.stage.write_export(replace(record, graphs=(graph, second)))
    kept = tuple(map(confirmed_by_any_call, reuse.to_keep(report, keys={"fp32": "a" * 64})))

    both = latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW, kept=kept)

    assert [(row.batch_size, row.variant) for row in both.rows] == [
        (1, "fp32"), (1, "fp16"), (2, "fp32"), (2, "fp16"),
    ]  # fmt: skip
    assert both.rows[::2] == kept[0].rows
    assert [each.variant for each in both.taken_over] == ["fp32"]
    assert [each.variant for each in both.footprints] == ["fp32", "fp16"]
    assert both.skipped == report.skipped
    assert both.noise is not None
    assert both.noise.kernel_runs == 2 * 6 * 3, "that of its own measurement"
    own = tuple(reuse.to_keep(both, keys={"fp32": "a" * 64, "fp16": "b" * 64}))
    assert [(each.variant, each.rows) for each in own] == [("fp16", both.rows[1::2])]


def test_the_graphs_of_one_role_are_in_memory_at_a_time(
    t5: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = t5.copy(tmp_path)
    grid = LatencyGrid(batch_sizes=(1,), sequence_lengths=(4,), warmup_runs=1, timed_runs=2, threads=1)
    copied.with_entry(lambda entry: replace(entry, latency=grid))
    sessions = OpenSessions(benchmark, monkeypatch)
    report = latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW)

    assert len(sessions.opened) == len({row.role for row in report.rows}) == 2
    assert sessions.most == 1
