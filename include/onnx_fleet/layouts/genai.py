"""A bundle with a genai_config.json, by which onnxruntime-genai generates text with its decoder.

The graphs stay where they are. The contract of our decoders (input_ids, attention_mask, position_ids, and a cache of
one key and one value for each layer) has the names that onnxruntime-genai takes by default; they are written
nevertheless, since they are what the two agree on. Its generic type ``decoder`` serves every architecture with this
contract (src/models/model_type.h of https://github.com/microsoft/onnxruntime-genai).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from onnx_fleet import jsonio
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.layouts.arrangement import Arrangement, Subject, kept

FILE_NAME: Final = "genai_config.json"

_TOKENS: Final = {"input_ids", "attention_mask", "position_ids"}
_PAST: Final = re.compile(r"past_key_values\.(\d+)\.(?:key|value)")
_LENGTHS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""The names under which configurations of transformers have the longest sequence."""


def arrange(subject: Subject) -> Arrangement:
    """Arrange a bundle for onnxruntime-genai.

    Raises:
        LayoutUnsupported: the bundle is no decoder with the cache that onnxruntime-genai expects.
    """
    placed = kept(subject)
    if subject.manifest.family != "decoder" or len(subject.graphs) != 1:
        roles = ", ".join(graph.role for graph in subject.graphs)
        raise subject.refusal(
            f"is of the family {subject.manifest.family}, with {roles}; this layout is for decoders of one graph."
            " docs/consumers.md says how to generate with the other families"
        )
    (graph,) = subject.graphs
    return Arrangement(placed=placed, made={FILE_NAME: json.dumps(_config(subject, graph), indent=2) + "\n"})


def _config(subject: Subject, graph: GraphInfo) -> dict[str, Any]:
    config = _text_settings(jsonio.parse(dict, subject.read("config.json")))
    paths = {file.path for file in subject.manifest.files}
    generation = "generation_config.json"
    said = {**config, **(jsonio.parse(dict, subject.read(generation)) if generation in paths else {})}
    length = next((int(config[name]) for name in _LENGTHS if config.get(name)), None)
    if length is None:
        raise subject.refusal(
            f"config.json has no {', '.join(_LENGTHS[:-1])} or {_LENGTHS[-1]}, and onnxruntime-genai needs the longest"
            " sequence; serve it with onnxruntime in a process of your own"
        )
    return {
        "model": {
            "type": "decoder",
            "context_length": length,
            "vocab_size": graph.outputs[0].shape[-1],
            **_special_tokens(said),
            "decoder": _decoder(subject, graph),
        },
        # The graphs return a cache that has grown by the new tokens, and do not write into the one that they are given.
        "search": {"max_length": length, "past_present_share_buffer": False},
    }


def _decoder(subject: Subject, graph: GraphInfo) -> dict[str, Any]:
    inputs = {spec.name for spec in graph.inputs}
    layers = {int(match[1]) for name in inputs if (match := _PAST.fullmatch(name))}
    others = sorted(name for name in inputs - _TOKENS if not _PAST.fullmatch(name))
    presents = [spec for spec in graph.outputs if spec.name.startswith("present.")]
    sizes = {(spec.shape[1], spec.shape[3]) for spec in presents if len(spec.shape) == 4}
    plain = graph.outputs[0].name == "logits" and layers == set(range(len(layers))) and len(presents) == 2 * len(layers)
    if others or not plain or len(sizes) != 1 or graph.libraries:
        named = f" and the inputs {', '.join(others)}" if others else ""
        raise subject.refusal(
            f"{graph.path} has {len(layers)} layers with {len(presents)} caches of {len(sizes)} sizes{named}; this"
            " layout is for a graph whose layers have a key and a value of one size, and no other state"
        )
    ((heads, head_size),) = sizes
    return {
        "filename": graph.path,
        "num_hidden_layers": len(layers),
        "num_key_value_heads": heads,
        "head_size": head_size,
        "session_options": {"provider_options": []},
        "inputs": {
            **{name: name for name in sorted(_TOKENS & inputs)},
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


def _text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else dict(config)


def _special_tokens(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of the tokens that begin, end and pad a text; where none pads, the one that ends it does."""
    end = said.get("eos_token_id")
    first_end = end[0] if isinstance(end, list) else end
    pad = said.get("pad_token_id")
    named = {"bos_token_id": said.get("bos_token_id"), "eos_token_id": end}
    named["pad_token_id"] = first_end if pad is None else pad
    return {name: value for name, value in named.items() if value is not None}
