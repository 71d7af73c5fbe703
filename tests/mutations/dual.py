"""Broken dual encoders: a Chinese CLIP, three graphs over one file of weights."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, helper

from mutations.mutation import of_graph
from mutations.surgery import add_constant, as_ones, as_prefix, behind_output, change_weight, read_instead, swap_outputs


def side_in_another_space(model: ModelProto) -> None:
    """Texts alone are projected by another matrix than texts beside images."""
    change_weight(model, "text_projection.weight", lambda weight: weight[::-1])


def temperature_lost(model: ModelProto) -> None:
    """Similarities are cosines, not scaled by what the model learned: the best match is the same, its chance is not."""
    change_weight(model, "logit_scale", np.zeros_like)


def embeddings_exchanged(model: ModelProto) -> None:
    """Texts' embeddings are called images', and the other way round."""
    swap_outputs(model, "text_embeds", "image_embeds")


def mask_of_texts_dropped(model: ModelProto) -> None:
    """Padding of a text counts, where texts stand alone."""
    read_instead(model, "attention_mask", as_ones("attention_mask"))


def pooled_by_the_second_token(model: ModelProto) -> None:
    """A text is what its second token says, where its first one is meant."""
    add_constant(model, "second", np.array([1]))
    add_constant(model, "both", np.array([0, 1]))
    weight = next(name for node in model.graph.node for name in node.input if name == "text_projection.weight")
    made = [
        helper.make_node("Gather", ["last_hidden_state", "second"], ["picked"], axis=1),
        helper.make_node("Squeeze", ["picked", "second"], ["pooled"]),
        helper.make_node("Gemm", ["pooled", weight], ["text_embeds"], transB=1),
    ]
    behind_output(model, "text_embeds", made)


def image_patches_permuted(model: ModelProto) -> None:
    """An image's patches stand in another order than their positions, where images stand alone."""
    change_weight(model, "position_embedding.weight", lambda table: np.concatenate([table[:1], table[:0:-1]]))


def similarities_exchanged(model: ModelProto) -> None:
    """Rows are images where they are called texts, and the other way round."""
    swap_outputs(model, "logits_per_text", "logits_per_image")


def images_in_bytes_alone(model: ModelProto) -> None:
    """From 0 to 255 where images stand alone, and as the preprocessor makes them beside texts."""
    add_constant(model, "bytes", np.array(255, dtype=np.float32))
    read_instead(model, "pixel_values", [helper.make_node("Mul", ["pixel_values", "bytes"], ["rescaled"])])


def mask_of_texts_taken_for_a_length(model: ModelProto) -> None:
    """The mask's ones are counted, and that many tokens taken from the left: right for padding on the right."""
    read_instead(model, "attention_mask", as_prefix("attention_mask"))


def positions_of_texts_off_by_one(model: ModelProto) -> None:
    """Every token sits one place further to the right, where texts stand alone."""
    change_weight(model, "position_embeddings.weight", lambda table: np.roll(table, -1, axis=0))


_pairs = partial(of_graph, model="pairs", family="dual")

MUTATIONS = (
    _pairs(side_in_another_space, role="text_model", check="parts"),
    _pairs(temperature_lost, check="parity"),
    _pairs(embeddings_exchanged, check="parity", finding="shape"),
    _pairs(similarities_exchanged, check="parity", finding="shape"),
    _pairs(images_in_bytes_alone, role="vision_model", check="image_alone"),
    _pairs(mask_of_texts_taken_for_a_length, role="text_model", check="padding"),
    _pairs(positions_of_texts_off_by_one, role="text_model", check="text_alone"),
    _pairs(mask_of_texts_dropped, role="text_model", check="padding"),
    _pairs(pooled_by_the_second_token, role="text_model", check="text_alone"),
    _pairs(image_patches_permuted, role="vision_model", check="image_alone"),
)
