"""A repo's files: which names are safe, which files an export needs, and what a repo must not lack."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from onnx_fleet.conventions import auto_mappings, sentence_modules, vocabulary
from onnx_fleet.conventions.sentence_modules import SentenceModule
from onnx_fleet.conventions.vocabulary import TokenizerClass
from onnx_fleet.entities.entry import TokenizerForm
from onnx_fleet.entities.resolved_model import SourceFile
from onnx_fleet.entities.tasks import Task
from onnx_fleet.errors import ModelInvalid, UnsafeModel
from onnx_fleet.source.repo_kind import Read

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"

_ROOT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.*.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "feature_extractor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "LICENSE*",
    "README.md",
)
_CHAT_TEMPLATES = "additional_chat_templates/*.jinja"

_OF_OWN_CODE = ("vocab*.txt", "vocab*.json")
"""The files that a tokenizer of a repo's own code commonly reads, beside the names that its code spells out."""

NOTHING_PUBLISHED = (
    f"the entry says tokenizer: as-published, and the repo has no {vocabulary.TOKENIZER_JSON} that could be taken so;"
    " leave the option out"
)
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""The files of which any one tells how to turn an image or a sound into numbers."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")
_HALF = ("float16", "bfloat16")
_FLOAT32_BYTES = 4
_VARIANT = re.compile(r"model\.(?P<file>[\w-]+)\.safetensors|model\.safetensors\.index\.(?P<index>[\w-]+)\.json")
_PART = re.compile(r"-\d+-of-\d+$")
"""The ending of the name of one file of several: their index says which are the model's."""

_SMALLEST_MODEL_BYTES = 1024
"""The size below which weights are a stub: a Git LFS pointer has 130 bytes, the smallest model some thousands."""

_SHOWN = 5
"""The most files that a message lists."""

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """The permissions of an entry at the commit that it was resolved to."""

    commit: str
    """The commit, 40 hex digits; a permit names it, so that it ends with the next commit."""
    pickle: bool = False
    remote_code: bool = False


def require_safe_paths(paths: Iterable[str], *, subject: str) -> None:
    """Refuse file names from the Hub that leave the folder meant for them.

    Raises:
        UnsafeModel: a name is absolute, climbs, has a drive, a backslash, a control character or an empty part.
    """
    for path in paths:
        parts = path.split("/")
        if (
            any(part in ("", ".", "..") for part in parts)
            or "\\" in path
            or _CONTROL.search(path)
            or _DRIVE.match(path)
        ):
            raise UnsafeModel(f"{subject}: the file name {path!r} could leave its folder; remove the entry")


def needed(
    paths: Collection[str],
    *,
    permits: Permits,
    read: Read,
    subject: str,
    variant: str | None = None,
    modules: Sequence[SentenceModule] = (),
    made: Collection[str] = (),
    vocabularies: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return the paths that an export downloads, sorted: configuration, tokenizer, one set of weights, licence, card.

    Args:
        paths: the paths of the repo's files, as they stand in what is loaded.
        read: returns a JSON file of the repo; asked for the index of a model in several files, which names them.
        variant: the variant of the weights, as transformers has it: ``fp16``.
        modules: the modules that a sentence-transformers source has behind its transformer, whose folders are needed.
        made: the files that are written where the repo lacks them.
        vocabularies: the names of files that the repo's own tokenizer reads.
    Raises:
        ModelInvalid: config.json, the weights or a file that their index names is missing.
        UnsafeModel: the weights are pickle, and that is not permitted.
    """
    paths = set(paths)
    root = {path for path in paths if "/" not in path}
    if "config.json" not in (*root, *made):
        raise ModelInvalid(f"{subject}: config.json is missing; only transformers models can be exported")
    wanted = {path for path in root if any(fnmatchcase(path, pattern) for pattern in _ROOT_FILES)}
    wanted |= {path for path in root if vocabulary.is_vocabulary(path)} | (root & set(vocabularies))
    wanted |= _weights(paths, permits=permits, read=read, variant=variant, subject=subject)
    wanted |= sentence_modules.files(modules, paths, pickle=permits.pickle, commit=permits.commit, subject=subject)
    wanted |= {path for path in paths if fnmatchcase(path, _CHAT_TEMPLATES)}
    if permits.remote_code:
        wanted |= {path for path in paths if path.endswith(".py")}
        wanted |= {path for path in root if any(fnmatchcase(path, pattern) for pattern in _OF_OWN_CODE)}
    return tuple(sorted(wanted))


def has_weights(paths: Collection[str]) -> bool:
    """Say whether a set of weights that transformers loads lies at the root, of whichever variant, pickle or not."""
    return bool({WEIGHTS, WEIGHTS_INDEX, PICKLE, PICKLE_INDEX} & set(paths)) or bool(variants(paths))


def float32_bytes(files: Iterable[SourceFile], *, counted: Mapping[str, int], dtype: object) -> int:
    """Return the bytes that a model's weights have in float32.

    Args:
        files: the files that are downloaded.
        counted: how many numbers of each type the headers of its safetensors files tell of; empty where nobody counted.
        dtype: what config.json says of the type; it is asked where nobody counted.
    """
    if counted:
        return sum(counted.values()) * _FLOAT32_BYTES
    size_bytes = sum(file.size_bytes for file in files if file.path.endswith((".safetensors", *_PICKLES)))
    return size_bytes * 2 if dtype in _HALF else size_bytes


def variants(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the variants of the weights beside, or in place of, the plain ones: ``fp16``."""
    found = {match["file"] or match["index"] for path in paths if (match := _VARIANT.fullmatch(path))}
    return tuple(sorted(name for name in found if name and not _PART.search(name)))


def of_variant(name: str, variant: str | None) -> str:
    """Return a weights file's name for a variant, as transformers has it: ``model.safetensors.index.fp16.json``."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}" if variant else name


def without_variant(path: str, variant: str | None) -> str:
    """Return the plain name of a file of some variant's weights; any other stays as it is."""
    plain = {of_variant(name, variant): name for name in (WEIGHTS, WEIGHTS_INDEX, PICKLE, PICKLE_INDEX)}
    return plain.get(path, path)


def is_index(path: str) -> bool:
    """Say whether a file names the files of a model in several files."""
    return ".index." in path and path.endswith(".json")


def weights_beside(index: str, paths: Iterable[str]) -> dict[str, str]:
    """Return a weight map of every file that an index may name, for whoever has only the files that it selected."""
    suffix = ".safetensors" if ".safetensors." in index else ".bin"
    return {path: path for path in paths if "/" not in path and path.endswith(suffix)}


def _weights(paths: set[str], *, permits: Permits, read: Read, variant: str | None, subject: str) -> set[str]:
    """Return one set of weights, chosen as transformers chooses: a file, else an index, else pickle where permitted."""
    root = {path for path in paths if "/" not in path}
    if of_variant(WEIGHTS, variant) in root:
        return {of_variant(WEIGHTS, variant)}
    if (index := of_variant(WEIGHTS_INDEX, variant)) in root:
        return _indexed(index, paths, suffix=".safetensors", read=read, subject=subject)
    loadable = {of_variant(PICKLE, variant), of_variant(PICKLE_INDEX, variant)} & root
    if (others := variants(root)) and not (loadable and permits.pickle):
        instead = f"no {variant} weights" if variant else "no plain weights"
        raise ModelInvalid(
            f"{subject}: {instead}, only the variant {' and '.join(others)}; write weights_variant: {others[0]} in its"
            f" entry to take that"
        )
    pickled = {path for path in root if PurePosixPath(path).suffix in _PICKLES and path != "training_args.bin"}
    if not pickled:
        formats = ", ".join(sorted({PurePosixPath(path).suffix for path in root} - {"", ".json", ".md", ".txt"}))
        found = f"; found only {formats}" if formats else ""
        names = f"{of_variant(WEIGHTS, variant)} nor {of_variant(WEIGHTS_INDEX, variant)}"
        raise ModelInvalid(f"{subject}: no weights: neither {names}{found}")
    if not permits.pickle:
        raise UnsafeModel(
            f"{subject}: the weights are there only as pickle ({_listed(pickled)}), and loading those runs what is in"
            f" them; name a revision with {WEIGHTS}, or trust this commit with allow_pickle: {permits.commit}"
        )
    if of_variant(PICKLE, variant) in root:
        return {of_variant(PICKLE, variant)}
    if (index := of_variant(PICKLE_INDEX, variant)) in root:
        return _indexed(index, paths, suffix="", read=read, subject=subject)
    raise ModelInvalid(f"{subject}: no weights that transformers loads among {_listed(pickled)}")


def _indexed(index: str, paths: set[str], *, suffix: str, read: Read, subject: str) -> set[str]:
    """Return the index and the files that it names, whatever their names; others beside them are not the model's.

    Args:
        suffix: the ending that each file must have: another is opened in another way.
    """
    weight_map = read(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelInvalid(f"{subject}: {index} names no files of weights; name a revision where it does")
    named = set(names)
    require_safe_paths(named, subject=subject)
    if strange := {name for name in named if not name.endswith(suffix)}:
        raise UnsafeModel(f"{subject}: {index} names files that are no {suffix}: {_listed(strange)}; remove the entry")
    if missing := named - paths:
        raise ModelInvalid(
            f"{subject}: files of the weights are missing that {index} names: {_listed(missing)}; name a revision that"
            f" has them"
        )
    return {index} | named


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def require_inputs(
    paths: Iterable[str],
    *,
    task: Task,
    subject: str,
    tokenizer: TokenizerForm = "exact",
    reader: TokenizerClass | None = None,
) -> None:
    """Refuse a model that nothing can feed: it is not worth its download.

    Args:
        tokenizer: what the entry says of the tokenizer.
        reader: the tokenizer class that reads the repo's files; None where it is not known.
    Raises:
        ModelInvalid: the task takes text and the repo has no tokenizer, or images or sound and it has no preprocessor.
    """
    names = tuple(paths)
    if tokenizer == "as-published" and vocabulary.TOKENIZER_JSON not in names:
        raise ModelInvalid(f"{subject}: {NOTHING_PUBLISHED}")
    if "text" in task.takes and tokenizer == "exact" and not vocabulary.tells_ids(names, reader=reader):
        raise ModelInvalid(f"{subject}: {without_tokenizer(task=task, reader=reader)}")
    if {"image", "audio"} & set(task.takes) and not any(name in _PREPROCESSORS for name in names):
        raise ModelInvalid(
            f"{subject}: no preprocessor: none of {', '.join(_PREPROCESSORS)}; {task.name} needs one: name a revision"
            " that has one, or another task"
        )


def require_more_than_a_stub(sizes: Mapping[str, int], *, architecture: str, subject: str) -> None:
    """Refuse weights that are a stub: a committed Git LFS pointer looks like weights until it is read.

    Args:
        sizes: the sizes of the files that an export downloads, in bytes.
    Raises:
        ModelInvalid: all weights together are smaller than any model.
    """
    weights = {
        path: size for path, size in sizes.items() if "/" not in path and path.endswith((".safetensors", ".bin"))
    }
    if sum(weights.values()) >= _SMALLEST_MODEL_BYTES:
        return
    raise ModelInvalid(
        f"{subject}: the weights of {architecture} have {sum(weights.values())} bytes ({_listed(weights)}): a"
        f" placeholder, or a Git LFS pointer in the place of the file; name a revision that has the weights"
    )


def without_tokenizer(*, task: Task, reader: TokenizerClass | None) -> str:
    """Say what is missing in a repo whose files turn no text into ids."""
    reads = f"{', '.join(reader.files)}, which {reader.name} reads" if reader else "the files that tokenizers have"
    return (
        f"no tokenizer: none of {reads}; {task.name} takes text: name a revision that has one, or publish the model"
        " without one: tokenizer: none"
    )


def require_pinned_code(auto_map: Mapping[str, object], *, permits: Permits, subject: str) -> None:
    """Refuse code that does not come from the commit that was trusted.

    Args:
        auto_map: config.json's or tokenizer_config.json's: class -> where its code is, ``[repo--]module.Class``.
    Raises:
        UnsafeModel: code is not permitted, or lies in another repo, whose commit nobody pinned.
    """
    if not auto_map:
        return
    if not permits.remote_code:
        raise UnsafeModel(
            f"{subject}: the model runs Python code of its repo ({', '.join(sorted(auto_map))}); read it, then trust"
            f" this commit with trust_remote_code: {permits.commit}"
        )
    elsewhere = sorted({place.partition("--")[0] for place in _places(auto_map.values()) if "--" in place})
    if elsewhere:
        raise UnsafeModel(
            f"{subject}: the model's code lies in another repo ({', '.join(elsewhere)}), which this entry cannot pin;"
            " name a repo that holds its own code"
        )


def is_native(auto_map: Mapping[str, object], *, architecture: str, model_type: str) -> bool:
    """Say whether transformers has the class itself that a repo brings code for: then that is used, and no code is run.

    The class has to have the same name: Jina's BERT says ``model_type: bert`` and is another model.
    """
    named = {place.rpartition(".")[2] for place in _places(auto_map.values())}
    return architecture in named and auto_mappings.defines(architecture, model_type=model_type)


def _places(values: Iterable[object]) -> Iterable[str]:
    """Iterate over the names in auto_map values: a name, or a list of names and nulls (slow and fast tokenizer)."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _places(value)
