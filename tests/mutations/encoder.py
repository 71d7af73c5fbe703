"""Broken encoders: a BERT that answers questions, the same badly conditioned, and a RoBERTa with a pooled output."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

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
    upstream,
)

_HEADS = 4


def mask_dropped(model: ModelProto) -> None:
    """The mask is an input without an effect: every position counts as real."""
    read_instead(model, "attention_mask", as_ones("attention_mask"))


def mask_inverted(model: ModelProto) -> None:
    """Padding counts, tokens do not."""
    add_constant(model, "one", np.array(1))
    read_instead(model, "attention_mask", [helper.make_node("Sub", ["one", "attention_mask"], ["inverted"])])


def mask_pruned(model: ModelProto) -> None:
    """No mask among the inputs, as an exporter leaves it when the example's mask was all ones."""
    mask_dropped(model)
    producer(model, "shape_of_mask").input[0] = "input_ids"
    model.graph.input.remove(next(value for value in model.graph.input if value.name == "attention_mask"))


def mask_of_the_first_row(model: ModelProto) -> None:
    """One row's mask is broadcast to all rows of a batch."""
    read_the_first_row(model, "attention_mask")


def causal_mask(model: ModelProto) -> None:
    """A token sees only those on its left."""
    softmax = nodes(model, "Softmax")[0]
    add_constant(model, "minus", np.triu(np.full((512, 512), -1e9, dtype=np.float32), 1))
    add_constant(model, "corner", np.array([0, 0]))
    made = [
        helper.make_node("Shape", [softmax.input[0]], ["scores_shape"], start=2),
        helper.make_node("Slice", ["minus", "corner", "scores_shape"], ["future"]),
        helper.make_node("Add", [softmax.input[0], "future"], ["causal_scores"]),
    ]
    softmax.input[0] = "causal_scores"
    insert_before(model, softmax, made)


def batch_frozen_in_the_input(model: ModelProto) -> None:
    """The example's number of rows where the symbol was."""
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = 2


def length_frozen_inside(model: ModelProto) -> None:
    """Symbols outside; a reshape inside keeps the example's length."""
    add_constant(model, "frozen_shape", np.array([0, 7]))
    read_instead(model, "input_ids", [helper.make_node("Reshape", ["input_ids", "frozen_shape"], ["frozen_ids"])])


def positions_off_by_one(model: ModelProto) -> None:
    """Every token sits one place further to the right."""
    change_weight(model, "embeddings.position_embeddings.weight", lambda table: np.roll(table, -1, axis=0))


def bit_flipped(model: ModelProto) -> None:
    """One bit of one weight in a matrix of thousands: the lowest of the exponent, which doubles or halves it."""
    change_weight(model, "layer.0.attention.self.query.weight", _flipped)


def bit_flipped_in_a_row_never_fed(model: ModelProto) -> None:
    """The same in the embedding of a token that no text here has: no output can tell."""
    change_weight(model, "embeddings.word_embeddings.weight", partial(_flipped, row=4))


def _flipped(weight: np.ndarray, row: int = 3) -> np.ndarray:
    flipped = weight.copy()
    flipped.view(np.uint32)[row, 5] ^= 1 << 23
    return flipped


def weight_transposed(model: ModelProto) -> None:
    """A square one: no shape tells."""
    change_weight(model, "layer.0.attention.self.query.weight", np.transpose)


def heads_permuted(model: ModelProto) -> None:
    """The values of one layer's heads stand in another order than its queries and keys."""
    for name in ("weight", "bias"):
        change_weight(
            model,
            f"layer.0.attention.self.value.{name}",
            lambda value: np.concatenate(np.split(value, _HEADS)[::-1]),
        )


def weights_rounded_to_half(model: ModelProto) -> None:
    """Through float16 and back, as a careless save does."""
    for tensor in list(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).clip(-60000, 60000).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def activations_in_half(model: ModelProto) -> None:
    """What goes into one layer's second matrix goes through float16 on its way."""
    value = nodes(model, "Gelu")[0]
    name = value.output[0]
    half = helper.make_node("Cast", ["before"], ["half"], to=TensorProto.FLOAT16)
    behind_node(model, value, [half, helper.make_node("Cast", ["half"], [name], to=TensorProto.FLOAT)])


def overflow_in_half(model: ModelProto) -> None:
    """A value that float16 has no number for: 2 to the 18th of what it was, through float16, and back."""
    value = nodes(model, "Gelu")[0]
    name = value.output[0]
    add_constant(model, "large", np.array(2.0**18, dtype=np.float32))
    made = [
        helper.make_node("Mul", ["before", "large"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["whole", "large"], [name]),
    ]
    behind_node(model, value, made)


def weight_not_a_number(model: ModelProto) -> None:
    """One vector was never written."""
    change_weight(model, "embeddings.LayerNorm.bias", lambda weight: np.full_like(weight, np.nan))


def token_types_ignored(model: ModelProto) -> None:
    """Every token belongs to sentence A."""
    add_constant(model, "no_type", np.array(0))
    read_instead(model, "token_type_ids", [helper.make_node("Mul", ["token_type_ids", "no_type"], ["all_a"])])


def softmax_over_the_wrong_axis(model: ModelProto) -> None:
    """Weights sum to one over queries, not over keys."""
    for node in nodes(model, "Softmax"):
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", 2))


def layer_norm_epsilon_changed(model: ModelProto) -> None:
    """Of another architecture."""
    for node in nodes(model, "LayerNormalization"):
        next(item for item in node.attribute if item.name == "epsilon").f = 1e-2


def activation_approximated(model: ModelProto) -> None:
    """GELU by its tanh formula, where the model has the exact one."""
    for node in nodes(model, "Gelu"):
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("approximate", "tanh"))


def residual_lost(model: ModelProto) -> None:
    """One layer's output without what went into it."""
    norm = nodes(model, "LayerNormalization")[1]
    norm.input[0] = producer(model, norm.input[0]).input[0]


def outputs_swapped(model: ModelProto) -> None:
    """The names stay, the values change places."""
    swap_outputs(model, "start_logits", "end_logits")


def logits_scaled(model: ModelProto) -> None:
    """By one percent."""
    add_constant(model, "scale", np.array(1.01, dtype=np.float32))
    scaled = helper.make_node("Mul", ["right.start_logits", "scale"], ["start_logits"])
    behind_output(model, "start_logits", [scaled])


def logits_scaled_within_the_noise(model: ModelProto) -> None:
    """By 0.3 percent, where PyTorch rounds by as much in single values: only the mean of all errors tells."""
    add_constant(model, "scale", np.array(1.003, dtype=np.float32))
    scaled = helper.make_node("Mul", ["right.start_logits", "scale"], ["start_logits"])
    behind_output(model, "start_logits", [scaled])


def logits_moved_within_the_noise(model: ModelProto) -> None:
    """By 8e-4, a few times what PyTorch rounds: the mean of all errors hides it, the largest one does not."""
    add_constant(model, "offset", np.array(8e-4, dtype=np.float32))
    moved = helper.make_node("Add", ["right.start_logits", "offset"], ["start_logits"])
    behind_output(model, "start_logits", [moved])


def output_renamed(model: ModelProto) -> None:
    """To what an exporter calls it by itself."""
    made = helper.make_node("Identity", ["right.start_logits"], ["output_0"])
    behind_output(model, "start_logits", [made])
    model.graph.output[0].name = "output_0"


def output_lost(model: ModelProto) -> None:
    """One of two."""
    del model.graph.output[1]


def output_in_double(model: ModelProto) -> None:
    """float64 where the contract has float32."""
    made = helper.make_node("Cast", ["right.start_logits"], ["start_logits"], to=TensorProto.DOUBLE)
    behind_output(model, "start_logits", [made])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def pooled_over_padding(model: ModelProto) -> None:
    """Only the pooled output forgets the mask; the hidden states are right."""
    readers = upstream(model, "sentence_embedding", stop="last_hidden_state")
    read_instead(model, "attention_mask", as_ones("attention_mask"), of=readers)


def padding_of_another_id(model: ModelProto) -> None:
    """Positions count from the first token that is not 0, where this model's padding is 1."""
    (compared,) = (node for node in nodes(model, "Equal") if "input_ids" in node.input)
    compared.input[1] = add_constant(model, "other_padding", np.array(0))


def pooled_by_the_first_token(model: ModelProto) -> None:
    """Where the source takes the mean."""
    add_constant(model, "first", np.array(0))
    made = helper.make_node("Gather", ["last_hidden_state", "first"], ["sentence_embedding"], axis=1)
    behind_output(model, "sentence_embedding", [made])


def dense_layer_skipped(model: ModelProto) -> None:
    """The pooling's numbers, normalised, where the source has a dense layer between; as many of them."""
    (activation,) = nodes(model, "Tanh")
    projected = producer(model, activation.input[0])
    pooled = next(value for value in projected.input if any(value in node.output for node in model.graph.node))
    _read_by(model, activation.output[0], pooled)


def dense_activation_lost(model: ModelProto) -> None:
    """What comes out of the dense layer is not bent."""
    (activation,) = nodes(model, "Tanh")
    _read_by(model, activation.output[0], activation.input[0])


def length_not_made_one(model: ModelProto) -> None:
    """The embeddings keep the length that they had."""
    (activation,) = nodes(model, "Tanh")
    kept = helper.make_node("Identity", [activation.output[0]], ["sentence_embedding"])
    behind_output(model, "sentence_embedding", [kept])


def pooled_by_the_largest(model: ModelProto) -> None:
    """The largest number of any token, padding's too, where the source takes the mean."""
    (activation,) = nodes(model, "Tanh")
    projected = producer(model, activation.input[0])
    axis = add_constant(model, "over_tokens", np.array([1]))
    largest = helper.make_node("ReduceMax", ["last_hidden_state", axis], ["largest"], keepdims=0)
    insert_before(model, projected, [largest])
    place = next(
        number for number, value in enumerate(projected.input) if any(value in node.output for node in model.graph.node)
    )
    projected.input[place] = "largest"


def _read_by(model: ModelProto, value: str, instead: str) -> None:
    """Whoever reads a value reads another one."""
    for node in model.graph.node:
        node.input[:] = [instead if name == value else name for name in node.input]


def softmax_for_sigmoid(model: ModelProto) -> None:
    """The scores of labels that do not exclude each other are made to add up to one."""
    (activation,) = nodes(model, "Sigmoid")
    activation.op_type = "Softmax"
    activation.attribute.append(helper.make_attribute("axis", -1))


def read_at_the_first_end_token(model: ModelProto) -> None:
    """A pair is read behind its first text, and no longer behind both."""
    (places,) = nodes(model, "NonZero")
    seen = next(node for node in model.graph.node if node.op_type == "Equal" and "input_ids" in node.input)
    numbers = [
        helper.make_node("Cast", [seen.output[0]], ["ends"], to=TensorProto.INT64),
        helper.make_node("CumSum", ["ends", add_constant(model, "along_the_row", np.array(1))], ["ends_so_far"]),
        helper.make_node("Equal", ["ends_so_far", add_constant(model, "the_first", np.array(1))], ["until_the_next"]),
        helper.make_node("And", ["until_the_next", seen.output[0]], ["first_ends"]),
    ]
    places.input[:] = ["first_ends"]
    insert_before(model, places, numbers)


_entailments = partial(of_graph, model="entailments", family="encoder")
_questions = partial(of_graph, model="questions", family="encoder")
_sentences = partial(of_graph, model="sentences", family="encoder", check="sentences")
_rough = partial(of_graph, model="rough", family="encoder")
_embeddings = partial(of_graph, model="embeddings", family="encoder")

MUTATIONS = (
    _entailments(softmax_for_sigmoid, check="parity"),
    _entailments(read_at_the_first_end_token, check="text"),
    _questions(mask_dropped, check="padding_right"),
    _questions(mask_inverted, check="padding_right"),
    _questions(mask_pruned, check="contract", finding="missing"),
    _questions(mask_of_the_first_row, check="padding_right"),
    _questions(causal_mask, check="parity"),
    _questions(batch_frozen_in_the_input, check="contract", finding="shape"),
    _questions(length_frozen_inside, check="dynamic", finding="error"),
    _questions(positions_off_by_one, check="parity"),
    _questions(bit_flipped, check="parity"),
    _questions(bit_flipped_in_a_row_never_fed, check="weights"),
    _questions(weight_transposed, check="parity"),
    _questions(heads_permuted, check="parity"),
    _questions(weights_rounded_to_half, check="parity"),
    _questions(activations_in_half, check="parity"),
    _questions(overflow_in_half, check="parity", finding="nan"),
    _questions(weight_not_a_number, check="parity", finding="nan"),
    _questions(token_types_ignored, check="parity"),
    _questions(softmax_over_the_wrong_axis, check="parity"),
    _questions(layer_norm_epsilon_changed, check="parity"),
    _questions(activation_approximated, check="parity"),
    _questions(residual_lost, check="parity"),
    _questions(outputs_swapped, check="answers"),
    _questions(logits_scaled, check="parity"),
    _rough(logits_scaled_within_the_noise, check="parity"),
    _rough(logits_moved_within_the_noise, check="parity"),
    _questions(output_renamed, check="contract"),
    _questions(output_lost, check="parity", finding="missing"),
    _questions(output_in_double, check="parity", finding="dtype"),
    _embeddings(pooled_over_padding, check="padding_right"),
    _embeddings(padding_of_another_id, check="answers"),
    _embeddings(pooled_by_the_first_token, check="sentences"),
    _sentences(dense_layer_skipped),
    _sentences(dense_activation_lost),
    _sentences(length_not_made_one),
    _sentences(pooled_by_the_largest),
)
