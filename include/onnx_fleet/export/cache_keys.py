"""The keys of the cache: all that decides a model's graphs apart from its weights' values, and all that decides what
becomes of its tokenizer. Nothing of torch is imported.

Two models with one graph key have the same graphs. Whatever might shape a graph is in the key; only what is named here
as without an effect stays out, and a test traces a model with each of those changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from onnx_fleet import jsonio, recipes
from onnx_fleet.conventions import vocabulary
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.planning import fingerprint
from onnx_fleet.source.checkpoint import StoredTensor

WITHOUT_EFFECT = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "finetuning_task"}
)
"""Keys of config.json, at any depth, that no graph depends on: weights are loaded as float32 whatever it says."""
_LABELS = ("id2label", "label2id")
"""The keys of config.json whose number of labels is a shape, while the labels' names have no effect."""
_TOKENIZER_SETTINGS = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json")
_NOT_OF_GRAPHS = frozenset({"commit", "tokenizer"})
"""The parts of a bundle's fingerprint that have no effect on graphs."""
_WITHOUT_EFFECT_ON_GRAPHS = (
    "config.json", "generation_config.json", "README.md", "LICENSE*", "*chat_template*", "additional_chat_templates/*",
    "*.safetensors", "*.bin", "*.index.json", "*.index.*.json",
)  # fmt: skip
"""The files that shape no graph, or, as configuration and weights, have their own places in the key."""


def of_graphs(item: WorkItem, *, source_dir: Path, tensors: Mapping[str, StoredTensor]) -> str | None:
    """Return the key of a model's graphs, 64 hex digits; None where they may depend on something that no key can tell.

    Args:
        tensors: the checkpoint's tensors by name.
    """
    entry = item.model.entry
    recipe_is_own = entry.recipe is not None and entry.recipe not in recipes.RECIPES
    if not tensors or entry.trust_remote_code is not None or (recipe_is_own and item.recipe_digest is None):
        return None
    config = json.loads((source_dir / "config.json").read_bytes())
    shaping = {
        "deciding": {
            name: value
            for name, value in fingerprint.deciding(
                item.model, family=item.family, versions=item.toolchain, recipe_digest=item.recipe_digest
            ).items()
            if name not in _NOT_OF_GRAPHS
        },
        "config": _shaping(config),
        "tensors": {tensor.name: [tensor.dtype, *tensor.shape] for tensor in tensors.values()},
        "files": {
            path: digest
            for path, digest in _digests(item, source_dir).items()
            if not _matches(path, _WITHOUT_EFFECT_ON_GRAPHS) and not _is_of_tokenizer(path)
        },
    }
    return hashlib.sha256(jsonio.canonical(shaping)).hexdigest()


def of_tokenizer(item: WorkItem, *, source_dir: Path) -> str | None:
    """Return the key of a tokenizer, 64 hex digits; None where the tokenizer runs code of its repo."""
    if item.model.entry.trust_remote_code is not None:
        return None
    deciding = {
        "task": item.model.task,
        "toolchain": dict(item.toolchain),
        "config": _shaping(json.loads((source_dir / "config.json").read_bytes())),
        "files": {path: digest for path, digest in _digests(item, source_dir).items() if _is_of_tokenizer(path)},
        **({"form": item.model.entry.tokenizer} if item.model.entry.tokenizer != "exact" else {}),
    }
    return hashlib.sha256(jsonio.canonical(deciding)).hexdigest()


def _digests(item: WorkItem, source_dir: Path) -> dict[str, str]:
    """Return the digest, 64 hex digits, of every downloaded file except weights."""
    small = [path for path in item.model.laid_out if not path.endswith((".safetensors", ".bin"))]
    return {path: hashlib.sha256((source_dir / path).read_bytes()).hexdigest() for path in small}


def _is_of_tokenizer(path: str) -> bool:
    return vocabulary.is_vocabulary(path) or _matches(path, _TOKENIZER_SETTINGS)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _shaping(value: Any) -> Any:
    """Return a configuration without the keys that have no effect."""
    if isinstance(value, list):
        return [_shaping(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _shaping(each) for key, each in value.items() if key not in WITHOUT_EFFECT and key not in _LABELS}
    return {**kept, **{key: len(value[key]) for key in _LABELS if isinstance(value.get(key), dict)}}
