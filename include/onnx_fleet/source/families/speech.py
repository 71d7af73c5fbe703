"""Speech: sound or spectrograms in; tokens from a decoder, or frames of letters and classes. Imports torch.

Models without a decoder are source/families/ctc.py's. Those with one are cut as text's are; their encoders, and how the
mask of the sound becomes one of the encoder's states, differ by model type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers import EncoderDecoderCache, PreTrainedModel

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.source.families import Family, GraphSpec, Shape, ctc, loading, seq2seq
from onnx_fleet.source.families.seq2seq import EXAMPLE_BATCH, CachedDecoder, Decoder, Source, additive
from onnx_fleet.source.placeholder_weights import PlaceholderWeights

_FRAMES: Shape = ("batch_size", "num_frames")
_SAMPLES: Shape = ("batch_size", "num_samples")
_EXAMPLE_FRAMES, _EXAMPLE_SAMPLES, _EXAMPLE_STATES = 27, 2899, 7
_MOONSHINE_STRIDE = 64 * 3 * 2
"""The number of samples for each state of Moonshine's encoder."""


class SpeechDecoder(Decoder):
    """A decoder behind an encoder of sound: called by itself, since the whole model's forward counts frames again."""

    def decode(self, tokens: Tensor, *, states: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None) -> Any:
        model: Any = self.model
        given = model.get_decoder()(
            input_ids=tokens,
            encoder_hidden_states=states,
            **({} if mask is None else {"encoder_attention_mask": mask}),
            past_key_values=cache,
            use_cache=cache is not None,
            return_dict=True,
        )
        given["logits"] = model.get_output_embeddings()(given.last_hidden_state)
        return given

    def mask(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return the mask of the encoder's states, made of its input's mask, which consumers feed to both graphs.

        Args:
            inputs: ``encoder_attention_mask``, int64 [batch_size, frames or samples], and ``encoder_hidden_states``,
                float32 [batch_size, states, hidden].
        Returns:
            float32 [batch_size, 1, 1, states]; None without a mask.
        """
        given = inputs.get("encoder_attention_mask")
        if given is None:
            return None
        states = inputs["encoder_hidden_states"]
        return additive(_MASKS[self.config.model_type](self.model, given, states.shape[1]), like=states)


class CachedSpeechDecoder(SpeechDecoder, CachedDecoder):
    """A decoder behind an encoder of sound, with caches that go in and come out."""


def _of_frames(model: PreTrainedModel, mask: Tensor, states: int) -> Tensor:
    """Return Speech2Text's mask of states: every convolution halves the number of real frames."""
    real = mask.sum(dim=1)
    for _ in range(model.config.num_conv_layers):
        real = (real - 1) // 2 + 1
    return (torch.arange(states)[None, :] < real[:, None]).long()


def _of_samples(model: PreTrainedModel, mask: Tensor, states: int) -> Tensor:
    """Return Moonshine's mask of states: one sample in _MOONSHINE_STRIDE decides."""
    return mask[:, ::_MOONSHINE_STRIDE][:, :states]


_MASKS = {"speech_to_text": _of_frames, "moonshine": _of_samples}


def load(item: WorkItem, source_dir: Path, placeholders: PlaceholderWeights | None = None) -> PreTrainedModel:
    """Load a model, with Moonshine's count of states in whole numbers, which tracing keeps open."""
    model = loading.load(item, source_dir, placeholders)
    if model.config.model_type == "moonshine":
        model.get_encoder()._get_feat_extract_output_lengths = _moonshine_states
    return model


def whole(item: WorkItem, model: PreTrainedModel) -> Module:
    """Return the model in one pass, with every position's logits."""
    if has_decoder(model):
        return seq2seq.whole(item, model)

    return ctc.whole(item, model)


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return encoder and cached decoder, or the one graph of a model without a decoder.

    Raises:
        ExportUnsupported: as the decoder's family says.
    """
    if has_decoder(model):
        return seq2seq.merged(item, model, source=source(model))

    return ctc.graphs(item, model)


def has_decoder(model: PreTrainedModel) -> bool:
    """Say whether the model writes tokens one after the other; Whisper's classifier has an encoder only."""
    return bool(model.config.is_encoder_decoder) and model.can_generate()


def source(model: PreTrainedModel) -> Source:
    """Return an example of the feature extractor's output; only Whisper's sound is always of one length."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    if config.model_type == "whisper":
        frames = 2 * config.max_source_positions
        features = torch.randn(EXAMPLE_BATCH, config.num_mel_bins, frames, generator=generator)
        return Source(
            example={"input_features": features},
            inputs={"input_features": ("batch_size", None, None)},
            states=("batch_size", None, None),
            mask=None,
            states_length=_EXAMPLE_STATES,
            decoder=SpeechDecoder,
            cached_decoder=CachedSpeechDecoder,
        )
    if config.model_type == "moonshine":
        sound = torch.randn(EXAMPLE_BATCH, _EXAMPLE_SAMPLES, generator=generator)
        example, shape, axes = {"input_values": sound}, _SAMPLES, _SAMPLES
    else:
        features = torch.randn(EXAMPLE_BATCH, _EXAMPLE_FRAMES, config.input_feat_per_channel, generator=generator)
        example, shape, axes = {"input_features": features}, (*_FRAMES, None), _FRAMES
    (length,) = {tensor.shape[1] for tensor in example.values()}
    mask = torch.ones(EXAMPLE_BATCH, length, dtype=torch.int64)
    mask[-1, -(length // 3) :] = 0
    return Source(
        example={**example, "attention_mask": mask},
        inputs={**dict.fromkeys(example, shape), "attention_mask": axes},
        states=("batch_size", "encoder_sequence_length", None),
        mask=(mask, axes),
        states_length=_EXAMPLE_STATES,
        decoder=SpeechDecoder,
        cached_decoder=CachedSpeechDecoder,
    )


def _moonshine_states(samples: int) -> int:
    """Return the length after three convolutions in whole numbers; the model's own count goes through fractions."""
    states = samples
    for kernel, stride in ((127, 64), (7, 3), (3, 2)):
        states = (states - kernel) // stride + 1
    return states


FAMILY = Family(name="speech", load=load, whole=whole, graphs=graphs)
