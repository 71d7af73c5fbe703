"""Dual encoders: three graphs over one set of weights, right together and alone, and a broken one is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.exported import Exported
from fixtures.items import work_item
from mutations.dual import side_in_another_space
from mutations.mutation import change_graph
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.source.families import GraphSpec
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CHECKS


def test_texts_and_images_have_batch_sizes_of_their_own(pairs: Exported) -> None:
    shapes = {
        graph.role: {spec.name: spec.shape for spec in (*graph.inputs, *graph.outputs)}
        for graph in pairs.stage.read_export().graphs
    }

    assert shapes == {
        "model": {
            "input_ids": ("text_batch_size", "sequence_length"),
            "pixel_values": ("image_batch_size", 3, 32, 32),
            "attention_mask": ("text_batch_size", "sequence_length"),
            "logits_per_image": ("image_batch_size", "text_batch_size"),
            "logits_per_text": ("text_batch_size", "image_batch_size"),
            "text_embeds": ("text_batch_size", 24),
            "image_embeds": ("image_batch_size", 24),
        },
        "text_model": {
            "input_ids": ("batch_size", "sequence_length"),
            "attention_mask": ("batch_size", "sequence_length"),
            "text_embeds": ("batch_size", 24),
            "last_hidden_state": ("batch_size", "sequence_length", 32),
        },
        "vision_model": {"pixel_values": ("batch_size", 3, 32, 32), "image_embeds": ("batch_size", 24)},
    }


def test_every_weight_is_written_once(pairs: Exported) -> None:
    (checkpoint,) = pairs.source_dir.glob("*.safetensors")
    (data,) = (pairs.stage_dir / "onnx").glob("*_data")

    assert data.name == "model.onnx_data"
    assert data.stat().st_size <= checkpoint.stat().st_size


def test_sound_graphs_pass_every_check(pairs: Exported) -> None:
    report = validate(pairs)

    assert report.passed, report.reason
    assert {row.check for row in report.rows} >= {check.name for check in CHECKS["dual"]} - {"recipe_cases"}
    assert {row.finding for row in report.rows if row.check == "sensitivity"} == {"sensitive"}


def test_a_side_that_lies_in_another_space_is_caught(pairs: Exported, tmp_path: Path) -> None:
    broken = pairs.copy(tmp_path)
    change_graph(broken.stage_dir / "onnx" / "text_model.onnx", side_in_another_space)

    failed = {row.check for row in validate(broken).rows if not row.passed}

    assert {"parts", "text_alone", "padding"} <= failed
    assert "image_alone" not in failed


def test_rows_of_patches_are_refused_with_what_to_take_instead(tmp_path: Path) -> None:
    with pytest.raises(ExportUnsupported, match="model_type is siglip"):
        graphs_of("Siglip2Model", tmp_path)


def test_a_model_that_reads_its_padding_takes_no_mask(tmp_path: Path) -> None:
    specs = graphs_of("SiglipModel", tmp_path)

    assert {spec.role: list(spec.inputs) for spec in specs} == {
        "model": ["input_ids", "pixel_values"],
        "text_model": ["input_ids"],
        "vision_model": ["pixel_values"],
    }
    assert [next(iter(spec.outputs)) for spec in specs[1:]] == ["pooler_output", "pooler_output"]


def graphs_of(name: str, folder: Path) -> tuple[GraphSpec, ...]:
    """How a zoo's architecture is cut; nothing is traced."""
    from onnx_fleet.source.families import dual
    from zoo import ARCHITECTURES
    from zoo.repo import save

    (architecture,) = (row for row in ARCHITECTURES if row.name == name)
    source_dir = folder / "zoo" / name
    save(architecture, source_dir)
    item = work_item(source_dir, task=architecture.task)
    return dual.graphs(item, dual.FAMILY.load(item, source_dir, None))


def validate(exported: Exported) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir)
