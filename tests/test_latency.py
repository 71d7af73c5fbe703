"""Figures that an expert would sign: how they were taken is tested, not how large they are."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from fixtures.exported import Exported
from onnx_fleet import jsonio, latency, stage
from onnx_fleet.entry import LatencyGrid
from onnx_fleet.footprint import FootprintRequest
from onnx_fleet.latency import LatencyReport, time_interleaved

GRID = LatencyGrid(batch_sizes=(1, 2), sequence_lengths=(8, 100), warmup_runs=2, timed_runs=11, threads=1)
"""The model takes 66 tokens."""


@pytest.fixture(scope="session")
def measured(questions: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    copied = questions.copy(tmp_path_factory.mktemp("measured"))
    return copied.with_entry(lambda entry: replace(entry, latency=GRID))


@pytest.fixture(scope="session")
def report(measured: Exported) -> LatencyReport:
    return latency.measure(measured.stage_dir, source_dir=measured.source_dir)


def test_every_point_has_figures_that_agree(report: LatencyReport) -> None:
    assert report.status == "measured"
    assert [(row.batch_size, row.sequence_length) for row in report.rows] == [(1, 8), (2, 8)]
    for row in report.rows:
        assert row.timed_runs == GRID.timed_runs
        assert 0 < row.latency_ms_p50 <= row.latency_ms_p90 <= row.latency_ms_p95 <= row.latency_ms_p99
        assert row.throughput_per_s == pytest.approx(row.batch_size / row.latency_ms_p50 * 1e3)
        assert row.ratio_to_torch == pytest.approx(row.latency_ms_p50 / row.torch_latency_ms_p50)


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
        graphs=stage.read_export(measured.stage_dir).graphs,
        provider="cpu",
        threads=1,
        batch_size=1,
        sequence_length=8,
    )
    code = (
        "import json, sys; from onnx_fleet import footprint, jsonio; "
        "footprint.take(jsonio.from_json(footprint.FootprintRequest, json.loads(sys.argv[1]))); "
        "sys.exit('torch' in sys.modules)"
    )

    asked = [sys.executable, "-c", code, json.dumps(jsonio.to_json(request))]

    assert subprocess.run(asked, check=False).returncode == 0


def test_the_report_lies_in_the_stage_whole(measured: Exported, report: LatencyReport) -> None:
    written = json.loads((measured.stage_dir / "reports" / "latency.json").read_bytes())

    assert jsonio.from_json(LatencyReport, written) == report


def test_a_grid_without_a_point_for_the_model_is_not_run(questions: Exported, tmp_path: Path) -> None:
    grid = LatencyGrid(batch_sizes=(1,), sequence_lengths=(1000,), threads=1)
    stage = questions.copy(tmp_path).with_entry(lambda entry: replace(entry, latency=grid))

    report = latency.measure(stage.stage_dir, source_dir=stage.source_dir)

    assert (report.status, report.rows, len(report.skipped)) == ("not_run", (), 1)
    assert "too long for the model" in report.reason


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_cuda_without_cuda_is_not_run_and_never_the_cpu(questions: Exported, tmp_path: Path) -> None:
    copied = questions.copy(tmp_path)

    report = latency.measure(copied.stage_dir, source_dir=copied.source_dir, provider="cuda")

    assert (report.status, report.rows, report.load_time_s) == ("not_run", (), None)
    assert "requirements-gpu.txt" in report.reason
    assert (copied.stage_dir / "reports" / "latency_cuda.json").is_file()


def test_a_provider_that_runs_nothing_is_not_measured(measured: Exported, tmp_path: Path) -> None:
    """Live, with the second provider that the CPU wheel has."""
    copied = measured.copy(tmp_path)

    report = latency.measure(copied.stage_dir, source_dir=copied.source_dir, provider="azure")

    assert report.status == "not_run"
    assert "asked for AzureExecutionProvider" in report.reason


def test_both_sides_take_turns_and_the_first_run_of_a_turn_is_not_counted() -> None:
    calls: list[str] = []

    ours, theirs = time_interleaved(lambda: calls.append("a"), lambda: calls.append("b"), warmup_runs=3, timed_runs=10)

    assert len(ours) == len(theirs) == 10
    assert "".join(calls) == "aaabbb" + "aaabbb" * 5


def test_a_slow_point_takes_fewer_runs_than_asked_for() -> None:
    ours, theirs = time_interleaved(lambda: None, lambda: None, warmup_runs=3, timed_runs=1000, budget_s=0.0)

    assert len(ours) == len(theirs) == 5


def test_garbage_is_not_collected_while_the_clock_runs() -> None:
    states: list[bool] = []

    time_interleaved(lambda: states.append(gc.isenabled()), lambda: None, warmup_runs=1, timed_runs=5)

    assert states == [True] + [False] * 10
    assert gc.isenabled()
