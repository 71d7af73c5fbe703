"""A look at graphs: what a real export is made of, and each oddity in a graph that has it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from fixtures.exported import Exported
from onnx_fleet.cli import app
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.graphs import description
from onnx_fleet.graphs.inspection import GraphView, inspect

WEIGHT = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)


def save(
    path: Path,
    *,
    weight: np.ndarray = WEIGHT,
    name: str = "layer.weight",
    batch: str | int = "batch_size",
    nodes: list[onnx.NodeProto] | None = None,
    domain: str | None = None,
    data: str | None = None,
) -> Path:
    """``y = x @ weight``, with more nodes where a test asks for them; weights in ``data`` beside the graph."""
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    x = helper.make_tensor_value_info("x", kind, [batch, 64])
    y = helper.make_tensor_value_info("y", kind, [batch, 64])
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], ["y"]), *(nodes or [])], "g", [x], [y],
        [numpy_helper.from_array(weight, name)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(made, opset_imports=opsets)
    if data is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def only(path: Path) -> GraphView:
    (view,) = inspect(path).graphs
    return view


def test_a_real_export_is_described_and_nothing_about_it_is_odd(questions: Exported) -> None:
    found = inspect(questions.stage_dir, digests=True)

    (view,) = found.graphs
    described = description.describe(questions.graph, role="model", variant="fp32", bundle=questions.stage_dir)
    assert view.path == "onnx/model.onnx"
    assert (view.inputs, view.outputs) == (described.inputs, described.outputs)
    assert view.opsets["ai.onnx"] == described.opset
    model = onnx.load(questions.graph)
    assert view.weights == len(model.graph.initializer)
    assert view.weight_bytes == sum(numpy_helper.to_array(each).nbytes for each in model.graph.initializer)
    assert sum(view.ops.values()) == view.nodes
    assert "bert.embeddings.word_embeddings.weight" in {each.name for each in view.largest}
    assert list(view.ops.values()) == sorted(view.ops.values(), reverse=True)
    assert not any("frozen" in each or "symbol" in each or "custom" in each for each in view.warnings)


def test_graphs_that_share_a_data_file_say_so_and_have_no_copy(tmp_path: Path) -> None:
    save(tmp_path / "onnx/encoder_model.onnx", data="encoder_model.onnx_data")
    second = onnx.load(tmp_path / "onnx/encoder_model.onnx", load_external_data=False)
    onnx.save(second, tmp_path / "onnx/decoder_model_merged.onnx")
    found = inspect(tmp_path, digests=True)

    decoder, encoder = found.graphs
    assert decoder.largest[0].shared_with == ("onnx/encoder_model.onnx",)
    assert encoder.largest[0].shared_with == ("onnx/decoder_model_merged.onnx",)
    assert encoder.bytes_by_file == {"onnx/encoder_model.onnx_data": WEIGHT.nbytes}
    assert found.warnings == ()


@pytest.mark.parametrize("data", [None, "beside"])
def test_the_same_bytes_in_two_places_are_found_whatever_they_are_called(tmp_path: Path, data: str | None) -> None:
    save(tmp_path / "onnx/a.onnx", name="a.weight", data=data and "a.onnx_data")
    save(tmp_path / "onnx/b.onnx", name="b.weight", data=data and "b.onnx_data")

    assert inspect(tmp_path).warnings == ()
    (warning,) = inspect(tmp_path, digests=True).warnings
    assert warning.startswith("the same 16.4 kB are stored in 2 places (a.weight in onnx/a.onnx")
    assert warning.endswith("16.4 kB could be saved")


def test_equal_names_are_no_copy_when_the_bytes_differ(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx")
    save(tmp_path / "b.onnx", weight=WEIGHT + 1)

    (warning,) = inspect(tmp_path).warnings
    assert "may be stored in 2 places" in warning
    assert inspect(tmp_path, digests=True).warnings == ()


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda data: data.unlink(), "onnx/m.onnx_data: is missing, and 1 weights are in it"),
        (
            lambda data: data.write_bytes(b"short"),
            "onnx/m.onnx_data: ends at byte 5, and weights are stored",
        ),
        (
            lambda data: data.write_bytes(data.read_bytes() + bytes(1 << 20)),
            "1.0 MB of its 1.1 MB are not read by",
        ),
    ],
)
def test_a_data_file_that_does_not_fit_is_named(tmp_path: Path, change: object, warning: str) -> None:
    save(tmp_path / "onnx/m.onnx", data="m.onnx_data")
    change(tmp_path / "onnx/m.onnx_data")  # type: ignore[operator]

    (found,) = inspect(tmp_path, digests=True).warnings
    assert warning in found


def test_a_data_file_outside_the_bundle_is_named_and_never_read(tmp_path: Path) -> None:
    save(tmp_path / "bundle/m.onnx", data="m.onnx_data")
    model = onnx.load(tmp_path / "bundle/m.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../secret"
    onnx.save(model, tmp_path / "bundle/m.onnx")
    (tmp_path / "secret").write_bytes(bytes(1 << 15))

    (found,) = inspect(tmp_path / "bundle", digests=True).warnings
    assert found.startswith("../secret: weights are outside the bundle")


def test_what_is_odd_in_one_graph_is_said(tmp_path: Path) -> None:
    double = WEIGHT.astype(np.float64)
    assert only(save(tmp_path / "fine.onnx")).warnings == ()
    assert "frozen to 3" in only(save(tmp_path / "frozen.onnx", batch=3)).warnings[0]
    assert "symbol s43 of x and 1 more" in only(save(tmp_path / "symbol.onnx", batch="s43")).warnings[0]
    assert only(save(tmp_path / "expression.onnx", batch="2*batch_size")).warnings == ()
    assert "1 weights (16.4 kB) do not have the name" in only(save(tmp_path / "named.onnx", name="val_69")).warnings[0]
    assert "float64: 1 weights (layer.weight)" in only(save(tmp_path / "double.onnx", weight=double)).warnings[0]


def test_custom_ops_are_named_and_runtime_ops_are_not(tmp_path: Path) -> None:
    custom = helper.make_node("Swirl", ["y"], ["z"], domain="acme")
    view = only(save(tmp_path / "custom.onnx", nodes=[custom], domain="acme"))
    assert view.warnings == ("custom ops that need a library registered with the session: acme.Swirl",)
    assert view.ops["acme.Swirl"] == 1

    contrib = helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft")
    assert only(save(tmp_path / "own.onnx", nodes=[contrib], domain="com.microsoft")).warnings == ()


def test_branches_are_counted_with_their_nodes_and_weights(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64])
        tensor = numpy_helper.from_array(WEIGHT, f"{name}.weight")
        return helper.make_graph([helper.make_node("Neg", [f"{name}.weight"], [name])], name, [], [out], [tensor])

    choose = helper.make_node("If", ["c"], ["z"], then_branch=branch("yes"), else_branch=branch("no"))
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    view = only(save(tmp_path / "branches.onnx", nodes=[condition, choose]))

    assert view.subgraphs == 2
    assert view.nodes == 5
    assert view.ops == {"Neg": 2, "Constant": 1, "If": 1, "MatMul": 1}
    assert {each.name for each in view.largest} == {"layer.weight", "yes.weight", "no.weight"}


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="no such file or folder"):
        inspect(tmp_path / "nothing")
    with pytest.raises(BundleNotFound, match=r"no \.onnx file in it"):
        inspect(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(BundleCorrupt, match="is not an ONNX model"):
        inspect(tmp_path)


def test_the_command_prints_tables_and_json(questions: Exported) -> None:
    text = CliRunner().invoke(app, ["inspect", str(questions.stage_dir)])
    assert text.exit_code == 0, text.output
    assert "onnx/model.onnx" in text.stdout
    assert "[batch_size, sequence_length]" in text.stdout
    assert "MatMul" in text.stdout

    data = CliRunner().invoke(app, ["inspect", str(questions.stage_dir), "--json"])
    (view,) = json.loads(data.stdout)["graphs"]
    assert view["path"] == "onnx/model.onnx"
    assert view["nodes"] == sum(view["ops"].values())


def test_a_viewer_that_is_not_installed_is_said_with_the_way_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "netron", None)
    found = CliRunner().invoke(app, ["inspect", str(save(tmp_path / "m.onnx")), "--netron"])
    assert found.exit_code == 2
    assert "pip install netron" in found.output
