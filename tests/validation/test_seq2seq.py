"""Encoder-decoders: what their graphs look like, that sound ones pass, and that each way to break one has its check."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from benchmarks import generate
from fixtures.exported import Exported, export_from_zoo
from fixtures.items import work_item
from fixtures.kept_latency import confirmed_by_any_call
from fixtures.stages import NOW
from mutations.mutation import change_graph
from mutations.seq2seq import likeliest_tokens_shifted
from mutations.surgery import as_ones, read_instead
from onnx_fleet.entities.entry import DECODER_FORMS, LatencyGrid, Tolerances
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs import generation_seq2seq as generation
from onnx_fleet.graphs import session
from onnx_fleet.graphs.generation import greedy
from onnx_fleet.measurement import latency, reuse
from onnx_fleet.source import checkpoint
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CHECKS
from zoo import ARCHITECTURES
from zoo.repo import save

pytestmark = pytest.mark.timeout(900)  # two graphs with two caches to trace

BART, T5 = "BartForConditionalGeneration", "T5ForConditionalGeneration"
LAYERS = 2


def validate(exported: Exported) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir)


def failed(report: ValidationReport) -> set[str]:
    return {row.check for row in report.rows if not row.passed}


def rows_of(report: ValidationReport, check: str) -> list[CheckRow]:
    return [row for row in report.rows if row.check == check]


@pytest.fixture(scope="session")
def bart_report(bart: Exported) -> ValidationReport:
    return validate(bart)


def test_a_sound_bundle_passes_every_check(bart_report: ValidationReport) -> None:
    assert bart_report.status == "passed", bart_report.reason
    assert {row.check for row in bart_report.rows} == {check.name for check in CHECKS["seq2seq"]} - {
        "recipe_cases",
        "target_padding",
    }
    assert bart_report.worst_abs_diff is not None
    assert bart_report.worst_abs_diff < 1e-5
    assert {row.finding for row in bart_report.rows} == {"equal", "sensitive", "skipped"}
    (skipped,) = (row for row in bart_report.rows if row.finding == "skipped")
    assert skipped.check == "padding", "BART counts positions from the left edge, so that padding there moves them"
    assert skipped.case == "sources of 17, 9, 1, padded left, seed 20: each row as that row alone"


def test_the_graphs_have_the_names_and_axes_that_consumers_feed(bart: Exported) -> None:
    encoder, decoder = bart.stage.read_export().graphs
    kinds = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("decoder", "encoder")]
    cached = [f"{kind}.{name}" for kind in kinds for name in ("key", "value")]

    assert [spec.name for spec in encoder.inputs] == ["input_ids", "attention_mask"]
    assert [spec.name for spec in encoder.outputs] == ["last_hidden_state"]
    assert [spec.name for spec in decoder.inputs] == [
        "input_ids", "encoder_hidden_states", "encoder_attention_mask", *(f"past_key_values.{name}" for name in cached)
    ]  # fmt: skip
    assert [spec.name for spec in decoder.outputs] == ["logits", *(f"present.{name}" for name in cached)]
    shapes = {spec.name: spec.shape for spec in (*decoder.inputs, *decoder.outputs)}
    assert shapes["past_key_values.1.decoder.key"] == ("batch_size", 4, "past_sequence_length", "head_size")
    assert shapes["past_key_values.1.encoder.value"] == ("batch_size", 4, "past_encoder_sequence_length", "head_size")
    assert shapes["present.1.decoder.key"] == ("batch_size", 4, "total_sequence_length", 8)
    assert shapes["present.1.encoder.value"] == ("batch_size", 4, "encoder_sequence_length", 8)


def test_every_weight_is_in_the_bundle_once(bart: Exported) -> None:
    encoder, decoder = bart.stage.read_export().graphs
    data, source = bart.stage_dir / "onnx" / "encoder_model.onnx_data", bart.source_dir / "model.safetensors"

    assert encoder.weight_files == decoder.weight_files == ("onnx/encoder_model.onnx_data",)
    assert data.stat().st_size <= source.stat().st_size
    names = {
        tensor.name
        for info in (encoder, decoder)
        for tensor in onnx.load(bart.stage_dir / info.path, load_external_data=False).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    assert names <= set(checkpoint.read(bart.source_dir))


def test_no_graph_has_a_branch(bart: Exported) -> None:
    for info in bart.stage.read_export().graphs:
        model = onnx.load(bart.stage_dir / info.path, load_external_data=False)
        kinds = {node.op_type for node in model.graph.node}
        assert "MatMul" in kinds
        assert "If" not in kinds


def test_other_tokens_pass_only_where_pytorch_finds_them_as_likely(bart: Exported, tmp_path: Path) -> None:
    broken = bart.copy(tmp_path)
    change_graph(broken.stage_dir / "onnx" / "decoder_model_merged.onnx", likeliest_tokens_shifted)
    strict = [row for row in rows_of(validate(broken), "greedy") if row.output == "tokens"]
    wide = broken.with_entry(lambda entry: replace(entry, tolerances=Tolerances(atol=1e3, rtol=0.0)))

    lenient = [row for row in rows_of(validate(wide), "greedy") if row.output == "tokens"]

    assert {(row.finding, row.passed) for row in strict} == {("different", False)}
    assert {(row.finding, row.passed) for row in lenient} == {("near_tie", True)}
    assert all("PyTorch's logits of the two differ by" in row.detail for row in (*strict, *lenient))


@pytest.mark.parametrize("num_beams", [2, 3])
@pytest.mark.parametrize("length_penalty", [0.3, 1.0, 2.0])
def test_beam_search_ends_texts_as_transformers_does(bart: Exported, num_beams: int, length_penalty: float) -> None:
    import torch
    from transformers import BartForConditionalGeneration

    model: Any = BartForConditionalGeneration.from_pretrained(bart.source_dir, attn_implementation="eager")
    rng = np.random.default_rng(3)
    mask = np.array([[1] * 9, [1] * 5 + [0] * 4])
    feeds = {"input_ids": np.where(mask, rng.integers(8, 120, mask.shape), 1), "attention_mask": mask}
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    plain = {"forced_bos_token_id": None, "forced_eos_token_id": None, "do_sample": False, "max_new_tokens": 16}
    common = model.generate(**tensors, **{**plain, "num_beams": 1, "eos_token_id": None})[:, 1:].unique()
    ends = [int(token) for token in common[:4]]  # tokens that it likes, so that texts do end
    model.generation_config.forced_bos_token_id = model.generation_config.forced_eos_token_id = None
    wanted = model.generate(
        **tensors, **{**plain, "num_beams": num_beams, "eos_token_id": ends, "length_penalty": length_penalty}
    )[:, 1:].numpy()
    sessions = {
        role: session.open_session(bart.stage_dir / "onnx" / f"{role}.onnx", threads=1)
        for role in ("encoder_model", "decoder_model_merged")
    }

    encoded = generation.encode(sessions["encoder_model"], feeds).rows(np.repeat([0, 1], num_beams))

    found = generation.beams(
        partial(generation.step, sessions["decoder_model_merged"], encoded=encoded),
        np.full((2, 1), 2),
        num_beams=num_beams,
        max_new_tokens=16,
        eos_token_ids=ends,
        length_penalty=length_penalty,
    )

    texts = [[generation.until_end(row, ends) for row in rows] for rows in (wanted, found)]
    assert texts[0] == texts[1]
    assert min(map(len, texts[0])) < 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a form's bundle looks like, and a mask whose loss has to be seen."""

    roles: tuple[str, ...]
    absent: frozenset[str]
    """Checks of what the form does not have."""
    mask: str
    caught_by: str


FORMS = {
    "merged": Form(
        roles=("encoder_model", "decoder_model_merged"),
        absent=frozenset({"target_padding"}),
        mask="encoder_attention_mask",
        caught_by="padding",
    ),
    "without-past": Form(
        roles=("encoder_model", "decoder_model"),
        absent=frozenset({"target_padding", "cache"}),
        mask="encoder_attention_mask",
        caught_by="padding",
    ),
    "plain": Form(
        roles=("model",), absent=frozenset({"cache"}), mask="decoder_attention_mask", caught_by="target_padding"
    ),
}


@pytest.fixture(scope="session", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def formed(form: str, t5: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A T5 in each form."""
    folder = tmp_path_factory.mktemp(form)
    made = t5.copy(folder) if form == "merged" else export_from_zoo(T5, folder, decoder_form=form)
    grid = LatencyGrid(batch_sizes=(2,), sequence_lengths=(7,), warmup_runs=1, timed_runs=5, threads=1)
    return made.with_entry(lambda entry: replace(entry, latency=grid))


def test_a_bundle_of_any_form_passes_every_check_of_what_it_has(form: str, formed: Exported) -> None:
    report = validate(formed)

    assert report.status == "passed", report.reason
    assert tuple(info.role for info in formed.stage.read_export().graphs) == FORMS[form].roles
    assert {row.check for row in report.rows} == {check.name for check in CHECKS["seq2seq"]} - {
        "recipe_cases", *FORMS[form].absent
    }  # fmt: skip
    assert {row.finding for row in report.rows} == {"equal", "sensitive"}


def test_a_bundle_of_any_form_is_measured(formed: Exported) -> None:
    report = latency.measure(formed.stage, source_dir=formed.source_dir, now=NOW)

    assert {row.graph for row in report.rows} == {info.path for info in formed.stage.read_export().graphs}
    phases = {row.phase: row for row in report.rows}
    assert len(report.generation) == ("step" in phases), "what has no cache has no steps"
    for row in report.generation:
        assert row.first_token_ms_p50 >= max(phases["encode"].latency_ms_p50, phases["prompt"].latency_ms_p50)
        assert row.tokens_per_s == pytest.approx(row.batch_size * 1e3 / phases["step"].latency_ms_p50)

    kept = tuple(map(confirmed_by_any_call, reuse.to_keep(report, keys={"fp32": "a" * 64})))
    again = latency.measure(formed.stage, source_dir=formed.source_dir, now=NOW, kept=kept)

    (taken,) = again.taken_over
    assert (again.rows, again.generation) == (kept[0].rows, report.generation)
    assert {(call.graph, call.phase) for call in taken.confirmations} == {(row.graph, row.phase) for row in report.rows}


def test_a_lost_mask_is_caught_in_any_form(form: str, formed: Exported, tmp_path: Path) -> None:
    broken = formed.copy(tmp_path)
    change_graph(formed_graph(broken, form), partial(mask_dropped, name=FORMS[form].mask))

    report = validate(broken)

    assert FORMS[form].caught_by in failed(report)
    assert "parity" not in failed(report)


def test_other_tokens_are_caught_in_any_form(form: str, formed: Exported, tmp_path: Path) -> None:
    broken = formed.copy(tmp_path)
    change_graph(formed_graph(broken, form), likeliest_tokens_shifted)

    assert {"parity", "greedy"} <= failed(validate(broken))


def test_a_catalogue_may_name_every_form_and_the_record_says_which(form: str, formed: Exported) -> None:
    from onnx_fleet.source.families import seq2seq

    assert tuple(seq2seq.FORMS) == DECODER_FORMS
    assert formed.stage.read_export().settings.get("decoder_form", "merged") == form


def test_what_a_decoder_of_sound_takes_is_what_its_consumers_have(tmp_path: Path) -> None:
    taken = {name: decoder_inputs(name, tmp_path) for name in ("Whisper", "Speech2Text", "Moonshine")}

    assert "encoder_attention_mask" not in taken["Whisper"]
    assert taken["Speech2Text"]["encoder_attention_mask"] == ("batch_size", "num_frames")
    assert taken["Moonshine"]["encoder_attention_mask"] == ("batch_size", "num_samples")


def formed_graph(exported: Exported, form: str) -> Path:
    """The one that decodes."""
    return exported.stage_dir / "onnx" / f"{FORMS[form].roles[-1]}.onnx"


def mask_dropped(model: ModelProto, *, name: str) -> None:
    read_instead(model, name, as_ones(name))


def decoder_inputs(name: str, folder: Path) -> dict[str, tuple[str | int | None, ...]]:
    """The decoder's inputs of a speech model, without tracing it."""
    from onnx_fleet.source.families import speech

    (architecture,) = (row for row in ARCHITECTURES if row.name == f"{name}ForConditionalGeneration")
    source_dir = folder / "zoo" / name
    save(architecture, source_dir)
    item = work_item(source_dir, task=architecture.task)
    _, decoder = speech.FAMILY.graphs(item, speech.FAMILY.load(item, source_dir, None))
    return dict(decoder.inputs)


def test_a_model_whose_own_code_fails_is_refused_by_the_line_that_does(tmp_path: Path) -> None:
    """It is no crash, which would be tried again."""
    said = (
        r"does not run as models of summarization are run here \(ValueError: `use_cache` .*; at modeling_\w+\.py, line"
    )
    with pytest.raises(ExportUnsupported, match=said):
        export_from_zoo("SwitchTransformersForConditionalGeneration", tmp_path)


def test_the_loop_of_the_benchmarks_makes_the_tokens_that_ours_makes(bart: Exported) -> None:
    folder = bart.stage_dir / "onnx"
    encoder, decoder = (
        session.open_session(folder / f"{role}.onnx", threads=1) for role in ("encoder_model", "decoder_model_merged")
    )
    prompt, start = np.array([[9, 12, 30, 7, 21]], dtype=np.int64), np.array([[2]], dtype=np.int64)
    encoded = generation.encode(encoder, {"input_ids": prompt, "attention_mask": np.ones_like(prompt)})
    expected = greedy(partial(generation.step, decoder, encoded=encoded), start, max_new_tokens=6)

    one = generate.open_bundle(folder, threads=1)
    assert one.generate(prompt, start_id=2, new_tokens=6) == expected[0].tolist()
