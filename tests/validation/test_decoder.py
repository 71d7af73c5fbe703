"""A decoder's one graph is prompt and step; what it takes and gives, and what its proof says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks import generate
from fixtures.exported import Exported, export_from_zoo
from fixtures.kept_latency import confirmed_by_any_call
from fixtures.stages import NOW
from mutations import decoder
from mutations.mutation import change_graph
from onnx_fleet.entities.entry import LatencyGrid
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs import generation
from onnx_fleet.graphs.session import open_session
from onnx_fleet.measurement import latency, reuse
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CHECKS


def validate(exported: Exported) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir)


def test_a_sound_decoder_passes_every_check(gpt2: Exported, qwen3: Exported) -> None:
    for exported in (gpt2, qwen3):
        report = validate(exported)

        assert report.status == "passed", report.reason
        wanted = {check.name for check in CHECKS["decoder"]} - {"recipe_cases"}
        assert {row.check for row in report.rows} == wanted
        told = {row.case: row.finding for row in report.rows if row.check == "sensitivity"}
        # Rotary positions are relative: a row that is shifted as a whole gives the same.
        relative = {"positions counted from the left edge"} if exported is qwen3 else set()
        assert {case for case, finding in told.items() if finding == "insensitive"} == relative


def test_the_cache_goes_in_and_out_by_the_contracts_names(qwen3: Exported) -> None:
    (info,) = qwen3.stage.read_export().graphs
    shapes = {spec.name: spec.shape for spec in (*info.inputs, *info.outputs)}

    assert [spec.name for spec in info.inputs][:3] == ["input_ids", "attention_mask", "position_ids"]
    assert shapes["attention_mask"] == ("batch_size", "total_sequence_length")
    assert shapes["past_key_values.0.key"] == ("batch_size", 2, "past_sequence_length", "head_size")
    assert shapes["present.1.value"][:3] == ("batch_size", 2, "total_sequence_length")
    assert isinstance(shapes["present.1.value"][3], int)
    past = [spec.name.removeprefix("past_key_values.") for spec in info.inputs[3:]]
    assert past == [spec.name.removeprefix("present.") for spec in info.outputs[1:]]


def test_every_weight_is_there_once_under_the_checkpoints_name(gpt2: Exported) -> None:
    """The output layer is the embedding table: one tensor, by the name that the checkpoint has for it."""
    weights = {tensor.name: tensor for tensor in onnx.load(gpt2.graph).graph.initializer}
    large = [name for name, tensor in weights.items() if np.prod(tensor.dims) * 4 >= 1024]

    assert "transformer.wte.weight" in large
    assert "lm_head.weight" not in weights
    assert all(name.startswith("transformer.") for name in large)
    bodies = [numpy_helper.to_array(weights[name]).tobytes() for name in large]
    assert len(set(bodies)) == len(bodies)


def test_a_row_that_has_ended_is_padded(gpt2: Exported) -> None:
    session = open_session(gpt2.graph, threads=1)
    prompt = np.array([[5, 6, 7], [8, 9, 10]])
    mask = np.ones_like(prompt)
    call = generation.behind(session, attention_mask=mask)
    free = generation.greedy(call, prompt, max_new_tokens=6)
    end = int(free[0, 2])

    stopped = generation.greedy(call, prompt, max_new_tokens=6, eos_token_ids=[end], pad_token_id=99)

    assert stopped[0, : 1 + list(free[0]).index(end)].tolist() == free[0, : 1 + list(free[0]).index(end)].tolist()
    assert set(stopped[0, 1 + list(free[0]).index(end) :].tolist()) <= {99}


def test_a_model_that_keeps_no_keys_and_values_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ExportUnsupported, match="MambaForCausalLM keeps something else than keys and values"):
        export_from_zoo("MambaForCausalLM", tmp_path)


def test_a_model_that_keeps_more_than_keys_and_values_is_refused_by_the_name_of_it(tmp_path: Path) -> None:
    with pytest.raises(ExportUnsupported, match="DeepseekV32ForCausalLM keeps indexer_keys beside keys and values"):
        export_from_zoo("DeepseekV32ForCausalLM", tmp_path)


def test_full_prompts_hide_a_lost_mask(gpt2: Exported, tmp_path: Path) -> None:
    """Why batches are padded: without padding the broken graph is equal to PyTorch."""
    broken = gpt2.copy(tmp_path)
    change_graph(broken.graph, decoder.mask_ignored)

    report = validate(broken)

    full = [row for row in report.rows if row.check in ("prompt", "cache") and "padded left" not in row.case]
    assert {row.check for row in full} == {"prompt", "cache"}
    assert all(row.passed for row in full)


def test_prompt_and_step_are_timed_beside_pytorch(gpt2: Exported, tmp_path: Path) -> None:
    grid = LatencyGrid(batch_sizes=(1, 2), sequence_lengths=(8,), warmup_runs=1, timed_runs=5, threads=1)
    timed = gpt2.copy(tmp_path).with_entry(lambda entry: replace(entry, latency=grid))

    report = latency.measure(timed.stage, source_dir=timed.source_dir, now=NOW)

    assert report.status == "measured", report.reason
    assert [(row.phase, row.batch_size) for row in report.rows] == [
        ("prompt", 1), ("step", 1), ("prompt", 2), ("step", 2),
    ]  # fmt: skip
    assert all(row.torch_latency_ms_p50 > 0 for row in report.rows)
    for row, prompt, step in zip(report.generation, report.rows[::2], report.rows[1::2], strict=True):
        assert row.first_token_ms_p50 == prompt.latency_ms_p50
        assert row.tokens_per_s == pytest.approx(row.batch_size * 1e3 / step.latency_ms_p50)
        assert row.torch_tokens_per_s == pytest.approx(row.batch_size * 1e3 / step.torch_latency_ms_p50)

    kept = tuple(map(confirmed_by_any_call, reuse.to_keep(report, keys={"fp32": "a" * 64})))
    again = latency.measure(timed.stage, source_dir=timed.source_dir, now=NOW, kept=kept)

    (taken,) = again.taken_over
    assert (again.rows, again.generation) == (kept[0].rows, report.generation)
    assert [(call.phase, call.batch_size) for call in taken.confirmations] == [
        ("prompt", 1), ("prompt", 2), ("step", 1), ("step", 2),
    ]  # fmt: skip


def test_the_loop_of_the_benchmarks_makes_the_tokens_that_ours_makes(gpt2: Exported) -> None:
    folder = gpt2.stage_dir / "onnx"
    prompt = np.array([[9, 12, 30, 7, 21]], dtype=np.int64)
    session = open_session(folder / "model.onnx", threads=1)
    call = generation.behind(session, attention_mask=np.ones_like(prompt))
    expected = generation.greedy(call, prompt, max_new_tokens=6)

    one = generate.open_bundle(folder, threads=1)
    assert one.generate(prompt, start_id=0, new_tokens=6) == expected[0].tolist()

    run = generate.Pair(ours=one, peer=one, start_id=0, vocabulary=60).turn("a", 1, prompt_tokens=4, new_tokens=5)
    assert (run.agreeing_tokens, run.new_tokens) == (5, 5)
    assert run.ours_tokens_per_s > 0
