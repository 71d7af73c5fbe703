"""Broken vision-language models: a SmolVLM and a LLaVA, whose three graphs consumers put together."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, helper

from mutations import decoder
from mutations.mutation import of_graph
from mutations.surgery import add_constant, as_ones, behind_output, change_weight, read_instead, swap_outputs


def mask_of_an_image_ignored(model: ModelProto) -> None:
    """What fills an image up to its square counts as image."""
    cast = helper.make_node("Cast", ["all_ones"], ["all_true"], to=TensorProto.BOOL)
    read_instead(model, "pixel_attention_mask", [*as_ones("pixel_attention_mask"), cast])


def pictures_mirrored(model: ModelProto) -> None:
    """Left is right."""
    _turned(model, "pixel_values", axis=4)


def images_exchanged(model: ModelProto) -> None:
    """A prompt's images stand in another order than it names them."""
    _turned(model, "pixel_values", axis=1)


def image_vectors_turned_around(model: ModelProto) -> None:
    """An image is read from its end."""
    for name, value in _backwards(axis=1).items():
        add_constant(model, name, np.array(value))
    turned = helper.make_node("Slice", ["right.image_features", "from", "to", "axis", "step"], ["image_features"])
    behind_output(model, "image_features", [turned])


def squares_mirrored(model: ModelProto) -> None:
    """Left is right, in images that follow one another."""
    _turned(model, "pixel_values", axis=3)


def squares_exchanged(model: ModelProto) -> None:
    """Images that follow one another are read from the last one."""
    _turned(model, "pixel_values", axis=0)


def embeddings_off_by_one(model: ModelProto) -> None:
    """Every token has its neighbour's vector."""
    change_weight(model, "embed_tokens.weight", lambda table: np.roll(table, 1, axis=0))


def mask_of_the_prompt_ignored(model: ModelProto) -> None:
    """Prompts attend to their padding."""
    decoder.mask_ignored(model)


def places_all_the_same(model: ModelProto) -> None:
    """Every token sits in the first place; all of them moved alike would be right, as rotary positions are relative."""
    add_constant(model, "none", np.array(0))
    read_instead(model, "position_ids", [helper.make_node("Mul", ["position_ids", "none"], ["first_places"])])


def places_restart_behind_the_cache(model: ModelProto) -> None:
    """Every call counts from zero: prompts are right, and every token after them is not."""
    decoder.positions_restart_behind_the_cache(model)


def values_of_two_layers_swapped(model: ModelProto) -> None:
    """Each layer's values are given back under the other's name."""
    swap_outputs(model, "present.0.value", "present.1.value")


def words_shifted(model: ModelProto) -> None:
    """Every token has its neighbour's logit."""
    decoder.vocabulary_shifted(model)


def _turned(model: ModelProto, name: str, *, axis: int) -> None:
    for constant, value in _backwards(axis=axis).items():
        add_constant(model, constant, np.array(value))
    read_instead(model, name, [helper.make_node("Slice", [name, "from", "to", "axis", "step"], ["turned"])])


def _backwards(*, axis: int) -> dict[str, list[int]]:
    return {"from": [-1], "to": [-(1 << 40)], "axis": [axis], "step": [-1]}


_sees = partial(of_graph, model="sights", family="vlm", role="vision_encoder")
_squares = partial(of_graph, model="squares", family="vlm", role="vision_encoder")
_embeds = partial(of_graph, model="sights", family="vlm", role="embed_tokens")
_answers = partial(of_graph, model="sights", family="vlm", role="decoder_model_merged")

MUTATIONS = (
    _sees(mask_of_an_image_ignored, check="parity"),
    _sees(pictures_mirrored, check="parity"),
    _sees(images_exchanged, check="parity"),
    _sees(image_vectors_turned_around, check="parity"),
    _squares(squares_mirrored, check="parity"),
    _squares(squares_exchanged, check="parity"),
    _embeds(embeddings_off_by_one, check="parity"),
    _answers(mask_of_the_prompt_ignored, check="padding"),
    _answers(places_all_the_same, check="parity"),
    _answers(places_restart_behind_the_cache, check="cache"),
    _answers(values_of_two_layers_swapped, check="cache"),
    _answers(words_shifted, check="greedy"),
)
