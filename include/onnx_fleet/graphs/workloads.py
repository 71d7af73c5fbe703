"""Workloads: what one graph is asked to do at one size, read off its own inputs. numpy only.

A decoder's graph does two kinds of work: the prompt, all at once, and one more token behind what is cached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.further_inputs import KINDS
from onnx_fleet.graphs.text_frame import Frame
from onnx_fleet.graphs.text_inputs import TokenSpace

_MASKS = ("attention_mask", "encoder_attention_mask", "decoder_attention_mask", "pixel_mask", "pixel_attention_mask")
_DEFAULT_SIZES: Mapping[str, int] = {
    "height": 224,
    "width": 256,
    "mask_height": 64,
    "mask_width": 64,
    "num_samples": 16_000,
    "num_frames": 100,
    "num_choices": 3,
    "num_images": 2,
}
"""Sizes of axes that no latency grid knows; a model that wants others has them as numbers in its graph."""
_WHOLE_TEXTS = ("forward", "encode")
"""Phases whose input_ids are whole texts, and not what a decoder goes on from."""
_LOOKED_UP = frozenset(kind.name for kind in KINDS) - {"pixel_values"}
"""Inputs whose values are places in tables: every table has a place 0."""
_DECODED = 8
"""How many tokens a decoder behind an encoder has already returned, where one more is timed."""
_FRAMES_A_STATE, _SAMPLES_A_STATE = 4, 512
"""How many frames or samples make one state of an encoder: a decoder behind it reads the mask of the sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One kind of work at one size."""

    phase: str
    """``forward``; ``prompt`` and ``step`` of a graph with a cache; ``encode`` of an encoder before a decoder."""
    sizes: Mapping[str, int]
    """Symbol -> size, for every symbol of the graph's inputs."""
    space: TokenSpace = field(default_factory=lambda: text_inputs.of_one_word(Frame()))
    """What tokens are drawn from."""

    @property
    def text(self) -> str:
        """What it is, for people: ``step, batch_size 2, past_sequence_length 8``."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items() if name != "head_size")
        return sizes if self.phase == "forward" else f"{self.phase}, {sizes}"

    def feeds(self, info: GraphInfo, *, seed: int) -> dict[str, np.ndarray]:
        """Return random input of these sizes, nothing of it padding: arrays in the graph's shapes and types by name."""
        rng = np.random.default_rng((seed, *self.sizes.values()))
        head_sizes = _head_sizes(info)
        return {spec.name: self._feed(spec, rng, head_size=head_sizes.get(spec.name, 1)) for spec in info.inputs}

    def _feed(self, spec: TensorSpec, rng: np.random.Generator, *, head_size: int) -> np.ndarray:
        sizes = {**self.sizes, "head_size": head_size}
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if spec.name == "position_ids":
            past = self.sizes.get("past_sequence_length", 0)
            return np.broadcast_to(np.arange(past, past + shape[-1], dtype=spec.dtype), shape).copy()
        if spec.name in _MASKS:
            return np.ones(shape, dtype=spec.dtype)
        if spec.name == "token_type_ids" or np.dtype(spec.dtype).kind == "b":
            return np.zeros(shape, dtype=spec.dtype)
        known = next((each for each in self.space.further if each.name == spec.name), None)
        if known is not None:
            return known.draw(rng, tuple(shape)).astype(spec.dtype)
        if spec.name in _LOOKED_UP:
            return np.zeros(shape, dtype=spec.dtype)
        if np.dtype(spec.dtype).kind in "iu":
            whole = spec.name == "input_ids" and self.phase in _WHOLE_TEXTS
            words = (
                text_inputs.random_ids(self.space, shape, rng=rng)
                if whole
                else rng.choice(self.space.tokens, size=shape)
            )
            return words.astype(spec.dtype)
        return rng.standard_normal(shape).astype(spec.dtype)


def of(
    info: GraphInfo, *, batch_size: int, length: int, space: TokenSpace | None = None, decoded: int = _DECODED
) -> tuple[Workload, ...]:
    """Return every kind of work that a graph does, for so many rows.

    Args:
        length: how many tokens a row has: in the prompt, in the encoder's input, or up to the end of the step.
        decoded: how many tokens a decoder behind an encoder has returned before the step.
        space: what tokens are drawn from, and what the model takes beside them; None draws only id 1, which every
            vocabulary has, and zeros.
    """
    symbols = {axis for spec in info.inputs for axis in spec.shape if isinstance(axis, str)}
    behind_encoder = "encoder_hidden_states" in {spec.name for spec in info.inputs}
    phases: dict[str, Mapping[str, int]] = {
        "forward": {"sequence_length": length} if "sequence_length" in symbols else {}
    }
    if behind_encoder and "past_sequence_length" in symbols:
        phases = {"prompt": _after_encoder(length, past=0), "step": _after_encoder(length, past=decoded)}
    elif "past_sequence_length" in symbols:
        phases = {
            "prompt": {"sequence_length": length, "past_sequence_length": 0, "total_sequence_length": length},
            "step": {"sequence_length": 1, "past_sequence_length": length - 1, "total_sequence_length": length},
        }
    elif info.role.startswith("encoder"):
        phases = {"encode": {}}
    made = []
    for phase, own in phases.items():
        sizes = {
            **_DEFAULT_SIZES,
            "batch_size": batch_size,
            "image_batch_size": batch_size,
            "text_batch_size": batch_size,
            "encoder_sequence_length": length,
            "decoder_sequence_length": length,
            **(
                {"num_frames": _FRAMES_A_STATE * length, "num_samples": _SAMPLES_A_STATE * length}
                if behind_encoder
                else {}
            ),
            "head_size": max(_head_sizes(info).values(), default=1),
            **own,
        }
        used = {name: size for name, size in sizes.items() if name in symbols | set(own)}
        made.append(
            Workload(phase=phase, sizes=used) if space is None else Workload(phase=phase, sizes=used, space=space)
        )
    return tuple(made)


def shortest(info: GraphInfo, *, space: TokenSpace | None = None) -> Workload:
    """Return the work of one row of a few tokens: placement is judged by how large the tensors are."""
    return of(info, batch_size=1, length=5, space=space)[0]


def fixed_length(graphs: Iterable[GraphInfo]) -> int | None:
    """Return the only number of tokens that may be fed; None where any may, or none are."""
    lengths = (spec.shape[-1] for info in graphs for spec in info.inputs if spec.name == "input_ids")
    first = next(lengths, None)
    return first if isinstance(first, int) else None


def _after_encoder(length: int, *, past: int) -> dict[str, int]:
    """The first call fills the cross-attention cache; later ones find it full."""
    return {
        "encoder_sequence_length": length,
        "decoder_sequence_length": 1,
        "past_sequence_length": past,
        "past_encoder_sequence_length": length if past else 0,
        "total_sequence_length": past + 1,
    }


def _head_sizes(info: GraphInfo) -> dict[str, int]:
    """What each input of the cache has on its open axis, by its output: layers, keys and values may differ."""
    found = {spec.name.replace("present", "past_key_values"): spec.shape[-1] for spec in info.outputs}
    return {name: size for name, size in found.items() if name.startswith("past_") and isinstance(size, int)}
