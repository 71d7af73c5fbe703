"""Pack a source's tokenizer, processor and configuration files for every consumer; prove that the tokenizer is alike.

The source's own files are copied: what transformers 5 saves again (``TokenizersBackend``, list-valued special tokens)
is refused by older transformers, and so by optimum. What is missing is made: tokenizer.json from vocabulary files,
preprocessor_config.json from a processor's single file.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnx_fleet import archive, jsonio, profiling, tokenizer_json, tokenizer_proof
from onnx_fleet import stage as stages
from onnx_fleet.errors import BundleCorrupt, ModelInvalid
from onnx_fleet.graph import GraphInfo
from onnx_fleet.repo_files import has_tokenizer
from onnx_fleet.source import ResolvedModel
from onnx_fleet.stage import Fallback
from onnx_fleet.tasks import TASKS
from onnx_fleet.tokenizer_proof import CORPUS, Proof

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CORPUS", "NO_TOKEN_TYPES", "Packed", "load", "lost_token_types", "pack"]

_NOT_PACKED = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".py")
"""Weights become graphs, and code is not run from a bundle."""

_MADE = ("tokenizer.json", "special_tokens_map.json")
"""What is written here where the source lacks it."""
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

NO_TOKEN_TYPES = "token types in transformers.js -> none"
"""What lost_token_types calls it."""
_OF_NO_MODEL = (None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that say nothing of the model: transformers.js makes token types for those that it knows to have them."""

Origin = Literal["source", "converted", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What lies in a bundle beside its graphs, and how its tokenizer.json was held to the source's tokenizer."""

    files: tuple[str, ...]
    """Every path written, relative to the stage."""
    tokenizer_json: Origin
    """The source's own file, one made from its vocabulary files, or none."""
    tokenizer_class: str | None
    """The class of transformers that reads the source's files."""
    proof: Proof | None
    """None where there is no tokenizer.json."""
    reason: str
    """Why there is no tokenizer.json; empty where there is one."""


def pack(model: ResolvedModel, *, source_dir: Path, stage: Path, earlier: bytes | None = None) -> Packed:
    """Copy everything but weights and code into the stage, complete what consumers need, and prove the tokenizer.

    The outcome is also written to ``reports/tokenizer.json``.

    Args:
        earlier: what archived gave for the very same tokenizer files; nothing is proven again then.
    Raises:
        BundleCorrupt: earlier is nothing of the kind.
        ModelInvalid: the task needs a tokenizer and there is none that can be used, or the packed one encodes or
            decodes differently from the source's.
    """
    for path in model.needed:
        if not path.endswith(_NOT_PACKED):
            target = stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source_dir / path, target)
    _complete_preprocessor(stage)
    packed = _restored(earlier, stage) if earlier else _pack_tokenizer(model, source_dir=source_dir, stage=stage)
    stages.write_report(stage, "tokenizer", packed)
    return packed


def load(model: ResolvedModel, source_dir: Path) -> PreTrainedTokenizerBase:
    """The source's own tokenizer, as transformers reads its files.

    Raises:
        ModelInvalid: they cannot be read.
    """
    with profiling.timed("imports"):
        from transformers import AutoTokenizer

    trusted = model.entry.trust_remote_code == model.commit
    try:
        with warnings.catch_warnings():
            # MarianTokenizer asks for a package whose result it does not use.
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source_dir, trust_remote_code=trusted)
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, AssertionError) as err:
        raise ModelInvalid(
            f"{_name(model)}: its tokenizer cannot be loaded ({type(err).__name__}: {err}); the repo needs "
            f"tokenizer.json or the vocabulary files of a tokenizer that transformers knows"
        ) from err
    return tokenizer


def lost_token_types(stage: Path, graphs: Iterable[GraphInfo]) -> tuple[Fallback, ...]:
    """What is to be said where a graph takes token types and one consumer feeds zeros for them, without an error."""
    settings = stage / "tokenizer_config.json"
    takes_them = any(spec.name == "token_type_ids" for info in graphs for spec in info.inputs)
    if not takes_them or not settings.exists():
        return ()
    name = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
    if name not in _OF_NO_MODEL:
        return ()
    why = (
        f"tokenizer_config.json names {name or 'no tokenizer class'}, for which transformers.js makes no token types: "
        f"it feeds zeros, also for the second text of a pair; pass return_token_type_ids: true to its tokenizer"
    )
    return (Fallback(what=NO_TOKEN_TYPES, why=why),)


def archived(packed: Packed, *, source_dir: Path, stage: Path) -> bytes:
    """What was made of a tokenizer, for the next model that has the same files."""
    now = {name: path.read_bytes() for name in _MADE if (path := stage / name).exists()}
    before = {name: path.read_bytes() for name in _MADE if (path := source_dir / name).exists()}
    made = {name: data for name, data in now.items() if before.get(name) != data}
    about = {"packed": jsonio.to_json(packed), "removed": sorted(before.keys() - now.keys())}
    return archive.pack(made, about=about)


def _restored(earlier: bytes, stage: Path) -> Packed:
    files, about = archive.unpack(earlier)
    try:
        packed, removed = jsonio.from_json(Packed, about["packed"]), about["removed"]
    except (KeyError, ValueError) as err:
        raise BundleCorrupt(f"not what was made of a tokenizer: {err}") from err
    for name, data in files.items():
        (stage / name).write_bytes(data)
    for name in removed:
        (stage / name).unlink(missing_ok=True)
    return replace(packed, files=stages.published_files(stage))


def _pack_tokenizer(model: ResolvedModel, *, source_dir: Path, stage: Path) -> Packed:
    needed = "text" in TASKS[model.task].takes
    if not has_tokenizer(model.needed):
        if needed:
            raise ModelInvalid(f"{_name(model)}: no tokenizer among its files; name a revision that has one")
        return _without_tokenizer(stage, None, reason=f"{model.task} takes no text, and the source has no tokenizer")
    try:
        return _proven_tokenizer(model, source_dir=source_dir, stage=stage, needed=needed)
    except ModelInvalid as err:
        if needed:
            raise
        (stage / "tokenizer.json").unlink(missing_ok=True)
        return _without_tokenizer(stage, None, reason=f"{model.task} takes no text; {err}")


def _proven_tokenizer(model: ResolvedModel, *, source_dir: Path, stage: Path, needed: bool) -> Packed:
    source = load(model, source_dir)
    origin: Origin = "source"
    if not (stage / "special_tokens_map.json").exists():
        _write_special_tokens(source, stage)
    if not (stage / "tokenizer.json").exists():
        origin = "converted"
        reason = tokenizer_json.write(source, stage / "tokenizer.json")
        if reason and needed and not tokenizer_json.is_ctc(source):
            raise ModelInvalid(f"{_name(model)}: {reason}; add a tokenizer.json to the repo, or name one that has it")
        if reason:
            return _without_tokenizer(stage, source, reason=reason)
    proof = tokenizer_proof.prove(stage / "tokenizer.json", source, own_file=origin == "source")
    try:
        tokenizer_proof.require(proof, subject=_name(model), own_file=origin == "source")
    except ModelInvalid as err:
        if origin == "source" or not tokenizer_json.is_ctc(source):
            raise
        (stage / "tokenizer.json").unlink()
        return _without_tokenizer(stage, source, reason=str(err))
    return Packed(
        files=stages.published_files(stage),
        tokenizer_json=origin,
        tokenizer_class=type(source).__name__,
        proof=proof,
        reason="",
    )


def _without_tokenizer(stage: Path, source: PreTrainedTokenizerBase | None, *, reason: str) -> Packed:
    return Packed(
        files=stages.published_files(stage),
        tokenizer_json="none",
        tokenizer_class=type(source).__name__ if source is not None else None,
        proof=None,
        reason=reason,
    )


def _write_special_tokens(source: PreTrainedTokenizerBase, stage: Path) -> None:
    """Older fastembed asks for the file (qdrant/fastembed#686)."""
    tokens = {name: str(token) for name in _SPECIAL_TOKENS if (token := getattr(source, name, None)) is not None}
    _write_json(stage / "special_tokens_map.json", tokens)


def _complete_preprocessor(stage: Path) -> None:
    """transformers 5 may save a whole processor into one file; transformers.js reads preprocessor_config.json alone."""
    target, whole = stage / "preprocessor_config.json", stage / "processor_config.json"
    if target.exists() or not whole.exists():
        return
    processor = json.loads(whole.read_text(encoding="utf-8"))
    for part in ("image_processor", "feature_extractor"):
        if isinstance(processor.get(part), dict):
            _write_json(target, {"processor_class": processor.get("processor_class"), **processor[part]})
            return


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _name(model: ResolvedModel) -> str:
    return f"{model.repo_id}@{model.commit[:8]}"
