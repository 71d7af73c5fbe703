"""Broken models of sound: a Wav2Vec2 with a mask that classifies, and one without that writes."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from mutations.mutation import of_graph
from mutations.surgery import add_constant, as_ones, behind_output, nodes, read_instead


def mask_of_sound_ignored(model: ModelProto) -> None:
    """Every sample counts as sound."""
    read_instead(model, "attention_mask", as_ones("attention_mask"))


def letters_moved(model: ModelProto) -> None:
    """Every letter has its neighbour's logit."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith("lm_head."):
            moved = np.ascontiguousarray(np.roll(numpy_helper.to_array(tensor), 1, axis=0))
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))


def frames_late(model: ModelProto) -> None:
    """Every frame has the logits of the one before it."""
    for name, value in {
        "first_frame": [0],
        "second_frame": [1],
        "last_but_one": [-1],
        "end": [1 << 40],
        "time": [1],
    }.items():
        add_constant(model, name, np.array(value))
    made = [
        helper.make_node("Slice", ["right.logits", "first_frame", "second_frame", "time"], ["first"]),
        helper.make_node("Slice", ["right.logits", "first_frame", "last_but_one", "time"], ["all_but_last"]),
        helper.make_node("Concat", ["first", "all_but_last"], ["logits"], axis=1),
    ]
    behind_output(model, "logits", made)


def stride_lost(model: ModelProto) -> None:
    """The last convolution steps by one where the model steps by two: twice as many frames."""
    last = nodes(model, "Conv")[6]
    next(item for item in last.attribute if item.name == "strides").ints[:] = [1]


def group_norm_epsilon_changed(model: ModelProto) -> None:
    """Group norm's epsilon of another model, in the first layer that hears the sound."""
    next(item for item in nodes(model, "InstanceNormalization")[0].attribute if item.name == "epsilon").f = 0.1


def sound_turned_around(model: ModelProto) -> None:
    """From its end to its beginning."""
    for name, value in {"from": [-1], "to": [-(1 << 40)], "axis": [1], "step": [-1]}.items():
        add_constant(model, name, np.array(value))
    turned = helper.make_node("Slice", ["input_values", "from", "to", "axis", "step"], ["turned"])
    read_instead(model, "input_values", [turned])


_classes = partial(of_graph, model="masked", family="speech")
_letters = partial(of_graph, model="plain", family="speech")

MUTATIONS = (
    _classes(mask_of_sound_ignored, check="padding"),
    _letters(letters_moved, check="tones"),
    _letters(frames_late, check="parity"),
    _letters(stride_lost, check="parity", finding="error"),
    _letters(group_norm_epsilon_changed, check="parity"),
    _letters(sound_turned_around, check="parity"),
)
