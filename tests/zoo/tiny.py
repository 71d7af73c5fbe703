"""A tiny configuration of every model type of transformers, and the rows that they make for the tasks we take.

A configuration class's own defaults are shrunk by what its arguments are called. OVERRIDES has what that cannot guess.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from onnx_fleet.entities.tasks import TASKS, Task
from zoo.architecture import POSITIONS, VOCABULARY, Architecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
_MROPE_OF_ALL = {"rope_parameters": {**_MROPE["rope_parameters"], "partial_rotary_factor": 1.0}}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16}
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "cosmos3_edge_text": _MROPE,
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [64] * 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "hidden_size_per_layer_input": 8,
    },
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "glm4v_moe_text": {"head_dim": 16, **_MROPE},
    "glm4v_text": _MROPE_OF_ALL,
    "glm_image_text": _MROPE_OF_ALL,
    "glm_ocr_text": _MROPE_OF_ALL,
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"]},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hunyuan_vl_text": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "neomme": {"head_dim": 16},
    "perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "qwen2_5_vl_text": _MROPE,
    "qwen2_vl_text": _MROPE,
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "attn_layers": ["local", "lsh"]},
    "xmod": {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
"""Model type -> what its own defaults, shrunk by name, do not get right."""

_MOST_LAYERS = 4
_SIZES: tuple[tuple[str, int], ...] = (
    (r"(.*_)?vocab_size|vocab_size_.*|n_vocab", VOCABULARY),
    (
        r"(original_)?max_(position_embeddings|seq_len|sequence_length)|n_positions|n_ctx|max_target_positions",
        POSITIONS,
    ),
    (r"moe_.*intermediate_size|expert_(dim|ffn_hidden_size)|moe_ffn.*", 48),
    (r"(moe_)?shared_expert.*(intermediate_size|dim)", 40),
    (r".*intermediate_(size|dim)|.*ffn_dim|d_ff|d_inner|.*ffn_(hidden_)?size|mlp_dim|inner_dim|dim_feedforward", 64),
    (r".*(head_dim|dim_head)|d_kv|head_size|kv_channels|d_head", 8),
    (r".*lora_rank(_.*)?|.*low_rank.*", 16),
    (r"num_experts_per_tok.*|(moe_)?top_?k(_experts)?|moe_k|num_selected_experts", 2),
    (r"(moe_)?(num|n)_(local_|routed_|total_)?experts", 4),
    (r"n_group|num_expert_group", 2),
    (r"topk_group|num_limited_groups|first_k_dense_replace|num_dense_layers", 1),
    (r"(num|n)_(.*_)?(attention_)?heads?|(encoder|decoder)_attention_heads|num_.*_heads", 4),
    (r"num_(.*_)?(hidden_)?layers|n_layers?|(encoder|decoder)_layers|depth", 2),
    (r"(.*_)?hidden_(size|dim)|.*d_model|n_embd|dim|.*embed(ding)?_(dim|size)|projection_dim|width|embed_dim", 32),
    (r".*sliding_window(_size)?|attention_chunk_size|local_attention|window_size", 5),
    (r".*state_size|.*d_state|.*state_dim", 8),
    (r"image_size|img_size|input_size", 32),
    (r"patch_size", 8),
)
"""What an argument is called -> its size; the first that fits, and only where the default is larger."""
_LISTS: tuple[tuple[str, Sequence[int]], ...] = (
    (r"depths|layers_per_stage|stage_blocks", (1, 1, 1, 1)),
    (r"(.*_)?hidden_sizes|embed_dims|dims", (8, 16, 16, 32)),
    (r"num_(attention_)?heads", (1, 2, 2, 4)),
)
_KEYS = re.compile(r"num_key_value_heads|num_kv_heads|n_kv_heads|num_global_key_value_heads|kv_heads")
_OF_MIXTURES = {"n_routed_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_topk": 2, "n_shared_experts": 1}
"""Some classes of mixtures leave their experts to each checkpoint."""
_TOKEN = re.compile(r".*(_token_id|_token_index|_token_ids)|pad_index|.*_index|.*_idx")
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 4}
_FREE_TOKENS = (3, 5, 6, 7, *range(VOCABULARY - 1, 8, -1))


def shrink(kind: type[PreTrainedConfig], differing: Mapping[str, Any], *, causal: bool = False) -> PreTrainedConfig:
    """A class's default configuration, made tiny.

    Args:
        causal: for a decoder; some classes serve both.
        differing: laid over it; a mapping for the configuration of a part.
    """
    differing = _merged(OVERRIDES.get(kind.model_type, {}), differing)
    own = kind(**{name: value for name, value in differing.items() if name in _NEEDED})
    taken = inspect.signature(kind.__init__).parameters
    sizes: dict[str, Any] = {}
    free = iter(_FREE_TOKENS)
    for name, parameter in taken.items():
        part = vars(own).get(name)
        if name in kind.sub_configs and hasattr(part, "to_dict"):
            sizes[name] = shrink(type(part), differing.get(name) or {})
        elif name not in _OF_EVERY_MODEL:
            value = parameter.default if parameter.default is not inspect.Parameter.empty else part
            value = _smaller(name, value, free=free, has_words="vocab_size" in taken)
            if value is not None:
                sizes[name] = value
    if causal and "is_decoder" in taken:
        sizes["is_decoder"] = True
    sizes |= {**_layers(own, taken), **_keys(own, taken)}
    parts = {name for name in differing if name in sizes and hasattr(sizes[name], "to_dict")}
    sizes |= {name: value for name, value in differing.items() if name not in parts}
    return kind(**{name: value for name, value in sizes.items() if value is not _LEFT})


_LEFT = object()
_NEEDED = ("encoder", "decoder", "text_config", "vision_config", "backbone_config")
_OF_EVERY_MODEL = (
    "self", "kwargs", "args", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder",
    "label2id", "output_hidden_states", "problem_type", "return_dict", "transformers_version",
)  # fmt: skip


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: _merged(first[name], second[name]) for name in first.keys() & second.keys()
            if isinstance(first[name], Mapping) and isinstance(second[name], Mapping)}  # fmt: skip
    return {**first, **second, **both}


def _smaller(name: str, value: Any, *, free: Iterator[int], has_words: bool) -> Any:
    """None leaves the argument to its default."""
    if name in _TOKENS and has_words and (value is None or not _is_word(value)):
        return _TOKENS[name]
    if _TOKEN.fullmatch(name):
        return None if value is None or _is_word(value) else next(free)
    if name in _OF_MIXTURES and value in (None, 1):
        return _OF_MIXTURES[name]
    if isinstance(value, bool) or not value:
        return None
    if isinstance(value, list | tuple) and all(isinstance(each, int) for each in value):
        few = next((sizes for pattern, sizes in _LISTS if re.fullmatch(pattern, name)), None)
        return list(few[: len(value)]) if few else None
    if not isinstance(value, int):
        return None
    size = next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), value)
    return min(value, size)


def _is_word(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_word(each) for each in value)
    return isinstance(value, int) and value < VOCABULARY


def _keys(own: PreTrainedConfig, taken: Mapping[str, Any]) -> dict[str, int]:
    """As many heads of keys and values as of queries, one, or some number between, as the class has it."""
    heads = vars(own).get("num_attention_heads")
    said = {name: vars(own).get(name) for name in taken if _KEYS.fullmatch(name)}
    return {name: 4 if count == heads else min(count, 2) for name, count in said.items() if count is not None}


def _layers(own: PreTrainedConfig, taken: Mapping[str, Any]) -> dict[str, Any]:
    """Every kind of layer once: lists with an item a layer keep the items that differ, and the model as many layers."""
    count = getattr(own, "num_hidden_layers", None)
    if not isinstance(count, int) or "num_hidden_layers" not in taken:
        return {}
    lists = {
        name: value
        for name, value in vars(own).items()
        if name in taken and isinstance(value, list) and len(value) == count and not name.endswith("_ids")
    }
    kinds: dict[tuple[str, ...], int] = {}
    for index in range(count):
        kinds.setdefault(tuple(str(value[index]) for value in lists.values()), index)
    chosen = sorted(kinds.values())[:_MOST_LAYERS] if lists else []
    if len(chosen) < 2:
        chosen = [0, min(1, count - 1)]
    return {
        "num_hidden_layers": len(chosen),
        **{name: [value[index] for index in chosen] for name, value in lists.items()},
    }


_ORDER = (
    "text-generation", "fill-mask", "text-classification", "token-classification", "question-answering",
    "multiple-choice", "summarization", "image-text-to-text", "automatic-speech-recognition", "audio-classification",
    "zero-shot-image-classification", "image-classification", "image-segmentation", "object-detection",
    "depth-estimation", "feature-extraction", "image-feature-extraction",
)  # fmt: skip
"""One task for each kind of model class; which of them stands first is what a model type is tried with first."""


@cache
def every_row() -> tuple[Architecture, ...]:
    """The rows that are written by hand, and one for every other class that transformers has for our tasks."""
    from zoo import ARCHITECTURES

    known = {row.name for row in ARCHITECTURES}
    return (*ARCHITECTURES, *(row for row in _rows() if row.name not in known))


def _rows() -> Iterator[Architecture]:
    """Imports transformers, and its modeling files where only those say what a model takes."""
    seen: set[str] = set()
    served: set[str] = set()
    for name in _ORDER:
        task = TASKS[name]
        for model_type, architecture in _classes(task):
            if architecture in seen or not _takes(task, model_type, architecture, served=served):
                continue
            seen.add(architecture)
            served.add(model_type)
            yield shrunk(architecture, name)


def shrunk(name: str, task: str) -> Architecture:
    """The row of a class that nobody has written a configuration for."""
    return Architecture(name=name, family=TASKS[task].family, task=task, config={}, shrunk=True)


def _classes(task: Task) -> Iterator[tuple[str, str]]:
    """(model type, class) of those that the task's auto classes would load."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known: set[str] = set()
    for auto in task.auto_classes:
        for model_type, found in getattr(transformers, auto)._model_mapping._model_mapping.items():
            if model_type in known or CONFIG_MAPPING[model_type].model_type != model_type:
                continue  # another name of a type
            known.add(model_type)
            yield model_type, found if isinstance(found, str) else found[0]


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _takes(task: Task, model_type: str, architecture: str, *, served: set[str]) -> bool:
    """Whether a class is for the task: AutoModel has bare models of all kinds, told apart by what they need."""
    import transformers

    if task.auto_classes != ("AutoModel",):
        return True
    if model_type in served:
        return False
    try:
        taken = inspect.signature(getattr(transformers, architecture).forward).parameters
    except (AttributeError, ImportError, RuntimeError):
        return False
    main = "input_ids" if task.family == "encoder" else "pixel_values"
    needed = [name for name, each in taken.items() if each.default is each.empty and each.kind not in _REST]
    return main in taken and set(needed) <= {"self", main}
