"""Pack a source's tokenizer and configuration files for every consumer; prove that the packed tokenizer encodes alike.

The source's own files are copied: what transformers 5 saves again (``TokenizersBackend``, list-valued special tokens)
is refused by older transformers, and so by optimum.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.errors import ModelInvalid
from onnx_fleet.hub import ResolvedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOT_PACKED = (".safetensors", ".safetensors.index.json", ".bin", ".py")
"""Weights become graphs, and code is not run from a bundle."""

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

CORPUS = (
    "A quick brown fox jumps over the lazy dog.",
    "Prices rose 3.5% to €1,299.00 (see §4b) -- really?!",
    "Ünïcödé, naïve café, e\u0301 and é; ﬁne ligatures",
    "東京は日本の首都です。 中文分词 한국어",
    "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते",
    "emoji 👍🏽 👨‍👩‍👧 🇩🇪 done",
    "tabs\tand\nnewlines\r\n  and   spaces ",
    "control \u0000\u200b\ufeff characters",
    "[CLS] special [SEP] tokens <s> in text </s> [MASK] <mask>",
    "def f(x):\n    return x ** 2  # snake_case CamelCase",
    "",
    "long " * 700,
)
"""What the packed tokenizer is held to: several scripts, emoji, combining and control characters, empty, very long."""


def pack(model: ResolvedModel, *, source_dir: Path, stage: Path) -> tuple[str, ...]:
    """Copy everything but weights and code into the stage, complete what consumers need, and prove the tokenizer.

    Returns:
        the paths written, relative to the stage.
    Raises:
        ModelInvalid: there is no tokenizer, or the packed one encodes differently from the source's.
    """
    for path in model.needed:
        if not path.endswith(_NOT_PACKED):
            target = stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source_dir / path, target)
    source = _load(model, source_dir)
    if not (stage / "tokenizer.json").exists():
        _convert(model, source, stage)
    if not (stage / "special_tokens_map.json").exists():
        _write_special_tokens(source, stage)
    _require_alike(model, source, stage)
    return tuple(sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()))


def _load(model: ResolvedModel, source_dir: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    trusted = model.entry.trust_remote_code == model.commit
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source_dir, trust_remote_code=trusted)
    except (OSError, ValueError, KeyError, ImportError) as err:
        raise ModelInvalid(
            f"{model.repo_id}@{model.commit[:8]}: its tokenizer cannot be loaded ({err}); the repo needs "
            f"tokenizer.json or the vocabulary files of a tokenizer that transformers knows"
        ) from err
    return tokenizer


def _convert(model: ResolvedModel, source: PreTrainedTokenizerBase, stage: Path) -> None:
    """A source with vocabulary files only: transformers has built the fast tokenizer from them."""
    backend = getattr(source, "backend_tokenizer", None)
    if backend is None:
        raise ModelInvalid(
            f"{model.repo_id}@{model.commit[:8]}: its tokenizer has no fast form that runs without Python; "
            f"add a tokenizer.json to the repo"
        )
    backend.save(str(stage / "tokenizer.json"))


def _write_special_tokens(source: PreTrainedTokenizerBase, stage: Path) -> None:
    """Older fastembed asks for the file (qdrant/fastembed#686)."""
    tokens = {name: str(token) for name in _SPECIAL_TOKENS if (token := getattr(source, name, None)) is not None}
    (stage / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2, ensure_ascii=False) + "\n")


def _require_alike(model: ResolvedModel, source: PreTrainedTokenizerBase, stage: Path) -> None:
    """Plain ``tokenizers``, from the packed file alone, against transformers with the source's files."""
    from tokenizers import Tokenizer

    packed = Tokenizer.from_file(str(stage / "tokenizer.json"))
    packed.no_truncation()
    packed.no_padding()
    for text, ids in zip(CORPUS, _encode(source, CORPUS), strict=True):
        found = packed.encode(text).ids
        if found != ids:
            raise ModelInvalid(
                f"{model.repo_id}@{model.commit[:8]}: tokenizer.json encodes {text[:40]!r} as {found[:12]}, the "
                f"source's tokenizer as {ids[:12]}; its files disagree: save them again from one tokenizer"
            )


def _encode(source: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    encoded = source(list(texts), truncation=False, padding=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
