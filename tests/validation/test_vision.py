"""Vision models: what their graphs promise of sizes, masks and features, and that a broken one is caught."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fixtures.exported import Exported, export_from_zoo
from fixtures.items import work_item
from mutations.mutation import change_graph
from mutations.vision import classes_moved
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.validation_report import CheckRow, ValidationReport
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs import image_inputs
from onnx_fleet.source.families import vision
from onnx_fleet.validation import validator
from onnx_fleet.validation.checks import CHECKS
from zoo import ARCHITECTURES
from zoo.repo import save


def test_a_model_without_a_position_table_takes_images_of_any_size(convolutions: Exported) -> None:
    graph = the_graph(convolutions)

    assert {spec.name: spec.shape for spec in (*graph.inputs, *graph.outputs)} == {
        "pixel_values": ("batch_size", 3, "height", "width"),
        "logits": ("batch_size", 5),
    }
    assert convolutions.stage.read_export().fallbacks == ()


def test_it_is_proven_at_sizes_that_were_never_traced(convolutions: Exported) -> None:
    report = validate(convolutions)

    assert report.passed, report.reason
    sizes = [row.case for row in report.rows if row.check == "parity" and "pixels" in row.case]
    assert {"69 x 93" in case for case in sizes} == {True, False}
    assert [row.finding for row in report.rows if row.check == "sensitivity"] == ["sensitive"]


def test_a_model_with_a_position_table_takes_its_one_size_and_the_record_says_so(patches: Exported) -> None:
    (fallback,) = patches.stage.read_export().fallbacks

    assert the_graph(patches).inputs[0].shape == ("batch_size", 3, 32, 32)
    assert fallback.what == "model: dynamic -> fixed height, width"
    assert "32 x 32 pixels" in fallback.why
    assert validate(patches).passed


def test_every_check_of_vision_runs_on_a_detector_with_a_mask(boxes: Exported) -> None:
    report = validate(boxes)

    assert report.passed, report.reason
    assert {row.check for row in report.rows} >= {check.name for check in CHECKS["vision"]} - {"recipe_cases"}


def test_a_mask_of_another_size_than_the_image_is_taken_as_consumers_send_it(boxes: Exported) -> None:
    session = onnxruntime.InferenceSession(boxes.graph)
    image = np.zeros((1, 3, 70, 90), dtype=np.float32)

    logits, found = session.run(None, {"pixel_values": image, "pixel_mask": np.ones((1, 64, 64), dtype=np.int64)})

    assert (logits.shape, found.shape) == ((1, 6, 6), (1, 6, 4))


def test_another_label_of_a_picture_is_caught_by_name(patches: Exported, tmp_path: Path) -> None:
    broken = patches.copy(tmp_path)
    change_graph(broken.graph, classes_moved)

    rows = failures(validate(broken), "answers")

    assert [row.finding for row in rows] == ["different", "different"]
    assert "of them are others" in rows[0].detail


def test_a_pooler_that_the_checkpoint_has_is_an_output(tmp_path: Path) -> None:
    """It is looked for in the source, which a model made of stand-ins was not read from."""
    pooled = export_from_zoo("ViTModel", tmp_path)

    assert [spec.name for spec in pooled.stage.read_export().graphs[0].outputs] == [
        "last_hidden_state", "pooler_output",
    ]  # fmt: skip


def test_a_pooler_that_the_checkpoint_lacks_is_left_out(tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "zoo" / "vit"
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    with_pooler, without = (transformers.ViTModel(config, add_pooling_layer=pools) for pools in (True, False))
    outputs = []
    for model in (with_pooler, without):
        model.save_pretrained(folder)
        item = work_item(folder, task="image-feature-extraction")
        (spec,) = vision.graphs(item, vision.FAMILY.load(item, folder, None))
        outputs.append(list(spec.outputs))

    assert outputs == [["last_hidden_state", "pooler_output"], ["last_hidden_state"]]


def test_features_that_change_from_call_to_call_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportUnsupported, match="other features for one image with every call"):
        export_from_zoo("ViTMAEModel", tmp_path)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": {"height": 384, "width": 512}}, (384, 512)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, (224, 224)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384)),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, None),
        ({}, None),
    ],
)
def test_the_size_of_images_is_the_one_that_the_preprocessor_gives(
    settings: Mapping[str, Any], size: tuple[int, int] | None
) -> None:
    assert image_inputs.size_of_preprocessor(settings) == size


def test_pictures_are_normalised_as_the_preprocessor_says(patches: Exported) -> None:
    settings = json.loads((patches.stage_dir / "preprocessor_config.json").read_text())
    plain, normal = (
        image_inputs.batch(2, channels=3, size=(8, 8), seed=0, kind="picture", settings=given)
        for given in ({"do_normalize": False}, settings)
    )

    assert plain.min() >= 0
    assert plain.max() <= 1
    np.testing.assert_allclose(normal, (plain - 0.5) / 0.5, rtol=1e-6, atol=1e-6)


def the_graph(exported: Exported) -> GraphInfo:
    (graph,) = exported.stage.read_export().graphs
    return graph


def validate(exported: Exported) -> ValidationReport:
    return validator.validate(exported.stage, source_dir=exported.source_dir)


def failures(report: ValidationReport, check: str) -> list[CheckRow]:
    return [row for row in report.rows if row.check == check and not row.passed]


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("RTDetrForObjectDetection", {"logits", "pred_boxes"}),
        ("PPDocLayoutV3ForObjectDetection", {"logits", "pred_boxes", "order_logits", "out_masks"}),
        (
            "PPDocLayoutV4ForObjectDetection",
            {"logits", "pred_boxes", "relative_order_logits", "successor_order_logits"},
        ),
        ("PPOCRV5ServerDetForObjectDetection", {"last_hidden_state"}),
        ("MaskFormerForInstanceSegmentation", {"class_queries_logits", "masks_queries_logits"}),
        ("DepthProForDepthEstimation", {"predicted_depth", "field_of_view"}),
    ],
)
def test_all_that_post_processing_reads_is_an_output(name: str, outputs: set[str], tmp_path: Path) -> None:
    row = next(row for row in ARCHITECTURES if row.name == name)
    save(row, tmp_path)
    item = work_item(tmp_path, task=row.task)
    model = vision.FAMILY.load(item, tmp_path, None)

    assert set(vision.outputs(item, model, vision.sight(item, model))) == outputs
