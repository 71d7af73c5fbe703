"""Broken encoder-decoders: a BART, whose two graphs share their weights."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, helper

from mutations.mutation import of_graph
from mutations.surgery import (
    add_constant,
    as_ones,
    as_prefix,
    behind_node,
    behind_output,
    change_weight,
    insert_before,
    nodes,
    read_instead,
    read_the_first_row,
    swap_outputs,
)


def cross_cache_frozen(model: ModelProto) -> None:
    """What comes out is what went in: the first step leaves nothing for later ones."""
    frozen = helper.make_node("Identity", ["past_key_values.1.encoder.key"], ["present.1.encoder.key"])
    behind_output(model, "present.1.encoder.key", [frozen])


def cross_cache_appended_again(model: ModelProto) -> None:
    """Every step projects the encoder's states, whether the cache holds them or not."""
    (piece,) = (node for node in nodes(model, "Slice") if "encoder_hidden_states" in node.input)
    piece.input[1] = add_constant(model, "from_the_start", np.array([0]))


def self_keys_of_two_layers_swapped(model: ModelProto) -> None:
    """Each layer's keys are given back under the other's name."""
    swap_outputs(model, "present.0.decoder.key", "present.1.decoder.key")


def cross_keys_and_values_swapped(model: ModelProto) -> None:
    """The names of one layer's cross-attention cache stand for each other."""
    swap_outputs(model, "present.1.encoder.key", "present.1.encoder.value")


def mask_of_the_source_dropped(model: ModelProto) -> None:
    """The decoder reads the source's padding; the input is still there."""
    read_instead(model, "encoder_attention_mask", as_ones("encoder_attention_mask"))


def mask_of_the_encoder_dropped(model: ModelProto) -> None:
    """The encoder reads padding; the decoder does not."""
    read_instead(model, "attention_mask", as_ones("attention_mask"))


def target_sees_ahead(model: ModelProto) -> None:
    """No causal mask: several target tokens at once see those behind them."""
    (compared,) = nodes(model, "LessOrEqual")
    name = compared.output[0]
    behind_node(
        model,
        compared,
        [helper.make_node("Not", ["before"], ["not_before"]), helper.make_node("Or", ["before", "not_before"], [name])],
    )


def target_positions_off_by_one(model: ModelProto) -> None:
    """Every token sits one place further to the right."""
    change_weight(model, "decoder.embed_positions.weight", lambda table: np.roll(table, -1, axis=0))


def positions_off_by_one_behind_a_cache(model: ModelProto) -> None:
    """The first step is right; every later one counts one token too few."""
    (lookup,) = (node for node in model.graph.node if any("decoder.embed_positions" in name for name in node.input))
    add_constant(model, "one_token", np.array([1]))
    made = [
        helper.make_node("Shape", ["past_key_values.0.decoder.key"], ["past_length"], start=2, end=3),
        helper.make_node("Min", ["past_length", "one_token"], ["too_few"]),
        helper.make_node("Sub", [lookup.input[1], "too_few"], ["wrong_positions"]),
    ]
    lookup.input[1] = "wrong_positions"
    insert_before(model, lookup, made)


def likeliest_tokens_shifted(model: ModelProto) -> None:
    """Logits stand one place off."""
    width = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    add_constant(model, "order", np.roll(np.arange(width), 1))
    behind_output(model, "logits", [helper.make_node("Gather", ["right.logits", "order"], ["logits"], axis=2)])


def bias_of_the_logits_moved(model: ModelProto) -> None:
    """A small vector beside the output layer, which is no parameter and is easily another's."""
    change_weight(model, "final_logits_bias", lambda bias: bias + np.float32(0.01))


def cross_cache_of_the_first_row(model: ModelProto) -> None:
    """Every row goes on reading the first row's source, once it is cached."""
    read_the_first_row(model, "past_key_values.1.encoder.value")


def mask_taken_for_a_length(model: ModelProto) -> None:
    """The encoder counts the mask's ones and takes that many tokens from the left: right for padding on the right."""
    read_instead(model, "attention_mask", as_prefix("attention_mask"))


def source_positions_off_by_one(model: ModelProto) -> None:
    """Every token of the source sits one place further to the right."""
    change_weight(model, "encoder.embed_positions.weight", lambda table: np.roll(table, -1, axis=0))


_decoder = partial(of_graph, model="bart", family="seq2seq", role="decoder_model_merged")
_encoder = partial(of_graph, model="bart", family="seq2seq", role="encoder_model")

MUTATIONS = (
    _decoder(cross_cache_frozen, check="cache", finding="error"),
    _decoder(cross_cache_appended_again, check="cache", finding="error"),
    _decoder(self_keys_of_two_layers_swapped, check="cache"),
    _decoder(cross_keys_and_values_swapped, check="cache"),
    _decoder(mask_of_the_source_dropped, check="padding"),
    _encoder(mask_of_the_encoder_dropped, check="padding"),
    _decoder(cross_cache_of_the_first_row, check="cache"),
    _encoder(mask_taken_for_a_length, check="padding"),
    _encoder(source_positions_off_by_one, check="parity"),
    _decoder(target_sees_ahead, check="parity"),
    _decoder(target_positions_off_by_one, check="parity"),
    _decoder(positions_off_by_one_behind_a_cache, check="cache"),
    _decoder(likeliest_tokens_shifted, check="greedy"),
    _decoder(bias_of_the_logits_moved, check="parity"),
)
