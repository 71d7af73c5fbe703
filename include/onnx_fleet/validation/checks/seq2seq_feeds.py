"""What encoder-decoders are fed in checks: sources of text or sound, targets, how long either may be. numpy only."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from onnx_fleet.entities.graph_info import TensorSpec
from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.text_inputs import Side
from onnx_fleet.validation.checks.context import SEED, CheckContext
from onnx_fleet.validation.checks.single_graph import Feeds

TARGET = "decoder_input_ids"
LONGEST_SOUND = 17
"""The longest sound, in the units below: what models of sound take has no end, or is one number."""
LOGITS_AT_MAXIMUM = 1 << 24
"""Vocabularies of 250,000 tokens make 64 MB of logits from so few of them as 64."""

_UNITS = {"encoder_sequence_length": (1, 0), "num_frames": (8, 0), "num_samples": (512, 1024)}
"""Symbol of the axis that a source's length is counted on -> how many make one of ours, and how many more there are."""


def start_token(subject: CheckContext, *, source: bool = False) -> int:
    """Return the token that decoding begins with, by the stage's files, as a consumer reads them.

    Args:
        source: whether it is read from the source's model instead.
    """
    model = subject.reference.model
    said = [] if source else [
        json.loads(path.read_text(encoding="utf-8")).get("decoder_start_token_id")
        for name in ("generation_config.json", "config.json")
        if (path := subject.stage_dir / name).exists()
    ]  # fmt: skip
    said += [model.generation_config.decoder_start_token_id, getattr(model.config, "decoder_start_token_id", None)]
    said += [model.generation_config.bos_token_id]
    return next((int(token) for token in said if token is not None and token < subject.reference.limits.vocab_size), 0)


def sources(
    subject: CheckContext, lengths: Sequence[int], *, only: int | None = None, side: Side = "right"
) -> dict[str, np.ndarray]:
    """Return what the encoder takes: random rows of these lengths, padded on one side.

    They are int64 [rows, tokens] for ``input_ids``, float32 [rows, frames, bins], [rows, bins, frames] or
    [rows, samples] for sound, and the mask int64 [rows, tokens, frames or samples] where there is one.

    Args:
        lengths: tokens, or as many of the units above.
        only: return this one row alone, without padding.
    """
    specs = next(iter(subject.graphs.values())).inputs
    rows = [_source(subject, specs, length=length, row=row) for row, length in enumerate(lengths)]
    if only is not None:
        return rows[only]
    padding = {"input_ids": subject.space.pad_token_id}
    return {
        name: np.concatenate(
            [_padded(row[name], like=rows, name=name, filler=padding.get(name, 0), side=side) for row in rows]
        )
        for name in rows[0]
    }


def _source(subject: CheckContext, specs: Sequence[TensorSpec], *, length: int, row: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((SEED, row, length))
    made = {}
    for spec in (spec for spec in specs if not spec.name.startswith("decoder_")):
        shape = [axis if isinstance(axis, int) else _size(axis, length) for axis in spec.shape]
        if spec.name == "attention_mask":
            made[spec.name] = np.ones(shape, dtype=np.int64)
        elif spec.name == "input_ids":
            made[spec.name] = np.full(shape, subject.space.pad_token_id, dtype=np.int64)
            made[spec.name][:, :length] = text_inputs.random_ids(
                subject.space, (shape[0], min(length, shape[1])), rng=rng
            )
        else:
            made[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    if subject.space.fixed_length is not None and "attention_mask" in made:
        made["attention_mask"][:, length:] = 0
    return made


def _size(axis: str, length: int) -> int:
    unit, more = _UNITS.get(axis, (0, 1))  # of batch_size, one
    return length * unit + more


def _padded(array: np.ndarray, *, like: Sequence[Feeds], name: str, filler: int, side: Side) -> np.ndarray:
    shape = np.max([row[name].shape for row in like], axis=0)
    missing = [int(most - own) for own, most in zip(array.shape, shape, strict=True)]
    widths = [(size, 0) if side == "left" else (0, size) for size in missing]
    return np.pad(array, widths, constant_values=filler)


def with_noise(subject: CheckContext, feeds: Feeds) -> dict[str, np.ndarray]:
    """Return the same feeds with other values where the mask says that there is nothing; no array changes its shape.

    Args:
        feeds: as ``sources`` makes them, with a mask.
    """
    name = source_name(feeds)
    array, rng = feeds[name], np.random.default_rng(SEED)
    tokens = name == "input_ids"
    noise = rng.choice(subject.space.tokens, size=array.shape) if tokens else rng.standard_normal(array.shape)
    real = feeds["attention_mask"].astype(bool)
    return {**feeds, name: np.where(real if array.ndim == 2 else real[..., None], array, noise).astype(array.dtype)}


def source_name(feeds: Feeds) -> str:
    """Return the name of a source's own values: ``input_ids``, ``input_features`` or ``input_values``."""
    return next(name for name in feeds if name.startswith("input_"))


def targets(subject: CheckContext, *, rows: int, length: int) -> np.ndarray:
    """Return targets, the start token and random ones behind it: int64 [rows, length]."""
    rng = np.random.default_rng((SEED, rows, length))
    tokens = rng.choice(subject.space.tokens, size=(rows, length)).astype(np.int64)
    tokens[:, 0] = start_token(subject, source=True)
    return tokens


def source_limit(subject: CheckContext) -> int:
    """Return the longest source to feed, in tokens; sound is fed as long as the checks need, or as its model asks."""
    reads_tokens = "input_ids" in subject.reference.parameters
    return subject.space.max_length if reads_tokens else LONGEST_SOUND


def target_limit(subject: CheckContext) -> int:
    """Return the longest target to feed, in tokens."""
    config = subject.reference.model.config.get_text_config(decoder=True)
    names = ("max_target_positions", "max_decoder_position_embeddings", "max_position_embeddings")
    stated = next(
        (size for name in names if isinstance(size := getattr(config, name, None), int)), text_inputs.LENGTH_BOUND
    )
    return max(1, min(stated, text_inputs.LENGTH_BOUND, LOGITS_AT_MAXIMUM // int(config.vocab_size)))
