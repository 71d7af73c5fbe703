"""Every tensor that a source's class takes is an input of its graphs, or is left to the model for a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from fixtures.exported import Exported
from fixtures.items import work_item
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.source import reference
from onnx_fleet.source.families import source_inputs
from onnx_fleet.validation.checks import CHECKS, CheckContext

_SIZES: Mapping[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
_HEADS = {"d_model": 24, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_TEXT = ("input_ids", "attention_mask", "token_type_ids")


def made(name: str, folder: Path, *, task: str, **sizes: Any) -> tuple[WorkItem, PreTrainedModel]:
    torch.manual_seed(5)
    cls = getattr(transformers, name)
    model: PreTrainedModel = cls(cls.config_class(**{**_SIZES, **sizes})).eval()
    model.save_pretrained(folder / "acme" / "model")
    return work_item(folder / "acme" / "model", task=task), model


@pytest.mark.parametrize(
    ("name", "task", "sizes", "lost"),
    [
        ("LayoutLMForTokenClassification", "token-classification", {}, "bbox"),
        ("LiltForTokenClassification", "token-classification", {"channel_shrink_ratio": 2}, "bbox"),
        ("BrosForTokenClassification", "token-classification", {}, "bbox"),
        ("MarkupLMForTokenClassification", "token-classification", {}, "xpath_tags_seq, xpath_subs_seq"),
        ("LukeForMaskedLM", "fill-mask", {"entity_emb_size": 8, "entity_vocab_size": 6}, "entity_ids"),
        ("VisualBertModel", "feature-extraction", {"visual_embedding_dim": 8}, "visual_embeds"),
        ("ErnieModel", "feature-extraction", {"use_task_id": True, "task_type_vocab_size": 3}, "task_type_ids"),
        ("XmodModel", "feature-extraction", {"languages": ["de_DE", "fr_XX"]}, "lang_ids"),
        (
            "RoCBertModel",
            "feature-extraction",
            {"pronunciation_vocab_size": 9, "shape_vocab_size": 9},
            "input_shape_ids",
        ),
    ],
)
def test_an_input_that_the_graphs_lack_is_refused_by_name(
    name: str, task: str, sizes: Mapping[str, Any], lost: str, tmp_path: Path
) -> None:
    item, model = made(name, tmp_path, task=task, **sizes)

    with pytest.raises(ExportUnsupported, match=f"takes {lost}"):
        source_inputs.require_fed(item, model, fed=_TEXT)
    source_inputs.require_fed(item, model, fed=source_inputs.taken(model))


@pytest.mark.parametrize(
    ("name", "task", "sizes"),
    [
        ("BertForSequenceClassification", "text-classification", {}),
        ("ErnieModel", "feature-extraction", {"use_task_id": False}),
        ("XmodModel", "feature-extraction", {"languages": ["de_DE"]}),
        ("RoCBertModel", "feature-extraction", {"enable_shape": False, "enable_pronunciation": False}),
        ("LongformerForSequenceClassification", "text-classification", {"attention_window": 4}),
        ("GPT2ForSequenceClassification", "text-classification", {}),
        ("BartForSequenceClassification", "text-classification", _HEADS),
        ("T5ForQuestionAnswering", "question-answering", {"d_model": 24, "d_kv": 6, "d_ff": 32, "num_heads": 4}),
    ],
)
def test_what_the_model_fills_in_by_itself_needs_no_input(
    name: str, task: str, sizes: Mapping[str, Any], tmp_path: Path
) -> None:
    item, model = made(name, tmp_path, task=task, **sizes)

    source_inputs.require_fed(item, model, fed=_TEXT)

    left = source_inputs.unfed(item, model, fed=_TEXT, made={"input_ids", "attention_mask"})
    assert left
    assert all(each.reason for each in left)


def test_what_the_sources_tokenizer_makes_is_not_taken_on_the_tables_word(tmp_path: Path) -> None:
    item, model = made("LongformerForSequenceClassification", tmp_path, task="text-classification", attention_window=4)

    left = source_inputs.unfed(item, model, fed=_TEXT, made={*_TEXT, "global_attention_mask"})

    assert {each.name for each in left if each.doubtful} == {"global_attention_mask"}


def test_a_decoders_inputs_are_those_of_all_its_graphs(tmp_path: Path) -> None:
    sizes = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
    item, model = made("BartForConditionalGeneration", tmp_path, task="summarization", **sizes)
    encoder = {"input_ids", "attention_mask"}

    source_inputs.require_fed(item, model, fed={*encoder, "encoder_hidden_states", "encoder_attention_mask"})
    with pytest.raises(ExportUnsupported, match="decoder_input_ids"):
        source_inputs.require_fed(item, model, fed=encoder)


def rows_without(exported: Exported, *lost: str) -> list[CheckRow]:
    """What whole_model says of graphs that have not these inputs; it asks no graph to run."""
    item, (info,) = exported.stage.item, exported.stage.read_export().graphs
    subject = CheckContext(
        stage=Stage(exported.stage_dir, item),
        source_dir=exported.source_dir,
        graphs={"model": _without(info, lost)},
        sessions={},
        reference=reference.load(item, source_dir=exported.source_dir),
    )
    (check,) = (check for check in CHECKS[item.family] if check.name == "whole_model")
    return list(check.run(subject))


def _without(info: GraphInfo, lost: tuple[str, ...]) -> GraphInfo:
    kept: tuple[TensorSpec, ...] = tuple(spec for spec in info.inputs if spec.name not in lost)
    return replace(info, inputs=kept)


def test_the_row_of_an_input_says_what_moved(questions: Exported) -> None:
    (row,) = (row for row in rows_without(questions, "token_type_ids") if not row.passed)

    assert (row.check, row.finding, row.output) == ("whole_model", "missing", "token_type_ids")
    assert "PyTorch's own outputs move: start_logits" in row.detail


def test_a_whole_model_has_a_row_for_each_thing_that_is_proven_of_it(questions: Exported) -> None:
    rows = rows_without(questions)

    assert all(row.passed for row in rows)
    assert [row.case for row in rows] == [
        "the class that the source names",
        "every tensor of the source's files",
        "the outputs, by the weights that they are made with",
        "the inputs that the source's class takes",
    ]
    assert "position_ids" in rows[-1].detail
