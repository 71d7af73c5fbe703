"""Broken models of sound: a Wav2Vec2 with a mask that classifies, one without that writes, and a Whisper."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from mutations.mutation import of_graph
from mutations.surgery import add_constant, as_ones, behind_output, change_weight, nodes, read_instead, swap_outputs


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


def mask_of_sound_inverted(model: ModelProto) -> None:
    """Silence behind the end counts, and the sound does not."""
    add_constant(model, "one", np.array(1))
    read_instead(model, "attention_mask", [helper.make_node("Sub", ["one", "attention_mask"], ["inverted"])])


def log_probabilities_for_logits(model: ModelProto) -> None:
    """Normalised over letters, as a loss wants them: the likeliest letter is the same."""
    behind_output(model, "logits", [helper.make_node("LogSoftmax", ["right.logits"], ["logits"], axis=-1)])


def spectrogram_turned_around(model: ModelProto) -> None:
    """From its end to its beginning: frames stand on the last axis here."""
    for name, value in {"from": [-1], "to": [-(1 << 40)], "axis": [2], "step": [-1]}.items():
        add_constant(model, name, np.array(value))
    turned = helper.make_node("Slice", ["input_features", "from", "to", "axis", "step"], ["turned"])
    read_instead(model, "input_features", [turned])


def positions_of_sound_off_by_one(model: ModelProto) -> None:
    """Every frame sits one place further to the right."""
    change_weight(model, "encoder.embed_positions.weight", lambda table: np.roll(table, -1, axis=0))


def self_values_of_two_layers_swapped(model: ModelProto) -> None:
    """Each layer's values are given back under the other's name."""
    swap_outputs(model, "present.0.decoder.value", "present.1.decoder.value")


def cross_values_of_two_layers_swapped(model: ModelProto) -> None:
    """What one layer keeps of the sound, the other reads from the second token on."""
    swap_outputs(model, "present.0.encoder.value", "present.1.encoder.value")


_classes = partial(of_graph, model="masked", family="speech")
_letters = partial(of_graph, model="plain", family="speech")
_hears = partial(of_graph, model="whisper", family="speech", role="encoder_model")
_writes = partial(of_graph, model="whisper", family="speech", role="decoder_model_merged")

MUTATIONS = (
    _classes(mask_of_sound_ignored, check="padding"),
    _classes(mask_of_sound_inverted, check="parity"),
    _hears(spectrogram_turned_around, check="parity"),
    _hears(positions_of_sound_off_by_one, check="parity"),
    _writes(self_values_of_two_layers_swapped, check="cache"),
    _writes(cross_values_of_two_layers_swapped, check="cache"),
    _letters(log_probabilities_for_logits, check="parity"),
    _letters(letters_moved, check="tones"),
    _letters(frames_late, check="parity"),
    _letters(stride_lost, check="parity", finding="error"),
    _letters(group_norm_epsilon_changed, check="parity"),
    _letters(sound_turned_around, check="parity"),
)
