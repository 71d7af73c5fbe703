from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnx_fleet.entities import graph_info
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.export import finishing, weight_placement
from onnx_fleet.graphs import description

TOKENS = ("batch_size", "sequence_length")


def traced(*, given: Sequence[str | int] = ("s18", "s41"), gives: Sequence[str | int] = ("s18", "2*s41")) -> ir.Model:
    """``doubled = Concat(ids * w, ids * w)``, with a tracer's names and notes."""
    ids = ir.val("ids", ir.DataType.FLOAT, list(given))
    scale = ir.val("model.w", const_value=ir.tensor(np.full((1,), 3.0, np.float32), name="model.w"))
    scaled = ir.node("Mul", [ids, scale])
    doubled = ir.node("Concat", [scaled.outputs[0], scaled.outputs[0]], attributes={"axis": 1})
    output = doubled.outputs[0]
    output.name, output.dtype, output.shape = "doubled", ir.DataType.FLOAT, ir.Shape(list(gives))
    for node in (scaled, doubled):
        node.metadata_props["pkg.torch.onnx.stack_trace"] = 'File "model.py", line 3'
    made = ir.Graph([ids], [output], nodes=[scaled, doubled], initializers=[scale], opset_imports={"": 20}, name="g")
    return ir.Model(made, ir_version=10)


def finish(model: ir.Model, *, outputs: tuple[str | int | None, ...] = ("batch_size", "2*sequence_length")) -> None:
    finishing.finish(
        model,
        inputs={"ids": TOKENS},
        outputs={"doubled": outputs},
        traced_names={},
        parameters={"model.w": "w"},
    )


def test_symbols_are_renamed_alone_and_inside_expressions(tmp_path: Path) -> None:
    model = traced()
    finish(model)
    finishing.check(ir.to_proto(model))
    weight_placement.save_all({"model": ir.to_proto(model)}, tmp_path / "onnx", tensors={})
    info = description.describe(tmp_path / "onnx/model.onnx", role="model", variant="fp32", bundle=tmp_path)

    assert [value.shape for value in info.inputs] == [TOKENS]
    assert [value.shape for value in info.outputs] == [("batch_size", "2*sequence_length")]


def test_initializers_get_the_checkpoints_names_and_notes_of_the_tracer_go() -> None:
    model = traced()
    finish(model)
    saved = ir.to_proto(model)
    finishing.stamp(saved, {"onnx_fleet.commit": "abc"})

    assert [tensor.name for tensor in saved.graph.initializer] == ["w"]
    assert [node.metadata_props for node in saved.graph.node] == [[], []]
    assert [(entry.key, entry.value) for entry in saved.metadata_props] == [("onnx_fleet.commit", "abc")]


def test_an_axis_that_was_frozen_is_refused() -> None:
    with pytest.raises(ExportUnsupported, match=r"axis 1 \(sequence_length\) of ids was frozen to 7"):
        finish(traced(given=("s18", 7), gives=("s18", 14)))


def test_an_output_axis_that_was_frozen_is_refused() -> None:
    with pytest.raises(ExportUnsupported, match="output doubled was traced with the shape"):
        finish(traced(gives=("s18", 14)))


def test_a_number_may_not_become_a_symbol() -> None:
    with pytest.raises(ExportUnsupported, match="a number"):
        finish(traced(), outputs=("batch_size", None))


def test_an_input_that_was_traced_away_is_refused() -> None:
    with pytest.raises(ExportUnsupported, match="the inputs ids where ids, attention_mask were wanted"):
        finishing.finish(
            traced(),
            inputs={"ids": TOKENS, "attention_mask": TOKENS},
            outputs={"doubled": TOKENS},
            traced_names={},
            parameters={},
        )


def test_a_graph_that_is_not_valid_onnx_is_refused() -> None:
    model = ir.to_proto(traced())
    model.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(ExportUnsupported, match="not valid ONNX"):
        finishing.check(model)


@pytest.mark.parametrize(
    ("opset", "ir_version", "oldest"), [(18, 8, "1.14"), (20, 9, "1.17"), (20, 10, "1.18"), (23, 11, "1.22")]
)
def test_the_oldest_onnxruntime_takes_both_opset_and_ir_version(opset: int, ir_version: int, oldest: str) -> None:
    assert graph_info.onnxruntime_min(opset=opset, ir_version=ir_version) == oldest
