"""Broken models of text and its place on a page: a LayoutLMv3 that labels tokens by boxes and an image."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, helper

from mutations.mutation import of_graph
from mutations.surgery import add_constant, read_instead, read_the_first_row


def boxes_not_an_input(model: ModelProto) -> None:
    """Every token stands in the corner of its page, and no input says where: what transformers does without boxes."""
    add_constant(model, "four", np.array([4]))
    made = [
        helper.make_node("Shape", ["input_ids"], ["shape_of_tokens"]),
        helper.make_node("Concat", ["shape_of_tokens", "four"], ["shape_of_boxes"], axis=0),
        helper.make_node("Expand", [add_constant(model, "corner", np.array(0)), "shape_of_boxes"], ["no_boxes"]),
    ]
    _read_everywhere_instead(model, "bbox", "no_boxes")
    read_instead(model, "none", made)
    model.graph.input.remove(next(value for value in model.graph.input if value.name == "bbox"))


def boxes_ignored(model: ModelProto) -> None:
    """Boxes are an input without an effect."""
    add_constant(model, "no_place", np.array(0))
    read_instead(model, "bbox", [helper.make_node("Mul", ["bbox", "no_place"], ["all_in_the_corner"])])


def corners_swapped(model: ModelProto) -> None:
    """y0, x0, y1, x1 where the contract has x0, y0, x1, y1."""
    add_constant(model, "rows_first", np.array([1, 0, 3, 2]))
    read_instead(model, "bbox", [helper.make_node("Gather", ["bbox", "rows_first"], ["turned"], axis=2)])


def boxes_of_the_first_row(model: ModelProto) -> None:
    """One row's boxes are broadcast to all rows of a batch."""
    read_the_first_row(model, "bbox")


def image_ignored(model: ModelProto) -> None:
    """A blank page, whatever its image shows."""
    add_constant(model, "nothing", np.array(0, dtype=np.float32))
    read_instead(model, "pixel_values", [helper.make_node("Mul", ["pixel_values", "nothing"], ["blank"])])


def image_of_the_first_row(model: ModelProto) -> None:
    """All texts of a batch are read beside the first one's page."""
    read_the_first_row(model, "pixel_values")


def _read_everywhere_instead(model: ModelProto, name: str, made: str) -> None:
    """Readers of its shape too: it will be no input."""
    for node in model.graph.node:
        node.input[:] = [made if value == name else value for value in node.input]


_forms = partial(of_graph, model="forms", family="encoder")

MUTATIONS = (
    _forms(boxes_not_an_input, check="contract", finding="missing"),
    _forms(boxes_ignored, check="parity"),
    _forms(corners_swapped, check="parity"),
    _forms(boxes_of_the_first_row, check="parity"),
    _forms(image_ignored, check="parity"),
    _forms(image_of_the_first_row, check="parity"),
)
