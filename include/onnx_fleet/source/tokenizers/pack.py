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
from typing import TYPE_CHECKING, Any, Literal

from onnx_fleet import jsonio
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.conventions import vocabulary
from onnx_fleet.conventions.vocabulary import TOKENIZER_JSON, TokenizerClass
from onnx_fleet.entities.entry import TokenizerForm
from onnx_fleet.entities.export_record import Fallback
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.errors import BundleCorrupt, ModelInvalid
from onnx_fleet.processes import profiling
from onnx_fleet.source import repo_files
from onnx_fleet.source.repo_files import is_index
from onnx_fleet.source.tokenizers import conversion
from onnx_fleet.source.tokenizers import proof as tokenizer_proof
from onnx_fleet.source.tokenizers.proof import Proof
from onnx_fleet.store import archive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["NO_TOKEN_TYPES", "Packed", "load", "lost_token_types", "not_exact", "pack"]

_NOT_PACKED = (".safetensors", ".bin", ".py")
"""The endings of files that are not packed: weights become graphs, and code is not run from a bundle."""

_MADE = ("tokenizer.json", "special_tokens_map.json")
"""The files that are written here where the source lacks them."""
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

NO_TOKEN_TYPES = "token types in transformers.js -> none"
"""The name of what lost_token_types finds, in a record's fallbacks."""
_SETTINGS = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
"""The settings in tokenizer_config.json that transformers reads and that are not in tokenizer.json."""
_OF_NO_MODEL = (None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
"""The classes that say nothing of the model: transformers.js makes token types for those that it knows to have them."""

Origin = Literal["source", "converted", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The files beside a bundle's graphs, and how its tokenizer.json was held to the source's tokenizer."""

    tokenizer_json: Origin
    """The origin of tokenizer.json: the source's own file, one made from its vocabulary files, or none."""
    tokenizer_class: str | None
    """The class of transformers that reads the source's files."""
    proof: Proof | None
    """The proof of tokenizer.json; None where there is none."""
    reason: str
    """The reason why there is no tokenizer.json, or no proof of a published one; empty where all is well."""
    form: TokenizerForm = "exact"
    """The entry's rule: whether differences from the class are a reason to refuse, or something to know."""
    files: tuple[str, ...] = ()
    """The path of every file written, relative to the stage."""


def pack(stage: Stage, *, source_dir: Path, earlier: bytes | None = None) -> Packed:
    """Copy everything but weights and code into the folder, complete what consumers need, and prove the tokenizer.

    The outcome is also written to ``reports/tokenizer.json``.

    Args:
        earlier: the archive of the very same tokenizer files, as archived returns it; nothing is proven again then.
    Raises:
        BundleCorrupt: earlier is not such an archive.
        ModelInvalid: the task needs a tokenizer and there is none that can be used, or the packed one encodes or
            decodes differently from the source's.
    """
    model, folder = stage.item.model, stage.folder
    for path in model.laid_out:
        if not path.endswith(_NOT_PACKED) and not is_index(path):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source_dir / path, target)
    _complete_preprocessor(folder)
    packed = _restored(earlier, folder) if earlier else _pack_tokenizer(model, source_dir=source_dir, folder=folder)
    packed = replace(packed, files=stage.published_files())
    stage.write_report("tokenizer", packed)
    return packed


def load(model: ResolvedModel, source_dir: Path) -> PreTrainedTokenizerBase:
    """Load the source's own tokenizer: as transformers' class reads its files, or its tokenizer.json as published.

    Raises:
        ModelInvalid: they cannot be read.
    """
    if model.entry.tokenizer == "as-published":
        return _published(model, source_dir)
    return _of_class(model, source_dir)


def _published(model: ResolvedModel, source_dir: Path) -> PreTrainedTokenizerBase:
    """Load the source's tokenizer.json in transformers, with the settings that are not in it, and without its class."""
    from tokenizers import Tokenizer
    from transformers import TokenizersBackend

    path = source_dir / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    try:
        file = Tokenizer.from_file(str(source_dir / TOKENIZER_JSON))
    except Exception as err:  # tokenizers raises no other kind
        raise ModelInvalid(f"{model.at_commit}: {TOKENIZER_JSON} cannot be read: {err}") from err
    special = {name: _content(settings.get(name)) for name in _SPECIAL_TOKENS}
    given = {name: token for name, token in special.items() if token and file.token_to_id(token) is not None}
    sides = {name: settings[name] for name in _SETTINGS if name in settings}
    published: Any = TokenizersBackend
    made: PreTrainedTokenizerBase = published(tokenizer_object=file, **given, **sides)
    return made


def _of_class(model: ResolvedModel, source_dir: Path) -> PreTrainedTokenizerBase:
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
            f"{model.at_commit}: its tokenizer cannot be loaded ({type(err).__name__}: {err}); the repo needs "
            f"tokenizer.json or the vocabulary files of a tokenizer that transformers knows; without them the model "
            f"can be published without a tokenizer: tokenizer: none"
        ) from err
    return tokenizer


def not_exact(packed: Packed) -> tuple[Fallback, ...]:
    """Return the fallbacks of a bundle whose tokenizer is not proven equal to the class's, as its entry allows."""
    if packed.form == "none":
        return (Fallback(what="tokenizer.json -> none", why=packed.reason),)
    if packed.form == "as-published" and (packed.proof is None or packed.proof.differences):
        said = packed.reason if packed.proof is None else tokenizer_proof.summary(packed.proof)
        why = f"the source's file is packed as it is published; {packed.tokenizer_class or 'its class'}: {said}"
        return (Fallback(what="tokenizer: exact -> as published", why=why),)
    return ()


def lost_token_types(folder: Path, graphs: Iterable[GraphInfo]) -> tuple[Fallback, ...]:
    """Return the fallbacks where a graph takes token types and one consumer feeds zeros for them, without an error."""
    settings = folder / "tokenizer_config.json"
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


def archived(packed: Packed, *, source_dir: Path, folder: Path) -> bytes:
    """Return an archive of what was made of a tokenizer, for the next model that has the same files."""
    now = {name: path.read_bytes() for name in _MADE if (path := folder / name).exists()}
    before = {name: path.read_bytes() for name in _MADE if (path := source_dir / name).exists()}
    made = {name: data for name, data in now.items() if before.get(name) != data}
    about = {"packed": jsonio.to_json(packed), "removed": sorted(before.keys() - now.keys())}
    return archive.pack(made, about=about)


def _restored(earlier: bytes, folder: Path) -> Packed:
    files, about = archive.unpack(earlier)
    try:
        packed, removed = jsonio.from_json(Packed, about["packed"]), about["removed"]
    except (KeyError, ValueError) as err:
        raise BundleCorrupt(f"not what was made of a tokenizer: {err}") from err
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    return packed


def _pack_tokenizer(model: ResolvedModel, *, source_dir: Path, folder: Path) -> Packed:
    task = TASKS[model.task]
    needed = "text" in task.takes
    if model.entry.tokenizer == "none":
        (folder / TOKENIZER_JSON).unlink(missing_ok=True)
        return replace(_without_tokenizer(folder, None, reason="the entry says tokenizer: none"), form="none")
    if model.entry.tokenizer == "as-published":
        return _as_published(model, source_dir=source_dir, folder=folder)
    reader = _reader(model, source_dir)
    if not vocabulary.tells_ids(model.needed, reader=reader):
        if needed:
            raise ModelInvalid(f"{model.at_commit}: {repo_files.without_tokenizer(task=task, reader=reader)}")
        return _without_tokenizer(folder, None, reason=f"{model.task} takes no text, and the source has no tokenizer")
    try:
        return _proven_tokenizer(model, source_dir=source_dir, folder=folder, needed=needed)
    except ModelInvalid as err:
        if needed:
            raise
        (folder / "tokenizer.json").unlink(missing_ok=True)
        return _without_tokenizer(folder, None, reason=f"{model.task} takes no text; {err}")


def _as_published(model: ResolvedModel, *, source_dir: Path, folder: Path) -> Packed:
    """Pack the source's file as it is, and record in what the class differs from it."""
    if not (folder / TOKENIZER_JSON).exists():
        raise ModelInvalid(f"{model.at_commit}: {repo_files.NOTHING_PUBLISHED}")
    published, source, proof, reason = _published(model, source_dir), None, None, ""
    try:
        source = _of_class(model, source_dir)
        proof = tokenizer_proof.prove(folder / TOKENIZER_JSON, source, own_file=True)
    except ModelInvalid as err:
        reason = str(err)
    if not (folder / "special_tokens_map.json").exists():
        _write_special_tokens(published, folder)
    return Packed(
        tokenizer_json="source",
        tokenizer_class=type(source).__name__ if source is not None else None,
        proof=proof,
        reason=reason,
        form="as-published",
    )


def _reader(model: ResolvedModel, source_dir: Path) -> TokenizerClass | None:
    """Return the class that reads the files; a trusted repo's own too."""
    path = source_dir / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    name = settings.get("tokenizer_class")
    if settings.get("auto_map") and model.entry.trust_remote_code == model.commit:
        sources = [path.read_text(encoding="utf-8", errors="replace") for path in source_dir.rglob("*.py")]
        return vocabulary.class_of_code(str(name), sources=sources)
    return vocabulary.tokenizer_class(name, model_type=model.model_type)


def _proven_tokenizer(model: ResolvedModel, *, source_dir: Path, folder: Path, needed: bool) -> Packed:
    source = _of_class(model, source_dir)
    if needed and not conversion.is_ctc(source):
        _require_words(model, source)
    origin: Origin = "source"
    if not (folder / "special_tokens_map.json").exists():
        _write_special_tokens(source, folder)
    if not (folder / "tokenizer.json").exists():
        origin = "converted"
        reason = conversion.write(source, folder / "tokenizer.json")
        if reason and needed and not conversion.is_ctc(source):
            raise ModelInvalid(
                f"{model.at_commit}: {reason}; publish the model without a tokenizer, for those who run "
                f"{type(source).__name__} in front of it: tokenizer: none"
            )
        if reason:
            return _without_tokenizer(folder, source, reason=reason)
    proof = tokenizer_proof.prove(folder / "tokenizer.json", source, own_file=origin == "source")
    try:
        tokenizer_proof.require(proof, subject=model.at_commit, own_file=origin == "source")
    except ModelInvalid as err:
        if origin == "source" or not conversion.is_ctc(source):
            raise
        (folder / "tokenizer.json").unlink()
        return _without_tokenizer(folder, source, reason=str(err))
    return Packed(
        tokenizer_json=origin,
        tokenizer_class=type(source).__name__,
        proof=proof,
        reason="",
    )


def _require_words(model: ResolvedModel, source: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that transformers loads without its vocabulary: it makes nothing of any text.

    Raises:
        ModelInvalid: the tokenizer has no vocabulary.
    """
    if not set(source.get_vocab()) - set(source.all_special_tokens):
        raise ModelInvalid(
            f"{model.at_commit}: its {type(source).__name__} makes no token of any text: its vocabulary is not among "
            f"the repo's files; name a revision that has it, or publish the model without a tokenizer: tokenizer: none"
        )


def _without_tokenizer(folder: Path, source: PreTrainedTokenizerBase | None, *, reason: str) -> Packed:
    return Packed(
        tokenizer_json="none",
        tokenizer_class=type(source).__name__ if source is not None else None,
        proof=None,
        reason=reason,
    )


def _content(token: object) -> str | None:
    """Return the text of a special token as tokenizer_config.json writes it: a text, or an object around one."""
    said = token.get("content") if isinstance(token, dict) else token
    return said if isinstance(said, str) else None


def _write_special_tokens(source: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write special_tokens_map.json, which older fastembed asks for (qdrant/fastembed#686)."""
    tokens = {name: str(token) for name in _SPECIAL_TOKENS if (token := getattr(source, name, None)) is not None}
    _write_json(folder / "special_tokens_map.json", tokens)


def _complete_preprocessor(folder: Path) -> None:
    """Write preprocessor_config.json, which transformers.js needs, where a processor's single file holds it."""
    target, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if target.exists() or not whole.exists():
        return
    processor = json.loads(whole.read_text(encoding="utf-8"))
    for part in ("image_processor", "feature_extractor"):
        if isinstance(processor.get(part), dict):
            _write_json(target, {"processor_class": processor.get("processor_class"), **processor[part]})
            return


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
