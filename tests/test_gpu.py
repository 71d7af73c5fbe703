"""On a GPU: graphs and variants are right there, run there, and what is in the way is said (`make test-gpu`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.exported import Exported, export_from_zoo
from fixtures.stages import NOW
from fixtures.varied import LOOSE, vary, wanting
from onnx_fleet.entities.entry import LatencyGrid
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.variant_report import VariantReport, VariantVerdict
from onnx_fleet.errors import GpuUnavailable, WorkerOutOfResources
from onnx_fleet.graphs import workloads
from onnx_fleet.graphs.session import open_session
from onnx_fleet.measurement import footprint, latency
from onnx_fleet.measurement.footprint import FootprintRequest
from onnx_fleet.processes import gpu, isolation
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.validation import validator
from onnx_fleet.variants import evaluation
from onnx_fleet.variants.evaluation import JudgingRequest

pytestmark = pytest.mark.gpu

CUDA = "CUDAExecutionProvider"
GRID = LatencyGrid(batch_sizes=(1, 4), sequence_lengths=(8, 32), warmup_runs=2, timed_runs=20)
FAMILIES = ("questions", "embeddings", "gpt2", "qwen3", "bart", "convolutions", "patches", "boxes", "pairs", "plain")


@pytest.fixture(params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Exported:
    """Each family's graphs."""
    found: Exported = request.getfixturevalue(request.param)
    return found.copy(tmp_path)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A Llama in every precision, good on the CPU."""
    exported = export_from_zoo("LlamaForCausalLM", tmp_path_factory.mktemp("varied"), latency=GRID)
    made = vary(exported, wanting("fp16", "int8", "q4", gates=LOOSE))
    assert [verdict.status for verdict in made.judge().verdicts] == ["published"] * 3
    return exported


@pytest.fixture(scope="module")
def judged(varied: Exported) -> VariantReport:
    return evaluation.judge(JudgingRequest(stage=varied.stage, provider="cuda"))


@pytest.fixture(scope="module")
def measured(varied: Exported, judged: VariantReport) -> LatencyReport:
    return latency.measure(varied.stage, source_dir=varied.source_dir, now=NOW, provider="cuda")


def test_what_is_right_on_the_cpu_is_right_on_the_gpu_and_ran_there(exported: Exported) -> None:
    report = validator.validate(exported.stage, source_dir=exported.source_dir, provider="cuda")

    assert report.passed, report.reason
    assert report.nodes_by_provider[CUDA] > 0
    assert (exported.stage_dir / "reports" / "validation_cuda.json").is_file()


def test_a_wrong_graph_is_caught_on_the_gpu_too(questions: Exported, tmp_path: Path) -> None:
    broken = questions.copy(tmp_path)
    model = onnx.load(broken.graph)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("query.weight"))
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weight).T), weight.name))
    onnx.save(model, broken.graph)

    report = validator.validate(broken.stage, source_dir=broken.source_dir, provider="cuda")

    assert report.status == "failed"
    assert "parity" in {row.check for row in report.rows if not row.passed}


def test_variants_are_held_to_the_graphs_on_the_gpu(judged: VariantReport) -> None:
    verdicts = {verdict.variant: verdict for verdict in judged.verdicts}

    assert judged.provider == "cuda"
    assert verdicts["fp16"].status == "published", verdicts["fp16"].reason
    assert {measure.name for measure in verdicts["fp16"].graphs[0].measures} >= {"finite", "cosine", "top1"}


def test_a_variant_whose_operators_cuda_does_not_have_stays_and_is_said(
    varied: Exported, judged: VariantReport
) -> None:
    elsewhere = _not_run(judged)

    for verdict in elsewhere:
        assert "ran elsewhere" in verdict.reason
        assert not verdict.graphs
    assert {verdict.variant for verdict in elsewhere} < {"int8", "q4"}
    assert "int8" in {info.variant for info in varied.stage.read_export().graphs}


def test_half_precision_that_overflows_is_caught_where_it_is_computed_in_half(varied: Exported, tmp_path: Path) -> None:
    copied = varied.copy(tmp_path)
    path = copied.stage_dir / "onnx" / "model_fp16.onnx"
    model = onnx.load(path)
    weight = next(
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT16 and "down_proj" in tensor.name
    )
    large = numpy_helper.to_array(weight).astype(np.float32)
    large *= 6e4 / np.abs(large).max()
    weight.CopyFrom(numpy_helper.from_array(large.astype(np.float16), weight.name))
    onnx.save(model, path)

    report = evaluation.judge(JudgingRequest(stage=copied.stage, provider="cuda"))

    (verdict,) = (verdict for verdict in report.verdicts if verdict.variant == "fp16")
    assert verdict.status == "missed"
    assert "fp16" not in {info.variant for info in copied.stage.read_export().graphs}


def test_latency_is_of_the_gpu_and_says_which(measured: LatencyReport, judged: VariantReport) -> None:
    assert measured.status == "measured"
    assert {row.variant for row in measured.rows} == {"fp32", "fp16", "int8", "q4"} - {
        verdict.variant for verdict in _not_run(judged)
    }
    assert {each.variant for each in measured.left_out} == {verdict.variant for verdict in _not_run(judged)}
    assert {row.phase for row in measured.rows} == {"prompt", "step"}
    assert measured.hardware["gpu_model"] != "unknown"
    assert {row.tokens_per_s > 0 for row in measured.generation} == {True}


def test_a_process_without_torch_finds_the_gpus_libraries_and_tells_its_memory(measured: LatencyReport) -> None:
    assert measured.footprints
    for each in measured.footprints:
        assert each.gpu_memory_bytes is not None
        assert each.gpu_memory_bytes > 50 << 20  # a CUDA context alone takes more


def test_bound_inputs_and_outputs_give_what_arrays_give(varied: Exported) -> None:
    (info,) = (each for each in varied.stage.read_export().graphs if each.variant == "fp32")
    session = open_session(varied.graph, provider="cuda")
    feeds = workloads.shortest(info).feeds(info, seed=1)

    session.bind(feeds)()

    copied = varied.with_entry(lambda entry: replace(entry, latency=replace(GRID, io_binding=True)))
    report = latency.measure(copied.stage, source_dir=copied.source_dir, now=NOW, provider="cuda")
    copied.with_entry(lambda entry: replace(entry, latency=GRID))
    assert report.io_binding
    assert report.status == "measured"


def test_a_gpu_that_is_not_there_is_no_gpu(questions: Exported) -> None:
    with pytest.raises(GpuUnavailable):
        open_session(questions.graph, provider="cuda", gpu=GpuOptions(device_id=99))


def test_a_memory_limit_holds(questions: Exported) -> None:
    with pytest.raises(WorkerOutOfResources, match="raise its limit"):
        _run_large(questions, GpuOptions(memory_bytes=8 << 20))
    _run_large(questions, GpuOptions(memory_bytes=4 << 30))


def test_the_driver_says_what_the_gpu_is() -> None:
    facts = gpu.facts(0)

    assert facts["gpu_model"] != "unknown"
    assert int(facts["gpu_memory_bytes"]) > 1 << 30
    assert facts["gpu_driver"]
    assert gpu.memory_used_bytes(0)


def test_an_isolated_process_uses_the_gpu_that_it_is_told(questions: Exported, tmp_path: Path) -> None:
    request = FootprintRequest(
        stage_dir=questions.stage_dir,
        graphs=questions.stage.read_export().graphs,
        provider="cuda",
        threads=1,
        batch_size=1,
        sequence_length=8,
        gpu=GpuOptions(device_id=99),
    )
    with pytest.raises(GpuUnavailable):
        isolation.run(footprint.take, request, limits=Limits(timeout_s=120), log=tmp_path / "log")


def _not_run(report: VariantReport) -> list[VariantVerdict]:
    return [verdict for verdict in report.verdicts if verdict.status == "not_run"]


def _run_large(exported: Exported, options: GpuOptions) -> None:
    session = open_session(exported.graph, provider="cuda", gpu=options)
    shape = (64, 64)
    feeds = {spec.name: np.ones(shape, dtype=np.int64) for spec in session.inputs}
    session.run(feeds)
