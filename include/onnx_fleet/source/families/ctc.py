"""Sound in, characters or classes out: one graph, one pass. Imports torch and transformers.

Waveforms (Wav2Vec2 and its kin) and spectrograms of any length, and spectrograms of the one length that a model has
positions for. Speech models that write with a decoder are another matter.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.graphs import audio_inputs
from onnx_fleet.source import preprocessor
from onnx_fleet.source.families import GraphSpec, Shape
from onnx_fleet.source.families.forward import Forward

_SAMPLES: Shape = ("batch_size", "num_samples")
_FRAMES: Shape = ("batch_size", "sequence_length")
OUTPUTS: dict[str, dict[str, Shape]] = {
    "automatic-speech-recognition": {"logits": ("batch_size", "num_frames", None)},
    "audio-classification": {"logits": ("batch_size", None)},
}

_ONE_LENGTH = ("audio-spectrogram-transformer", "whisper")
"""The model types whose spectrograms are always padded or cut to the same length."""
_WIDTHS = ("feature_projection_input_dim", "input_feat_per_channel", "num_mel_bins")
"""The keys by which configurations call the size of one frame of a spectrogram."""

_EXAMPLE_BATCH, _EXAMPLE_SAMPLES, _EXAMPLE_FRAMES = 2, 6301, 47
"""The example's sizes; 6,301 samples make 19 frames.

Both numbers of frames are odd, so that a model which squeezes them in pairs has to pad what is missing: that holds for
even numbers too, and the way without padding holds for no others.
"""


def whole(item: WorkItem, model: PreTrainedModel) -> Forward:
    """Return the model with the outputs of its task, and its recipe's."""
    return Forward(item, model, outputs=OUTPUTS[item.model.task]).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the one graph of a model of sound."""
    module, name = whole(item, model), model.main_input_name
    size, axes = _input(model)
    values = torch.from_numpy(audio_inputs.batch(_EXAMPLE_BATCH, *size, seed=0, kind="noise"))
    example, inputs = {name: values}, {name: axes}
    if takes_mask(model):
        mask = torch.ones(values.shape[:2], dtype=torch.int64)
        mask[-1, 2 * size[0] // 3 :] = 0
        example["attention_mask"] = mask
        inputs["attention_mask"] = axes[:2]
    return (GraphSpec(role="model", module=module, example_inputs=example, inputs=inputs, outputs=module.outputs),)


def takes_mask(model: PreTrainedModel) -> bool:
    """Say whether the feature extractor marks padding.

    Models that normalise each group of features over the whole sound were trained on zeros behind it and without a
    mask; for them it would be wrong.
    """
    if model.config.model_type in _ONE_LENGTH:
        return False
    stated = preprocessor.settings(Path(str(model.name_or_path))).get("return_attention_mask")
    if isinstance(stated, bool):
        return stated
    return model.main_input_name == "input_features" or getattr(model.config, "feat_extract_norm", None) == "layer"


def _input(model: PreTrainedModel) -> tuple[tuple[int, ...], Shape]:
    """Return the example's size without the batch, and the names of all axes."""
    config = model.config
    if config.model_type == "whisper":
        return (config.num_mel_bins, 2 * config.max_source_positions), ("batch_size", None, None)
    if config.model_type in _ONE_LENGTH:
        return (config.max_length, config.num_mel_bins), ("batch_size", None, None)
    if model.main_input_name == "input_features":
        return (_EXAMPLE_FRAMES, _width(config)), (*_FRAMES, None)
    return (_EXAMPLE_SAMPLES,), _SAMPLES


def _width(config: PretrainedConfig) -> int:
    holders = (config, getattr(config, "encoder_config", None))
    return next(int(size) for holder in holders for name in _WIDTHS if (size := getattr(holder, name, None)))
