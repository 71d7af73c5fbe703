"""Vision-language models: three graphs that consumers put together, right with images, without, and token by token."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.exported import Exported, export_from_zoo
from mutations.mutation import change_graph
from mutations.vlm import pictures_mirrored
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CHECKS


def test_the_graphs_are_the_ones_that_consumers_put_together(sights: Exported) -> None:
    graphs = {graph.role: graph for graph in sights.stage.read_export().graphs}
    inputs = {role: {spec.name: spec.shape for spec in graph.inputs} for role, graph in graphs.items()}

    assert list(graphs) == ["embed_tokens", "vision_encoder", "decoder_model_merged"]
    assert inputs["embed_tokens"] == {"input_ids": ("batch_size", "sequence_length")}
    assert inputs["vision_encoder"] == {
        "pixel_values": ("batch_size", "num_images", 3, 32, 32),
        "pixel_attention_mask": ("batch_size", "num_images", 32, 32),
    }
    assert list(inputs["decoder_model_merged"])[:4] == [
        "inputs_embeds", "attention_mask", "position_ids", "past_key_values.0.key",
    ]  # fmt: skip
    assert graphs["vision_encoder"].outputs[0].shape == ("image_batch_size", 4, 32)


def test_sound_graphs_pass_every_check(sights: Exported) -> None:
    report = validate(sights)

    assert report.passed, report.reason
    assert {row.check for row in report.rows} >= {check.name for check in CHECKS["vlm"]} - {"recipe_cases"}
    assert {row.finding for row in report.rows if row.check == "sensitivity"} == {"sensitive"}


def test_an_image_that_is_mirrored_is_caught_where_there_is_one(sights: Exported, tmp_path: Path) -> None:
    broken = sights.copy(tmp_path)
    change_graph(broken.stage_dir / "onnx" / "vision_encoder.onnx", pictures_mirrored)

    failed = {(row.check, row.case.partition(" images")[0]) for row in validate(broken).rows if not row.passed}

    assert {("parity", "rows of 1"), ("parity", "rows of 2 and 1")} <= failed
    assert ("parity", "rows of 0") not in failed


def test_images_of_one_size_follow_one_another_where_the_model_takes_no_masks(squares: Exported) -> None:
    graphs = {graph.role: graph for graph in squares.stage.read_export().graphs}

    assert list(graphs) == ["embed_tokens", "vision_encoder", "decoder_model_merged"]
    assert [(spec.name, spec.shape) for spec in graphs["vision_encoder"].inputs] == [
        ("pixel_values", ("image_batch_size", 3, 32, 32))
    ]
    assert graphs["vision_encoder"].outputs[0].shape == ("image_batch_size", 16, 32)


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("LlavaNextForConditionalGeneration", "takes image_sizes beside the pixels"),
        ("PaliGemmaForConditionalGeneration", "its decoder takes token_type_ids"),
        ("Qwen2VLForConditionalGeneration", "takes image_grid_thw beside the pixels"),
        ("AriaForConditionalGeneration", "takes pixel_mask beside the pixels"),
    ],
)
def test_what_a_model_takes_beside_the_pixels_is_named(name: str, takes: str) -> None:
    import transformers

    from onnx_fleet.source.families import model_class, vlm

    cls = getattr(transformers, name)

    assert any(takes in why for why in vlm.obstacles(model_class.blank(cls, cls.config_class())))


def test_a_model_that_looks_in_another_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportUnsupported, match="it takes image_sizes beside the pixels"):
        export_from_zoo("LlavaNextForConditionalGeneration", tmp_path)


def validate(exported: Exported) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir)
