"""What models of text take beside tokens: which of it becomes an input, and what is fed to it."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from fixtures.exported import Exported
from onnx_fleet.graphs import further_inputs, text_inputs
from onnx_fleet.graphs.text_inputs import ModelLimits, TokenSpace

BOXES_AND_IMAGE = {"max_2d_position_embeddings": 64, "visual_embed": True, "input_size": 32, "num_channels": 3}


@pytest.fixture
def space(small_repo: Path) -> TokenSpace:
    further = further_inputs.of_model(("input_ids", "bbox", "pixel_values"), BOXES_AND_IMAGE)
    limits = ModelLimits(vocab_size=600, max_length=64, token_types=2, pad_token_id=0, further=further)
    return text_inputs.token_space(small_repo, limits)


@pytest.mark.parametrize(
    ("name", "settings", "taken"),
    [
        ("LayoutLMForTokenClassification", {}, ["bbox"]),
        ("LiltForSequenceClassification", {}, ["bbox"]),
        ("LayoutLMv3ForQuestionAnswering", {}, ["bbox", "pixel_values"]),
        ("LayoutLMv3Model", {"visual_embed": False}, ["bbox"]),
        ("BrosModel", {}, ["bbox"]),
        ("MarkupLMModel", {}, ["xpath_tags_seq", "xpath_subs_seq"]),
        ("RoCBertModel", {}, ["input_shape_ids", "input_pronunciation_ids"]),
        ("RoCBertModel", {"enable_shape": False}, ["input_pronunciation_ids"]),
        ("ErnieModel", {"use_task_id": True}, ["task_type_ids"]),
        ("ErnieModel", {}, []),
        ("XLMModel", {"n_langs": 3}, ["langs"]),
        ("XLMModel", {}, []),
        ("BertForTokenClassification", {}, []),
    ],
)
def test_what_becomes_an_input_follows_from_the_configuration(
    name: str, settings: dict[str, object], taken: list[str]
) -> None:
    import transformers

    model_class = getattr(transformers, name)
    parameters = inspect.signature(model_class.forward).parameters
    config = model_class.config_class(**settings).to_dict()

    assert [each.name for each in further_inputs.of_model(parameters, config)] == taken


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("LukeForTokenClassification", "entity_ids"),
        ("VisualBertModel", "visual_embeds"),
        ("LxmertModel", "visual_feats"),
        ("LayoutLMv2ForTokenClassification", "image"),
        ("TapasForSequenceClassification", "token_type_ids"),
        ("LongformerModel", "global_attention_mask"),
        ("XmodModel", "lang_ids"),
        ("BertModel", None),
        ("LayoutLMv3Model", None),
    ],
)
def test_what_no_graph_takes_is_known_by_its_name(name: str, refused: str | None) -> None:
    import transformers

    model_class = getattr(transformers, name)
    parameters = inspect.signature(model_class.forward).parameters
    found = list(further_inputs.refused(parameters, model_class.config_class().to_dict()))

    assert [each.name for each in found] == ([refused] if refused else [])


def test_boxes_lie_on_the_page(space: TokenSpace) -> None:
    boxes = text_inputs.random_batch(space, batch_size=7, length=60, seed=0).per_token["bbox"]

    assert boxes.shape == (7, 60, 4)
    assert boxes.dtype == np.int64
    assert boxes.min() >= 0
    assert boxes.max() == 63
    assert (boxes[..., :2] <= boxes[..., 2:]).all()
    assert (boxes[..., :2] < boxes[..., 2:]).any()


def test_no_box_is_further_out_than_a_page_of_the_hub() -> None:
    (found,) = further_inputs.of_model(("bbox",), {"max_2d_position_embeddings": 1024})

    assert found.draw(np.random.default_rng(0), (100, 100, 4)).max() == 1000


def test_padding_has_no_place(space: TokenSpace) -> None:
    rows = [text_inputs.random_batch(space, batch_size=1, length=length, seed=0) for length in (9, 2)]

    batch = text_inputs.pad(rows, side="left", space=space)

    assert not batch.per_token["bbox"][1, :7].any()
    assert np.array_equal(batch.per_token["bbox"][1, 7:], rows[1].per_token["bbox"][0])
    assert np.array_equal(batch.per_row["pixel_values"][1], rows[1].per_row["pixel_values"][0])


def test_what_is_masked_gets_other_boxes_and_the_rest_keeps_its_own(space: TokenSpace) -> None:
    rows = [text_inputs.random_batch(space, batch_size=1, length=length, seed=0) for length in (9, 2)]
    batch = text_inputs.pad(rows, side="right", space=space)

    noisy = text_inputs.replace_masked(batch, space=space, seed=3)

    before, after = batch.per_token["bbox"], noisy.per_token["bbox"]
    assert np.array_equal(before[batch.real], after[batch.real])
    assert after[~batch.real].any()
    assert np.array_equal(batch.per_row["pixel_values"], noisy.per_row["pixel_values"])


def test_rows_of_a_batch_keep_their_boxes_and_images(space: TokenSpace) -> None:
    batch = text_inputs.random_batch(space, batch_size=3, length=8, seed=0)

    assert np.array_equal(batch[1:].per_row["pixel_values"], batch.per_row["pixel_values"][1:])
    assert np.array_equal(batch.cut(3).per_token["bbox"], batch.per_token["bbox"][:, :3])
    assert batch.cut(3).feeds.keys() == batch.feeds.keys()


def test_the_same_text_gets_the_same_boxes(small_repo: Path, space: TokenSpace) -> None:
    (first, _), (again, _) = (text_inputs.text_batches(small_repo, space) for _ in range(2))

    assert np.array_equal(first.per_token["bbox"], again.per_token["bbox"])
    assert not np.array_equal(first.per_token["bbox"][0, :3], first.per_token["bbox"][1, :3])


def test_versions_of_a_layout_model_are_compared_on_boxes_and_images(forms: Exported) -> None:
    from onnx_fleet.graphs import text_inputs

    graphs = forms.stage.read_export().graphs
    found = text_inputs.token_space_of_files(forms.stage_dir, graphs=graphs, longest=13)

    assert found is not None
    batch = text_inputs.random_batch(found, batch_size=2, length=13, seed=0)
    assert batch.per_token["bbox"].max() > 30
    assert batch.per_row["pixel_values"].shape == (2, 3, 32, 32)
