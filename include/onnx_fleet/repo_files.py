"""A repo's files: which names are safe, which files an export needs, and what a repo must not lack."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from onnx_fleet import sentence_modules, vocabulary
from onnx_fleet.entry import TokenizerForm
from onnx_fleet.errors import ModelInvalid, UnsafeModel
from onnx_fleet.sentence_modules import SentenceModule
from onnx_fleet.source import SourceFile
from onnx_fleet.tasks import Task
from onnx_fleet.vocabulary import TokenizerClass

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

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
"""What a tokenizer of a repo's own code commonly reads, beside the names that its code spells out."""

NOTHING_PUBLISHED = (
    f"the entry says tokenizer: as-published, and the repo has no {vocabulary.TOKENIZER_JSON} that could be taken so;"
    " leave the option out"
)
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Any one of them tells how to turn an image or a sound into numbers."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")
_PICKLED_WEIGHTS = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json")
_SHARD = re.compile(r"model-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """What an entry allows at the commit that it was resolved to."""

    commit: str
    """40 hex digits; a permit is written down as this, so that it ends with the next commit."""
    pickle: bool = False
    remote_code: bool = False


def require_safe_paths(paths: Iterable[str], *, subject: str) -> None:
    """Hold file names from the Hub to the folder meant for them.

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
    files: Iterable[SourceFile],
    *,
    permits: Permits,
    subject: str,
    modules: Sequence[SentenceModule] = (),
    vocabularies: Iterable[str] = (),
) -> tuple[str, ...]:
    """The paths that an export downloads, sorted: configuration, tokenizer, one set of weights, licence, card.

    Args:
        modules: of a sentence-transformers source; their folders come with it.
        vocabularies: the names of files that the repo's own tokenizer reads.
    Raises:
        ModelInvalid: config.json, the weights or a shard is missing.
        UnsafeModel: the weights are pickle, and that is not permitted.
    """
    paths = {file.path for file in files}
    root = {path for path in paths if "/" not in path}
    if "config.json" not in root:
        raise ModelInvalid(f"{subject}: config.json is missing; only transformers models can be exported")
    wanted = {path for path in root if any(fnmatchcase(path, pattern) for pattern in _ROOT_FILES)}
    wanted |= {path for path in root if vocabulary.is_vocabulary(path)} | (root & set(vocabularies))
    wanted |= _weights(root, permits=permits, subject=subject)
    wanted |= sentence_modules.files(modules, paths, pickle=permits.pickle, commit=permits.commit, subject=subject)
    wanted |= {path for path in paths if fnmatchcase(path, _CHAT_TEMPLATES)}
    if permits.remote_code:
        wanted |= {path for path in paths if path.endswith(".py")}
        wanted |= {path for path in root if any(fnmatchcase(path, pattern) for pattern in _OF_OWN_CODE)}
    return tuple(sorted(wanted))


def _weights(root: set[str], *, permits: Permits, subject: str) -> set[str]:
    """One whole set of weights, chosen as transformers chooses: one file, else shards, else pickle where permitted."""
    if WEIGHTS in root:
        return {WEIGHTS}
    if WEIGHTS_INDEX in root:
        return {WEIGHTS_INDEX} | _shards(root, subject=subject)
    pickled = {path for path in root if PurePosixPath(path).suffix in _PICKLES and path != "training_args.bin"}
    if not pickled:
        formats = ", ".join(sorted({PurePosixPath(path).suffix for path in root} - {"", ".json", ".md", ".txt"}))
        found = f"; found only {formats}" if formats else ""
        raise ModelInvalid(f"{subject}: no weights: neither {WEIGHTS} nor {WEIGHTS_INDEX}{found}")
    if not permits.pickle:
        raise UnsafeModel(
            f"{subject}: the weights are there only as pickle ({', '.join(sorted(pickled))}), and loading those runs"
            f" what is in them; name a revision with {WEIGHTS}, or trust this commit with"
            f" allow_pickle: {permits.commit}"
        )
    loadable = {path for path in root if _PICKLED_WEIGHTS.fullmatch(path)}
    if not loadable:
        raise ModelInvalid(f"{subject}: no weights that transformers loads among {', '.join(sorted(pickled))}")
    return loadable


def _shards(root: set[str], *, subject: str) -> set[str]:
    """Every shard of a sharded model."""
    found = {path: match for path in root if (match := _SHARD.fullmatch(path))}
    counts = {match["count"] for match in found.values()}
    if len(counts) != 1:
        raise ModelInvalid(f"{subject}: {WEIGHTS_INDEX} is there, but no single set of model-…-of-….safetensors shards")
    count = counts.pop()
    missing = {f"model-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)} - set(found)
    if missing:
        raise ModelInvalid(f"{subject}: shards of the weights are missing: {', '.join(sorted(missing))}")
    return set(found)


def require_inputs(
    paths: Iterable[str],
    *,
    task: Task,
    subject: str,
    tokenizer: TokenizerForm = "exact",
    reader: TokenizerClass | None = None,
) -> None:
    """A model that nothing can feed is not worth its download.

    Args:
        tokenizer: what the entry says of it.
        reader: the tokenizer class that reads the repo's files; None of one that is not known.
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


def without_tokenizer(*, task: Task, reader: TokenizerClass | None) -> str:
    """What is to be said of a repo whose files turn no text into ids."""
    reads = f"{', '.join(reader.files)}, which {reader.name} reads" if reader else "the files that tokenizers have"
    return (
        f"no tokenizer: none of {reads}; {task.name} takes text: name a revision that has one, or publish the model"
        " without one: tokenizer: none"
    )


def require_pinned_code(auto_map: Mapping[str, object], *, permits: Permits, subject: str) -> None:
    """Code comes from the commit that was trusted, or not at all.

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
    """Whether transformers has the class itself that a repo brings code for: then that is used, and no code is run.

    The class has to have the same name: Jina's BERT says ``model_type: bert`` and is another model.
    """
    named = {place.rpartition(".")[2] for place in _places(auto_map.values())}
    package = importlib.util.find_spec("transformers")  # which is not imported: it brings torch
    if architecture not in named or package is None or package.origin is None:
        return False
    folder = Path(package.origin).parent / "models" / model_type.replace("-", "_")
    defined = re.compile(rf"^class {re.escape(architecture)}\(", re.MULTILINE)
    return any(defined.search(path.read_text(encoding="utf-8")) for path in folder.glob("modeling_*.py"))


def _places(values: Iterable[object]) -> Iterable[str]:
    """An auto_map's value is a name, or a list of names and nulls (slow and fast tokenizer)."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _places(value)
