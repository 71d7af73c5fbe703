"""Variants: made from proven graphs, held to them, and left out of the bundle where they are not good enough."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

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
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.store import keys
from onnx_fleet.variants import conversion, evaluation, float16, preprocessing
from onnx_fleet.variants.accuracy import Agreement, Remembering
from onnx_fleet.variants.conversion import MakingRequest
from onnx_fleet.variants.evaluation import JudgingRequest

ALL = ("fp32", *VARIANTS)


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


def _cosine(verdict: variant_report.VariantVerdict) -> float:
    return next(measure.value for measure in verdict.graphs[0].measures if measure.name == "cosine")


def test_the_layers_that_hurt_stay_in_float32(encoder: Varied, tmp_path: Path) -> None:
    """4 bits of random weights are a cosine of 0.99 at best: a gate above that is met with fewer layers in them."""
    all_of_it = next(verdict for verdict in encoder.copy(tmp_path / "a").judge().verdicts if verdict.variant == "q4")
    asked = replace(LOOSE, min_cosine=_cosine(all_of_it) + (1 - _cosine(all_of_it)) / 2)

    strict = vary(encoder.exported.copy(tmp_path / "b"), wanting("q4", gates=asked))

    (made,) = strict.made.made
    assert made.kept
    assert 1 < made.attempts <= conversion.MAX_ATTEMPTS
    assert all("*" in kind or "." in kind for kind in made.kept)
    verdict = strict.judge().verdicts[0]
    assert verdict.graphs[0].ratio > all_of_it.graphs[0].ratio
    assert _cosine(verdict) > _cosine(all_of_it)


def test_only_as_much_stays_in_float32_as_the_size_allows(encoder: Varied, tmp_path: Path) -> None:
    """One matrix of all layers is too much here: it stays in the layer where that helps most."""
    all_of_it = next(verdict for verdict in encoder.copy(tmp_path / "a").judge().verdicts if verdict.variant == "q4")
    size = next(measure.value for measure in all_of_it.graphs[0].measures if measure.name == "size")
    loss = 1 - _cosine(all_of_it)
    asked = replace(LOOSE, min_cosine=1 - 0.97 * loss, max_layers_ratio=size + 0.08)

    small = vary(encoder.exported.copy(tmp_path / "b"), wanting("q4", gates=asked))

    (made,) = small.made.made
    assert any(re.search(r"layer\.\d+\.", name) for name in made.kept), made
    (verdict,) = small.judge().verdicts
    assert next(measure.passed for measure in verdict.graphs[0].measures if measure.name == "size")
    assert _cosine(verdict) > _cosine(all_of_it)


def test_what_no_layer_in_float32_would_mend_is_tried_so_often_and_no_more(encoder: Varied, tmp_path: Path) -> None:
    hopeless = replace(LOOSE, min_cosine=0.99999)

    found = vary(encoder.exported.copy(tmp_path), wanting("q4", gates=replace(hopeless, max_layers_ratio=0.3)))

    (made,) = found.made.made
    assert not made.kept
    assert 1 < made.attempts <= conversion.MAX_ATTEMPTS
    assert found.judge().verdicts[0].status == "missed"


def test_a_variant_that_is_not_small_is_none(encoder: Varied, tmp_path: Path) -> None:
    """fp32's own bytes under the name of q4 are right in every other figure."""
    large = encoder.copy(tmp_path)
    onnx.save(onnx.load(preprocessing.prepare(large.exported.graph, tmp_path)), large.graph("q4"))

    verdict = next(verdict for verdict in large.judge().verdicts if verdict.variant == "q4")

    assert [measure.name for measure in verdict.graphs[0].measures if not measure.passed] == ["size"]
    assert re.fullmatch(r"size 0\.\d+ \(at most 0\.22\)", verdict.reason)
    assert not large.graph("q4").exists()


def test_narrow_layers_are_not_blamed_for_their_scales_and_biases(convolutions: Exported, tmp_path: Path) -> None:
    """This ResNet has 4 to 32 channels: their scales, biases and norms are a tenth of all that it takes in fp32."""
    found = vary(convolutions.copy(tmp_path), wanting("int8", "int8_static")).judge()

    verdicts = {verdict.variant: verdict for verdict in found.verdicts}
    (graph,) = verdicts["int8_static"].graphs
    size = next(measure for measure in graph.measures if measure.name == "size")
    assert verdicts["int8_static"].status == "published", verdicts["int8_static"].reason
    assert graph.ratio > size.threshold > size.value > 0.2
    # Its convolutions stay as they are in int8, whose runtime has none for them: a file without a use.
    assert verdicts["int8"].status == "missed"
    assert verdicts["int8"].reason.startswith("size 0.8")


def _overflowing_graph(folder: Path) -> Path:
    """Eight times 3 * 4,000 is 96,000 on the way to a small output."""
    large = numpy_helper.from_array(np.full((8, 8), 4000.0, dtype=np.float32), "large.weight")
    small = numpy_helper.from_array(np.full((8, 8), 1e-4, dtype=np.float32), "small.weight")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "large.weight"], ["between"], name="first"),
            helper.make_node("MatMul", ["between", "small.weight"], ["y"], name="second"),
        ],
        "overflows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch_size", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch_size", 8])],
        [large, small],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # in onnx's reference evaluator
def test_what_overflows_in_half_precision_stays_in_float32(tmp_path: Path) -> None:
    path = _overflowing_graph(tmp_path)
    sample = Sample(role="model", predicts_next_token=False, feeds={"x": np.full((2, 8), 3.0, dtype=np.float32)})

    found = float16.overflowing(path, samples=[sample])
    models = {"kept": tmp_path / "kept.onnx", "plain": tmp_path / "plain.onnx"}
    float16.convert(path, excluded=found).write(models["kept"])
    float16.convert(path).write(models["plain"])

    assert found == {"first", "second"}
    expected = session.open_session(path).run(sample.feeds)["y"]
    # onnxruntime's CPU would compute all of it in float32; the operators' own definition does not.
    outcome = {name: list(ReferenceEvaluator(str(path)).run(None, dict(sample.feeds))) for name, path in models.items()}
    assert np.abs(outcome["kept"][0] - expected).max() < 0.1
    assert not np.isfinite(outcome["plain"][0]).all()


def test_small_activations_are_no_overflow(encoder: Varied, tmp_path: Path) -> None:
    """Neither is a mask's minus infinity."""
    source = preprocessing.prepare(encoder.exported.graph, tmp_path)

    assert (
        float16.overflowing(source, samples=recorded_feeds.read(encoder.stage_dir, "model", "calibration"))
        == frozenset()
    )


def test_positions_are_never_counted_in_half_precision(decoder: Varied) -> None:
    """4,097 has no float16; the angle of a rotary embedding would be another position's."""
    model = onnx.load(decoder.graph("fp16"))
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    made_by = {name: node for node in model.graph.node for name in node.output}
    angles = [node.input[0] for node in model.graph.node if node.op_type in ("Cos", "Sin")]

    assert angles
    behind = list(angles)
    while behind:
        name = behind.pop()
        assert types.get(name) != TensorProto.FLOAT16, name
        behind += made_by[name].input if name in made_by else []


def test_a_prepared_graph_gives_the_same_and_has_no_transposed_weights(decoder: Varied, tmp_path: Path) -> None:
    source = preprocessing.prepare(decoder.exported.graph, tmp_path)
    sample = next(recorded_feeds.read(decoder.stage_dir, "model", "judging"))

    model = onnx.load(source)
    names = {tensor.name for tensor in model.graph.initializer}
    assert not [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in names]
    assert any(name.endswith("q_proj.weight_transposed") for name in names)
    expected, found = (session.open_session(path).run(sample.feeds) for path in (decoder.exported.graph, source))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_a_weight_that_gemm_reads_transposed_stays_what_it_is_for_others(tmp_path: Path) -> None:
    """A head that reads the table of the embeddings: onnxruntime's own conversion transposes it for both."""
    table = numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32), "table")
    bias = numpy_helper.from_array(np.arange(8, dtype=np.float32), "bias")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["vectors"], name="look_up"),
            helper.make_node("Gemm", ["vectors", "table", "bias"], ["y"], name="head", transB=1),
        ],
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch_size"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch_size", 8])],
        [table, bias],
    )
    path = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    folder = tmp_path / "prepared"
    folder.mkdir()

    source = preprocessing.prepare(path, folder)

    assert [node.op_type for node in onnx.load(source).graph.node] == ["Gather", "MatMul", "Add"]
    feeds = {"ids": np.arange(8)}
    expected, found = (session.open_session(each).run(feeds)["y"] for each in (path, source))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_table_that_is_also_the_head_is_in_half_precision_once(gpt2: Exported, tmp_path: Path) -> None:
    varied = vary(gpt2.copy(tmp_path), wanting("fp16"))

    tensors = onnx.load(varied.graph("fp16")).graph.initializer
    tables = [tensor.name for tensor in tensors if "wte" in tensor.name]
    assert len(tables) == 1
    (verdict,) = varied.judge().verdicts
    assert verdict.status == "published", verdict.reason
    ((graph,), fp32) = verdict.graphs, verdict.graphs[0].fp32_weights
    assert graph.weights.embeddings == pytest.approx(fp32.embeddings / 2, rel=0.01)


def test_a_head_of_another_table_is_found(gpt2: Exported, tmp_path: Path) -> None:
    """The table is right where tokens are looked up in it; the output layer reads another one."""
    varied = vary(gpt2.copy(tmp_path), wanting("fp16", gates=LOOSE))
    model = onnx.load(varied.graph("fp16"))
    (turned,) = (node for node in model.graph.node if node.op_type == "Transpose" and "wte" in node.input[0])
    table = next(tensor for tensor in model.graph.initializer if tensor.name == turned.input[0])
    other = np.ascontiguousarray(numpy_helper.to_array(table)[::-1].T)
    model.graph.node.remove(turned)
    model.graph.initializer.append(numpy_helper.from_array(other, turned.output[0]))
    onnx.save(model, varied.graph("fp16"))

    (verdict,) = varied.judge().verdicts

    assert verdict.status == "missed"
    assert "weights" in verdict.reason


def test_a_corpus_is_never_published(encoder: Varied) -> None:
    paths = encoder.stage.published_files()

    assert list(recorded_feeds.folder(encoder.stage_dir).iterdir())
    assert not [path for path in paths if "corpus" in path]
    for path in paths:
        keys.checked(path)


def test_logits_are_compared_where_softmax_can_see_it() -> None:
    """A constant added to all logits of a token changes nothing; one that is added to half of them does."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((2, 5, 50)).astype(np.float32)
    tokens = rng.integers(0, 50, (2, 5))
    sample = Sample(
        role="model", predicts_next_token=True, feeds={"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    )
    same, other = Agreement(), Agreement()

    same.add({"logits": logits}, {"logits": logits + 100}, sample)
    shifted = logits.copy()
    shifted[..., :25] += 3
    other.add({"logits": logits}, {"logits": shifted}, sample)

    assert same.cosine > 0.9999
    assert same.perplexity_ratio == pytest.approx(1, abs=1e-4)
    assert other.cosine < 0.9
    assert same.tokens == 8


def test_padding_is_not_judged() -> None:
    hidden = np.ones((1, 4, 8), dtype=np.float32)
    noisy = hidden.copy()
    noisy[:, 2:] = -50
    mask = np.array([[1, 1, 0, 0]])
    sample = Sample(role="model", predicts_next_token=False, feeds={"input_ids": mask, "attention_mask": mask})
    found = Agreement()

    found.add({"last_hidden_state": hidden}, {"last_hidden_state": noisy}, sample)

    assert found.cosine == pytest.approx(1)


def test_what_is_not_finite_any_more_misses() -> None:
    sample = Sample(role="model", predicts_next_token=False, feeds={})
    found = Agreement()
    broken = np.ones((2, 8), dtype=np.float32)
    broken[0, 0] = np.nan

    found.add({"sentence_embedding": np.ones((2, 8), dtype=np.float32)}, {"sentence_embedding": broken}, sample)

    measures = found.against(LOOSE)
    assert [measure.passed for measure in measures if measure.name == "finite"] == [False]
    assert all(np.isfinite(measure.value) for measure in measures)


def test_a_text_that_becomes_impossible_has_a_figure_that_json_can_hold() -> None:
    tokens = np.array([[0, 1, 1]])
    sample = Sample(
        role="model", predicts_next_token=True, feeds={"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    )
    found = Agreement()
    certain = np.array([[[0.0, 5000.0]] * 3], dtype=np.float32)

    found.add({"logits": certain}, {"logits": -certain}, sample)

    (ratio,) = (measure for measure in found.against(LOOSE) if measure.name == "perplexity_ratio")
    assert not ratio.passed
    assert np.isfinite(ratio.value)


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


def test_a_graph_that_others_are_held_to_runs_once_on_each_sample(decoder: Varied) -> None:
    opened, asked = [], []

    def opening() -> session.Session:
        opened.append(session.open_session(decoder.exported.graph))
        opened[-1].on_run = asked.append
        return opened[-1]

    samples = list(recorded_feeds.read(decoder.stage_dir, "model", "judging"))
    beside = Remembering(opening)
    first = [beside.run(sample.feeds) for sample in samples]
    beside.close()
    second = [beside.run(sample.feeds) for sample in samples]

    assert len(asked) == len(samples) > 2
    assert len(opened) == 1
    plain = session.open_session(decoder.exported.graph).run(samples[0].feeds)
    assert set(first[0]) == {name for name in plain if not name.startswith("present")}
    for once, again in zip(first, second, strict=True):
        assert all(np.array_equal(once[name], again[name]) for name in once)
    assert np.array_equal(first[0]["logits"], plain["logits"])
    assert not np.array_equal(first[0]["logits"], first[1]["logits"])
