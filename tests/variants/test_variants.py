"""Variants: made from proven graphs, held to them, and left out of the bundle where they are not good enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fixtures.exported import Exported
from fixtures.varied import LOOSE, Varied, vary, wanting
from onnx_fleet.bundles import report_summaries
from onnx_fleet.bundles.manifest import VariantSummary
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities import variant_report
from onnx_fleet.entities.variant import VARIANTS
from onnx_fleet.entities.variant_report import VariantReport
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import recorded_feeds, session
from onnx_fleet.store import keys
from onnx_fleet.variants import conversion, evaluation
from onnx_fleet.variants.conversion import MakingRequest
from onnx_fleet.variants.evaluation import JudgingRequest


@pytest.fixture
def encoder(varied_encoder: Varied) -> Varied:
    return varied_encoder


@pytest.fixture
def decoder(varied_decoder: Varied) -> Varied:
    return varied_decoder


def test_every_variant_lies_under_the_name_that_consumers_look_for(encoder: Varied) -> None:
    graphs = encoder.stage.read_export().graphs

    assert [(graph.variant, graph.path) for graph in graphs] == [
        ("fp32", "onnx/model.onnx"),
        ("fp16", "onnx/model_fp16.onnx"),
        ("int8", "onnx/model_quantized.onnx"),
        ("int8_static", "onnx/model_int8.onnx"),
        ("q4", "onnx/model_q4.onnx"),
    ]
    for graph in graphs[1:]:
        assert (graph.inputs, graph.outputs) == (graphs[0].inputs, graphs[0].outputs)


def test_good_variants_pass_their_own_gates_on_samples_that_did_not_tune_them(encoder: Varied, tmp_path: Path) -> None:
    found = encoder.copy(tmp_path).judge()

    assert {verdict.variant: verdict.status for verdict in found.verdicts} == dict.fromkeys(VARIANTS, "published")
    for verdict in found.verdicts:
        (graph,) = verdict.graphs
        assert {measure.name for measure in graph.measures} == {"weights", "finite", "masked", "cosine", "size"}
        assert graph.samples > 2
        assert all(measure.count > 1 for measure in graph.measures)
    variant_report.require(found)


def test_a_variant_answers_nearly_as_fp32_does_but_not_equally(encoder: Varied) -> None:
    """A copy of the fp32 graph under another name would pass any gate."""
    sample = next(recorded_feeds.read(encoder.stage_dir, "model", "judging"))
    expected = session.open_session(encoder.exported.graph).run(sample.feeds)["sentence_embedding"]
    for name in VARIANTS:
        found = session.open_session(encoder.graph(name)).run(sample.feeds)["sentence_embedding"]
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() < 0.5, name


def test_a_decoder_is_held_to_its_prompts_its_steps_and_its_perplexity(decoder: Varied, tmp_path: Path) -> None:
    found = decoder.copy(tmp_path).judge()

    assert {verdict.variant: verdict.status for verdict in found.verdicts} == dict.fromkeys(VARIANTS, "published")
    for verdict in found.verdicts:
        assert {measure.name for measure in verdict.graphs[0].measures} == {
            "weights", "finite", "masked", "cosine", "top1", "perplexity_ratio", "size",
        }  # fmt: skip
    steps = [
        sample.feeds["input_ids"].shape[1] for sample in recorded_feeds.read(decoder.stage_dir, "model", "judging")
    ]
    assert 1 in steps
    assert max(steps) > 1
    masks = [sample.feeds["attention_mask"] for sample in recorded_feeds.read(decoder.stage_dir, "model", "judging")]
    assert any((mask == 0).any() for mask in masks)


def test_graphs_that_belong_together_are_converted_together(t5: Exported, tmp_path: Path) -> None:
    found = vary(t5.copy(tmp_path), wanting("int8", gates=LOOSE)).judge()

    (verdict,) = found.verdicts
    assert [graph.path for graph in verdict.graphs] == [
        "onnx/encoder_model_quantized.onnx", "onnx/decoder_model_merged_quantized.onnx",
    ]  # fmt: skip
    assert verdict.status == "published", verdict.reason


def test_pictures_are_what_the_checks_fed(patches: Exported, tmp_path: Path) -> None:
    found = vary(patches.copy(tmp_path), wanting("fp16", "int8", gates=LOOSE)).judge()

    assert [verdict.status for verdict in found.verdicts] == ["published", "published"]
    assert {measure.name for measure in found.verdicts[0].graphs[0].measures} == {
        "weights", "finite", "cosine", "top1", "size",
    }  # fmt: skip


def test_what_cannot_be_converted_is_a_verdict_and_no_crash(encoder: Varied, tmp_path: Path) -> None:
    """Here an operator that no onnxruntime has."""
    strange = encoder.copy(tmp_path)
    model = onnx.load(strange.exported.graph)
    name = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Nothing", [name], ["nothing"], domain="com.example"))
    model.graph.output.append(helper.make_tensor_value_info("nothing", TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, strange.exported.graph)

    made = conversion.make(MakingRequest(stage=strange.stage))
    found = replace(strange, made=made).judge()

    assert {verdict.variant: verdict.status for verdict in found.verdicts} == dict.fromkeys(VARIANTS, "missed")
    assert [verdict.reason for verdict in found.verdicts if "it cannot be made: " not in verdict.reason] == []
    assert [graph.variant for graph in strange.stage.read_export().graphs] == ["fp32"]


def test_what_is_required_and_misses_stops_the_model(encoder: Varied, tmp_path: Path) -> None:
    strict = encoder.copy(tmp_path)
    strict.exported.with_entry(
        lambda entry: replace(
            entry, required_variants=("int8",), variant_gates={"int8": replace(LOOSE, min_cosine=0.9999999)}
        )
    )

    found = strict.judge()

    with pytest.raises(ValidationFailed, match=r"int8: cosine 0\.99\d+ \(at least 1\)") as failure:
        variant_report.require(found)
    assert "required_variants" in str(failure.value)
    with pytest.raises(ValidationFailed, match="int8"):
        report_summaries.variants(strict.stage)


def test_variants_that_nobody_judged_are_not_published(encoder: Varied, tmp_path: Path) -> None:
    unjudged = encoder.copy(tmp_path)

    with pytest.raises(
        ValidationFailed, match=r"fp16, int8, int8_static, q4 was not evaluated; run `onnx-fleet validate"
    ):
        report_summaries.variants(unjudged.stage)


def test_a_corpus_is_never_published(encoder: Varied) -> None:
    paths = encoder.stage.published_files()

    assert list(recorded_feeds.folder(encoder.stage_dir).iterdir())
    assert not [path for path in paths if "corpus" in path]
    for path in paths:
        keys.checked(path)


def test_variants_that_a_provider_does_not_run_stay_and_say_so(encoder: Varied, tmp_path: Path) -> None:
    """Live, with the second provider that the CPU wheel has: it takes no node."""
    judged = encoder.copy(tmp_path)
    judged.judge()

    elsewhere = evaluation.judge(JudgingRequest(stage=judged.stage, provider="azure"))

    assert {verdict.variant: verdict.status for verdict in elsewhere.verdicts} == dict.fromkeys(VARIANTS, "not_run")
    assert all("ran elsewhere" in verdict.reason for verdict in elsewhere.verdicts)
    assert {info.variant for info in judged.stage.read_export().graphs} == {"fp32", *VARIANTS}
    assert (judged.stage_dir / "reports" / "variants_azure.json").is_file()
    variant_report.require(elsewhere)


@pytest.mark.parametrize(
    ("status", "published", "said"),
    [("published", "published", "good on a GPU: as told"), ("not_run", "published", "not for a GPU: as told")],
)
def test_a_manifest_says_what_a_variant_is_on_a_gpu(
    encoder: Varied, tmp_path: Path, status: variant_report.Status, published: str, said: str
) -> None:
    summary = on_gpu(encoder.copy(tmp_path), status)

    assert (summary.status, summary.gpu) == (published, said)
    assert summary.reason.startswith("weights")


def test_a_variant_that_misses_on_a_gpu_is_not_published(encoder: Varied, tmp_path: Path) -> None:
    summary = on_gpu(encoder.copy(tmp_path), "missed")

    assert (summary.status, summary.reason) == ("missed", "on a GPU: as told")
    assert summary.gpu == "not good on a GPU: as told"


def test_a_gpus_word_alone_publishes_no_variant(encoder: Varied, tmp_path: Path) -> None:
    judged = encoder.copy(tmp_path)
    on_gpu(judged, "published")
    (judged.stage_dir / "reports" / "variants.json").unlink()

    with pytest.raises(ValidationFailed, match=r"fp16.* was not evaluated"):
        report_summaries.variants(judged.stage)


def on_gpu(varied: Varied, status: variant_report.Status) -> VariantSummary:
    """What the manifest would say of fp16, good on the CPU, and as a GPU worker found it."""
    item = varied.stage.item
    varied.judge()
    verdict = variant_report.VariantVerdict(variant="fp16", status=status, required=False, reason="as told", graphs=())
    told = VariantReport(
        model_id=item.model_id, version=item.version, provider="cuda", verdicts=(verdict,), duration_s=0.0
    )
    varied.stage.write_report("variants_cuda", told)
    return next(each for each in report_summaries.variants(Stage(varied.stage_dir, item)) if each.variant == "fp16")
