"""Broken vision models: a DETR with a mask, a ViT for one size of image, a ResNet for any."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from mutations.mutation import of_graph
from mutations.surgery import add_constant, as_ones, behind_output, change_weight, nodes, read_instead


def pixel_mask_ignored(model: ModelProto) -> None:
    """The mask is an input without an effect: everything counts as image."""
    read_instead(model, "pixel_mask", as_ones("pixel_mask"))


def colours_reversed(model: ModelProto) -> None:
    """Blue, green, red: the commonest mistake with images."""
    add_constant(model, "bgr", np.array([2, 1, 0]))
    read_instead(model, "pixel_values", [helper.make_node("Gather", ["pixel_values", "bgr"], ["colours"], axis=1)])


def image_mirrored(model: ModelProto) -> None:
    """Left is right."""
    for name, value in {"from": [-1], "to": [-(1 << 40)], "axis": [3], "step": [-1]}.items():
        add_constant(model, name, np.array(value))
    mirrored = helper.make_node("Slice", ["pixel_values", "from", "to", "axis", "step"], ["mirrored"])
    read_instead(model, "pixel_values", [mirrored])


def rows_and_columns_swapped(model: ModelProto) -> None:
    """A square image on its side: no shape tells."""
    turned = helper.make_node("Transpose", ["pixel_values"], ["turned"], perm=[0, 1, 3, 2])
    read_instead(model, "pixel_values", [turned])


def normalised_twice(model: ModelProto) -> None:
    """Mean and deviation are baked into the graph, and the preprocessor applies them too."""
    add_constant(model, "half", np.array(0.5, dtype=np.float32))
    made = [
        helper.make_node("Sub", ["pixel_values", "half"], ["centred"]),
        helper.make_node("Div", ["centred", "half"], ["normalised"]),
    ]
    read_instead(model, "pixel_values", made)


def classes_moved(model: ModelProto) -> None:
    """Every class has its neighbour's logit."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith("classifier."):
            moved = np.ascontiguousarray(np.roll(numpy_helper.to_array(tensor), 1, axis=0))
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))


def patches_counted_from_the_class_token(model: ModelProto) -> None:
    """Every patch has its neighbour's position."""
    change_weight(model, "embeddings.position_embeddings", lambda table: np.roll(table, 1, axis=1))


def statistics_of_the_batch(model: ModelProto) -> None:
    """One batch norm was left in training mode: a row depends on the others beside it."""
    norm = nodes(model, "BatchNormalization")[0]
    add_constant(model, "axes", np.array([0, 2, 3]))
    made = [
        helper.make_node("ReduceMean", [norm.input[0], "axes"], ["batch_mean"], keepdims=0),
        helper.make_node("ReduceMean", [norm.input[0], "axes"], ["batch_mean_kept"], keepdims=1),
        helper.make_node("Sub", [norm.input[0], "batch_mean_kept"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "axes"], ["batch_variance"], keepdims=0),
    ]
    norm.input[3], norm.input[4] = "batch_mean", "batch_variance"
    place = list(model.graph.node).index(norm)
    for offset, node in enumerate(made):
        model.graph.node.insert(place + offset, node)


def batch_norm_epsilon_changed(model: ModelProto) -> None:
    """Of another framework: a thousandth where the source has a hundred-thousandth."""
    for node in nodes(model, "BatchNormalization"):
        next(item for item in node.attribute if item.name == "epsilon").f = 1e-3


def pooled_to_a_frozen_size(model: ModelProto) -> None:
    """The last mean is taken over a window of the example's size, not over the whole image."""
    pool = next(node for node in model.graph.node if node.op_type in ("GlobalAveragePool", "ReduceMean"))
    del pool.attribute[:]
    del pool.input[1:]
    pool.op_type = "AveragePool"
    pool.attribute.extend([helper.make_attribute("kernel_shape", [2, 2])])
    name = pool.output[0]
    pool.output[0] = "windows"
    for constant, value in {"from_0": [0, 0], "to_1": [1, 1], "of_image": [2, 3]}.items():
        add_constant(model, constant, np.array(value))
    place = list(model.graph.node).index(pool)
    model.graph.node.insert(place + 1, helper.make_node("Slice", ["windows", "from_0", "to_1", "of_image"], [name]))


def boxes_by_their_corners(model: ModelProto) -> None:
    """x, y, x, y where the model gives centre and size."""
    add_constant(
        model, "corners", np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32)
    )
    behind_output(model, "pred_boxes", [helper.make_node("MatMul", ["right.pred_boxes", "corners"], ["pred_boxes"])])


def image_in_bytes(model: ModelProto) -> None:
    """From 0 to 255, where the preprocessor has rescaled it already."""
    add_constant(model, "bytes", np.array(255, dtype=np.float32))
    read_instead(model, "pixel_values", [helper.make_node("Mul", ["pixel_values", "bytes"], ["rescaled"])])


def probabilities_for_logits(model: ModelProto) -> None:
    """A softmax too many: the likeliest class is the same."""
    behind_output(model, "logits", [helper.make_node("Softmax", ["right.logits"], ["logits"], axis=-1)])


def boxes_of_other_queries(model: ModelProto) -> None:
    """Boxes stand in another order than the classes that belong to them."""
    for name, value in {"from": [-1], "to": [-(1 << 40)], "axis": [1], "step": [-1]}.items():
        add_constant(model, name, np.array(value))
    turned = helper.make_node("Slice", ["right.pred_boxes", "from", "to", "axis", "step"], ["pred_boxes"])
    behind_output(model, "pred_boxes", [turned])


_boxes = partial(of_graph, model="boxes", family="vision")
_patches = partial(of_graph, model="patches", family="vision")
_convolutions = partial(of_graph, model="convolutions", family="vision")

MUTATIONS = (
    _boxes(pixel_mask_ignored, check="pixel_mask"),
    _boxes(colours_reversed, check="parity"),
    _boxes(image_mirrored, check="parity"),
    _boxes(boxes_by_their_corners, check="parity"),
    _boxes(boxes_of_other_queries, check="parity"),
    _patches(image_in_bytes, check="pictures"),
    _patches(probabilities_for_logits, check="parity"),
    _patches(rows_and_columns_swapped, check="parity"),
    _patches(normalised_twice, check="pictures"),
    _patches(classes_moved, check="answers"),
    _patches(patches_counted_from_the_class_token, check="parity"),
    _convolutions(statistics_of_the_batch, check="parity"),
    _convolutions(batch_norm_epsilon_changed, check="parity"),
    _convolutions(pooled_to_a_frozen_size, check="parity"),
)
