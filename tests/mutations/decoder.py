"""Broken decoders: GPT-2s with learned positions, and a Qwen3 with rotary ones and grouped heads."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, helper

from mutations.mutation import of_graph
from mutations.surgery import (
    add_constant,
    as_ones,
    behind_node,
    behind_output,
    change_weight,
    insert_before,
    nodes,
    producer,
    read_instead,
    read_the_first_row,
    swap_outputs,
)


def mask_ignored(model: ModelProto) -> None:
    """The mask is an input without an effect: prompts attend to their padding."""
    read_instead(model, "attention_mask", as_ones("attention_mask"))


def positions_from_the_left_edge(model: ModelProto) -> None:
    """position_ids is an input without an effect: positions are counted over padding too."""
    add_constant(model, "one", np.array(1))
    made = [
        helper.make_node("Shape", ["position_ids"], ["positions_shape"]),
        helper.make_node("Gather", ["positions_shape", "one"], ["new_length"]),
        helper.make_node("Shape", ["attention_mask"], ["shape_of_mask"]),
        helper.make_node("Gather", ["shape_of_mask", "one"], ["total_length"]),
        helper.make_node("Sub", ["total_length", "new_length"], ["past_length"]),
        helper.make_node("Range", ["past_length", "total_length", "one"], ["plain_range"]),
        helper.make_node("Expand", ["plain_range", "positions_shape"], ["plain_positions"]),
    ]
    read_instead(model, "position_ids", made)


def positions_restart_behind_the_cache(model: ModelProto) -> None:
    """Every call counts from zero: prompts are right, and every token after them is not."""
    add_constant(model, "zero", np.array(0))
    add_constant(model, "one", np.array(1))
    made = [
        helper.make_node("Shape", ["position_ids"], ["positions_shape"]),
        helper.make_node("Gather", ["positions_shape", "one"], ["new_length"]),
        helper.make_node("Range", ["zero", "new_length", "one"], ["plain_range"]),
        helper.make_node("Expand", ["plain_range", "positions_shape"], ["plain_positions"]),
    ]
    read_instead(model, "position_ids", made)


def token_positions_off_by_one(model: ModelProto) -> None:
    """Every token sits one place further to the right."""
    add_constant(model, "one", np.array(1))
    read_instead(model, "position_ids", [helper.make_node("Add", ["position_ids", "one"], ["later"])])


def causal_mask_off(model: ModelProto) -> None:
    """A prompt's tokens see those behind them; step by step nothing is wrong."""
    (compared,) = nodes(model, "LessOrEqual")
    name = compared.output[0]
    behind_node(
        model,
        compared,
        [helper.make_node("Not", ["before"], ["not_before"]), helper.make_node("Or", ["before", "not_before"], [name])],
    )


def keys_of_two_layers_swapped(model: ModelProto) -> None:
    """Each layer's keys are given back under the other's name."""
    swap_outputs(model, "present.0.key", "present.1.key")


def cached_values_not_read(model: ModelProto) -> None:
    """The cached values of the first layer count as zero."""
    add_constant(model, "zero", np.array(0, np.float32))
    name = "past_key_values.0.value"
    read_instead(model, name, [helper.make_node("Mul", [name, "zero"], ["no_values"])])


def cache_forgets_its_past(model: ModelProto) -> None:
    """The first layer gives back only the new keys: the cache never grows."""
    new = producer(model, "present.0.key").input[1]
    behind_output(model, "present.0.key", [helper.make_node("Identity", [new], ["present.0.key"])])


def cache_of_the_first_row(model: ModelProto) -> None:
    """Every row continues the first row's text in one layer."""
    read_the_first_row(model, "past_key_values.0.value")


def cache_outputs_reordered(model: ModelProto) -> None:
    """Keys and values of a layer stand in another order: consumers that pair them by order get wrong tokens."""
    keys, values = model.graph.output[1], model.graph.output[2]
    first, second = type(keys)(), type(values)()
    first.CopyFrom(keys)
    second.CopyFrom(values)
    keys.CopyFrom(second)
    values.CopyFrom(first)


def temperature_baked_in(model: ModelProto) -> None:
    """Logits of one percent more: the likeliest tokens are the same."""
    add_constant(model, "scale", np.array(1.01, dtype=np.float32))
    behind_output(model, "logits", [helper.make_node("Mul", ["right.logits", "scale"], ["logits"])])


def vocabulary_shifted(model: ModelProto) -> None:
    """Every token has its neighbour's logit."""
    width = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    add_constant(model, "order", np.roll(np.arange(width), 1))
    behind_output(model, "logits", [helper.make_node("Gather", ["right.logits", "order"], ["logits"], axis=2)])


def rotation_of_another_base(model: ModelProto) -> None:
    """The rotary positions of a model with another theta."""
    change_weight(model, "rotary_emb.inv_freq", lambda frequencies: frequencies**1.05)


def rotation_the_other_way(model: ModelProto) -> None:
    """Sines of the other sign, for queries and keys alike."""
    (sine,) = nodes(model, "Sin")
    name = sine.output[0]
    add_constant(model, "minus", np.array(-1, dtype=np.float32))
    behind_node(model, sine, [helper.make_node("Mul", ["before", "minus"], [name])])


def queries_of_a_group_permuted(model: ModelProto) -> None:
    """Heads that share keys in other groups: query heads in another order, their outputs too."""
    heads = 4
    change_weight(
        model,
        "layers.0.self_attn.q_proj.weight",
        lambda weight: np.concatenate([np.split(weight, heads)[head] for head in (0, 2, 1, 3)]),
    )


def root_mean_square_without_epsilon(model: ModelProto) -> None:
    """A norm's epsilon of another model, where values are small."""
    epsilon = next(iter(nodes(model, "ReduceMean"))).output[0]
    (adding,) = (node for node in nodes(model, "Add") if epsilon in node.input)
    place = 1 - list(adding.input).index(epsilon)
    adding.input[place] = add_constant(model, "other_epsilon", np.array(1e-2, dtype=np.float32))


def output_layer_untied(model: ModelProto) -> None:
    """The output layer was trained on without the embeddings that it shares."""
    last = producer(model, "logits")
    width = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    moved = np.random.default_rng(0).normal(scale=0.01, size=width).astype(np.float32)
    insert_before(
        model, last, [helper.make_node("Add", [last.input[1], add_constant(model, "moved", moved)], ["untied"])]
    )
    last.input[1] = "untied"


def scores_not_scaled(model: ModelProto) -> None:
    """Attention without its division by the root of the head size, in one layer."""
    masked = producer(model, nodes(model, "Softmax")[0].input[0])
    masked.input[0] = producer(model, masked.input[0]).input[0]


def last_logits_only(model: ModelProto) -> None:
    """Logits of the last token alone, as generation needs and nothing else does."""
    for name, value in {"last": [-1], "end": [1 << 40], "tokens": [1]}.items():
        add_constant(model, name, np.array(value))
    behind_output(model, "logits", [helper.make_node("Slice", ["right.logits", "last", "end", "tokens"], ["logits"])])


def table_of_600_positions(model: ModelProto) -> None:
    """A buffer of the mask ends there: texts of as many tokens are right, and longer ones do not run."""
    softmax = nodes(model, "Softmax")[0]
    add_constant(model, "table", np.zeros((600, 600), dtype=np.float32))
    add_constant(model, "corner", np.array([0, 0]))
    made = [
        helper.make_node("Shape", [softmax.input[0]], ["scores_shape"], start=2),
        helper.make_node("Slice", ["table", "corner", "scores_shape"], ["of_the_table"]),
        helper.make_node("Add", [softmax.input[0], "of_the_table"], ["scores_with_table"]),
    ]
    softmax.input[0] = "scores_with_table"
    insert_before(model, softmax, made)


_gpt2 = partial(of_graph, model="gpt2", family="decoder")
_long = partial(of_graph, model="long", family="decoder")
_qwen3 = partial(of_graph, model="qwen3", family="decoder")

MUTATIONS = (
    _gpt2(mask_ignored, check="padding_left"),
    _gpt2(positions_from_the_left_edge, check="padding_left"),
    _gpt2(positions_restart_behind_the_cache, check="cache"),
    _gpt2(token_positions_off_by_one, check="prompt"),
    _gpt2(causal_mask_off, check="prompt"),
    _gpt2(keys_of_two_layers_swapped, check="cache"),
    _gpt2(cached_values_not_read, check="cache"),
    _gpt2(cache_forgets_its_past, check="dynamic", finding="shape"),
    _gpt2(cache_of_the_first_row, check="cache"),
    _gpt2(cache_outputs_reordered, check="contract"),
    _gpt2(temperature_baked_in, check="prompt"),
    _gpt2(vocabulary_shifted, check="greedy"),
    _gpt2(output_layer_untied, check="prompt"),
    _gpt2(scores_not_scaled, check="prompt"),
    _gpt2(last_logits_only, check="dynamic", finding="shape"),
    _long(table_of_600_positions, check="dynamic", finding="error"),
    _qwen3(rotation_of_another_base, check="prompt"),
    _qwen3(rotation_the_other_way, check="prompt"),
    _qwen3(queries_of_a_group_permuted, check="prompt"),
    _qwen3(root_mean_square_without_epsilon, check="prompt"),
)
