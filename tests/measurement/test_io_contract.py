"""The contract with consumers: what breaks them is told from what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.entities.regression_report import ContractChange
from onnx_fleet.measurement import io_contract

IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch_size", "sequence_length"))
MASK = replace(IDS, name="attention_mask")
HIDDEN = TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch_size", "sequence_length", 48))
POOLED = TensorSpec(name="sentence_embedding", dtype="float32", shape=("batch_size", 48))
MODEL = GraphInfo(
    role="model",
    variant="fp32",
    path="onnx/model.onnx",
    opset=20,
    ir_version=10,
    inputs=(IDS, MASK),
    outputs=(HIDDEN, POOLED),
    weight_files=(),
    onnxruntime_min="1.18",
)
HALF = replace(MODEL, variant="fp16", path="onnx/model_fp16.onnx")


def changed(new: GraphInfo, *, old: GraphInfo = MODEL) -> list[tuple[str, bool]]:
    return [(each.change, each.breaking) for each in io_contract.changes((old,), (new,))]


def test_nothing_changed_between_equal_graphs() -> None:
    assert io_contract.changes((MODEL, HALF), (HALF, MODEL)) == ()


@pytest.mark.parametrize(
    ("new", "change", "breaking"),
    [
        (replace(MODEL, inputs=(IDS,)), "input attention_mask is gone", True),
        (
            replace(MODEL, inputs=(IDS, MASK, replace(IDS, name="token_type_ids"))),
            "input token_type_ids is new: every call has to give it",
            True,
        ),
        (replace(MODEL, inputs=(replace(IDS, dtype="int32"), MASK)), "input input_ids is int32, it was int64", True),
        (
            replace(MODEL, inputs=(replace(IDS, shape=("batch_size", 128)), MASK)),
            "input input_ids is [batch_size, 128], it was [batch_size, sequence_length]",
            True,
        ),
        (
            replace(MODEL, inputs=(replace(IDS, shape=("rows", "tokens")), MASK)),
            "input input_ids is [rows, tokens], it was [batch_size, sequence_length]",
            False,
        ),
        (replace(MODEL, outputs=(HIDDEN,)), "output sentence_embedding is gone", True),
        (
            replace(MODEL, outputs=(HIDDEN, POOLED, replace(POOLED, name="logits"))),
            "output logits is new",
            False,
        ),
        (
            replace(MODEL, outputs=(HIDDEN, replace(POOLED, shape=("batch_size", "hidden")))),
            "output sentence_embedding is [batch_size, hidden], it was [batch_size, 48]",
            True,
        ),
        (
            replace(MODEL, outputs=(HIDDEN, replace(POOLED, shape=(1, 48)))),
            "output sentence_embedding is [1, 48], it was [batch_size, 48]",
            False,
        ),
        (
            replace(MODEL, outputs=(POOLED, HIDDEN)),
            "outputs are in another order: sentence_embedding, last_hidden_state",
            True,
        ),
        (replace(MODEL, path="model.onnx"), "it was at onnx/model.onnx", True),
        (replace(MODEL, onnxruntime_min="1.21"), "onnxruntime 1.21 is needed, 1.18 was", True),
        (
            replace(MODEL, libraries=("onnxruntime_extensions",)),
            "the package onnxruntime_extensions is needed too",
            True,
        ),
    ],
)
def test_a_change_is_told_and_judged(new: GraphInfo, change: str, breaking: bool) -> None:
    assert changed(new) == [(change, breaking)]


def test_an_older_onnxruntime_that_will_do_breaks_nothing() -> None:
    assert changed(replace(MODEL, onnxruntime_min="1.9")) == []


def test_another_output_that_stands_first_breaks_who_takes_the_first() -> None:
    logits = replace(POOLED, name="logits")
    assert changed(replace(MODEL, outputs=(logits, HIDDEN, POOLED))) == [
        ("output logits is new", False),
        ("output logits is first, last_hidden_state was", True),
    ]


def test_a_lost_variant_breaks_and_a_new_one_does_not() -> None:
    assert io_contract.changes((MODEL, HALF), (MODEL,)) == (
        ContractChange(graph="onnx/model_fp16.onnx", change="model in fp16 is gone", breaking=True),
    )
    assert io_contract.changes((MODEL,), (MODEL, HALF)) == (
        ContractChange(graph="onnx/model_fp16.onnx", change="model in fp16 is new", breaking=False),
    )
