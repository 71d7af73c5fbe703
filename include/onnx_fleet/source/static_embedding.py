"""sentence-transformers' StaticEmbedding: a table with one vector a token, whose mean is the embedding of a text.

Such a repo has a tokenizer.json and a table, and no model of transformers. It is laid out as one here, so that every
step takes it as it takes any other. The class that computes it is ``source/families/static_embedding.py``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from onnx_fleet import jsonio
from onnx_fleet.conventions import sentence_modules
from onnx_fleet.entities.entry import Entry
from onnx_fleet.errors import ExportUnsupported, ModelInvalid
from onnx_fleet.source import checkpoint
from onnx_fleet.source.architecture import Decided

ARCHITECTURE = sentence_modules.STATIC
"""The class's name in sentence-transformers, which config.json gets in any case."""
MODEL_TYPE = "static-embedding"
TASKS = ("sentence-similarity", "feature-extraction")
TABLES = ("embedding.weight", "embeddings")
"""The names of the table in the checkpoint: as sentence-transformers saves it, and as model2vec does."""
COMPLETED = ("architectures", "hidden_size", "model_type", "table", "vocab_size")
"""The keys that config.json gets."""

CONFIG, TOKENIZER, TOKENIZER_CONFIG, _WEIGHTS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
)  # fmt: skip
_PADDING, _UNKNOWN = ("[PAD]", "<pad>", "<|endoftext|>"), ("[UNK]", "<unk>")
_NO_LIMIT = 1_000_000
"""The number of tokens of a text that nothing cuts: every consumer takes the number, and none reaches it."""


def made(paths: Collection[str]) -> tuple[str, ...]:
    """Return the files that the repo lacks and that are written in their place."""
    return tuple(path for path in (CONFIG, TOKENIZER_CONFIG) if path not in paths)


def decide(entry: Entry, *, tag: str | None, subject: str) -> Decided:
    """Decide the class, its model type and its task.

    Args:
        tag: the Hub's name for what the model does.
    Raises:
        ExportUnsupported: the entry asks for another task than an embedding.
    """
    task = entry.task or (tag if tag in TASKS else TASKS[0])
    if task not in TASKS or entry.architecture not in (None, ARCHITECTURE):
        asked = f"architecture: {entry.architecture}" if task in TASKS else f"task: {task}"
        raise ExportUnsupported(
            f"{subject}: its only model is a {ARCHITECTURE} of sentence-transformers, which {asked} does not fit; leave"
            f" that out, or write task: with {' or '.join(TASKS)}"
        )
    return Decided(architecture=ARCHITECTURE, model_type=MODEL_TYPE, task=task)


def texts(files: Mapping[str, Path], *, subject: str) -> dict[str, str]:
    """Return the text of each file that is written where the repo's own are not enough.

    The class adds no special tokens and pads nothing, whatever tokenizer.json says. Consumers do as that file says, so
    it has to say so.

    Args:
        files: the repo's files, by where they stand in what is loaded.
    Raises:
        ModelInvalid: the table or the tokenizer cannot be read.
    """
    config = jsonio.read_object(files[CONFIG], subject=subject) if CONFIG in files else {}
    tokenizer = jsonio.read_object(files[TOKENIZER], subject=subject)
    rows, width, table = _table(files.get(_WEIGHTS), subject=subject)
    about = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}
    written = {
        CONFIG: {**config, **about, "vocab_size": rows, "hidden_size": width, "table": table},
        TOKENIZER: {**tokenizer, "post_processor": None, "padding": None},
    }
    if TOKENIZER_CONFIG not in files:
        written[TOKENIZER_CONFIG] = _settings(tokenizer, subject=subject)
    return {path: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for path, content in written.items()}


def _table(path: Path | None, *, subject: str) -> tuple[int, int, str]:
    """Return the number of rows, the numbers in a row, and the name of the table."""
    if path is None:
        raise ModelInvalid(f"{subject}: its table is not in {_WEIGHTS}; name a revision where it is")
    for tensor in checkpoint.tensors_of(path):
        if tensor.name in TABLES and len(tensor.shape) == 2:
            return tensor.shape[0], tensor.shape[1], tensor.name
    raise ModelInvalid(f"{subject}: {path.name} has no table named {' or '.join(TABLES)}; publish it again")


def _settings(tokenizer: Mapping[str, Any], *, subject: str) -> dict[str, object]:
    """Make a tokenizer_config.json: which token pads a batch, and where a text is cut."""
    from tokenizers import Tokenizer

    try:
        known = Tokenizer.from_str(json.dumps(tokenizer))
    except Exception as err:  # tokenizers raises no other kind
        raise ModelInvalid(f"{subject}: {TOKENIZER} cannot be read ({err}); publish it again") from err
    cut, padding = tokenizer.get("truncation") or {}, tokenizer.get("padding") or {}
    pads = [padding.get("pad_token"), *_PADDING, known.id_to_token(0)]
    told: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": cut.get("max_length", _NO_LIMIT),
        "pad_token": next(token for token in pads if token and known.token_to_id(token) is not None),
    }
    if unknown := next((token for token in _UNKNOWN if known.token_to_id(token) is not None), None):
        told["unk_token"] = unknown
    return told
