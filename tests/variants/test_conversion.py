"""How variants are made: what stays in float32 in each of them, and what a graph is prepared to."""

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
from onnx_fleet.entities import variant_report
from onnx_fleet.graphs import recorded_feeds, session
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.variants import conversion, float16, preprocessing


@pytest.fixture
def encoder(varied_encoder: Varied) -> Varied:
    return varied_encoder


@pytest.fixture
def decoder(varied_decoder: Varied) -> Varied:
    return varied_decoder


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
