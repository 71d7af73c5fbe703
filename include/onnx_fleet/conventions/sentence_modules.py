"""A sentence-transformers source: the modules that its modules.json chains behind the transformer, and its settings.

The library is not imported here: this is what its files say. Building and running the modules is for
``source/families/chain.py``, and what they must give is for ``validation/checks/sentence.py`` to ask the library
itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnx_fleet import jsonio
from onnx_fleet.errors import ExportUnsupported, ModelInvalid, UnsafeModel

FILE_NAME = "modules.json"
AS_PUBLISHED = "as-published"
"""The folder with the repo as it is, inside the one that a model is loaded from, where more than its config.json had
to be changed."""
WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
PREFIX = "sentence_modules"
"""What the names of modules' tensors begin with, beside the checkpoint's: ``sentence_modules.<folder>.<name>``."""

TRANSFORMERS = ("Transformer", "MLMTransformer")
"""The modules that wrap a model of transformers."""
STATIC = "StaticEmbedding"
"""The module that is a table of vectors, in the place of a transformer."""
_WITH_WEIGHTS = frozenset({"Dense", "LayerNorm", "WeightedLayerPooling", "CNN", "SparseAutoEncoder"})
_WITHOUT_WEIGHTS = frozenset({"Pooling", "SpladePooling", "Normalize", "Dropout", "WordWeights"})
SUPPORTED = _WITH_WEIGHTS | _WITHOUT_WEIGHTS
_OWN_NAMESPACE = "sentence_transformers."

_REFUSED: Mapping[str, str] = {
    "Router": "sends queries and documents through different modules, and a graph has one path only; publish each "
    "route as a repo of its own",
    "SparseStaticEmbedding": "looks its tokens up without a transformer, which sentence-transformers does as fast by "
    "itself; remove the entry",
    "WordEmbeddings": "has a tokenizer of its own and no transformer; remove the entry",
    "BoW": "counts words and has no transformer; remove the entry",
    "CLIPModel": "wraps a CLIP; name the repo of that CLIP with task zero-shot-image-classification",
    "LSTM": "packs rows by their lengths, which a graph cannot; remove the entry",
    "LogitScore": "scores by the next token of a language model; export it with task text-generation from a repo "
    "without modules.json",
}
_ALSO_CALLED = {"Asym": "Router"}

Kind = Literal["SentenceTransformer", "SparseEncoder", "CrossEncoder"]

_CONFIG_NAMES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""The files with the transformer's own settings, in the order in which sentence-transformers looks for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceModule:
    """One entry of modules.json."""

    kind: str
    """The class's name: ``Pooling``, ``Dense``, …"""
    type: str
    """The class as modules.json names it: ``sentence_transformers.models.Pooling``."""
    path: str
    """The folder in the repo; empty for the root."""

    @property
    def is_own(self) -> bool:
        """Whether the class is the library's; any other is code of the repo."""
        return self.type.startswith(_OWN_NAMESPACE)

    @property
    def prefix(self) -> str:
        """What the names of its tensors begin with; a dot in the folder's name would part it."""
        return f"{PREFIX}.{self.path.replace('.', '_').replace('/', '_')}."

    def __str__(self) -> str:
        return f"{self.kind} ({self.path})" if self.path else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a sentence-transformers source turns texts into what a graph takes, and what a graph returns into answers."""

    kind: Kind
    """The class of sentence-transformers that the source was made for."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What is put before a text, by the prompt's name."""
    default_prompt_name: str | None = None
    """The prompt that every text gets where none is asked for."""
    max_seq_length: int | None = None
    """The number of tokens that a text is cut to; None leaves it to the tokenizer."""
    do_lower_case: bool = False
    """Whether texts are lower-cased before the tokenizer, which may be a cased one, sees them."""
    similarity: str | None = None
    """The function by which two embeddings are compared: ``cosine``, ``dot``, …"""
    truncate_dim: int | None = None
    """How many numbers of an embedding are kept, from the first on."""
    activation: str | None = None
    """The class of torch.nn that a re-ranker's scores go through; None is the library's own choice: a sigmoid for one
    label, nothing for several."""


def parse(data: object, *, subject: str, trusted: bool = False) -> tuple[SentenceModule, ...]:
    """Return the modules that a modules.json names, in order: a transformer or a table, then what may stand behind it.

    Args:
        trusted: whether the repo's own code may be run; classes of its own are refused otherwise.
    Raises:
        ModelInvalid: it is no list of modules, or lacks a transformer in front.
        UnsafeModel: a module's folder leaves the repo, or its class is the repo's own and not trusted.
        ExportUnsupported: a module is of a kind that no graph can have.
    """
    modules = _listed(data, subject=subject)
    for module in modules:
        if not module.is_own and not trusted:
            raise UnsafeModel(
                f"{subject}: {FILE_NAME} names {module.type}, a class of the repo's own; read its code, then trust it "
                f"with trust_remote_code, or name another model"
            )
        kind = _ALSO_CALLED.get(module.kind, module.kind)
        if module.is_own and kind in _REFUSED:
            raise ExportUnsupported(f"{subject}: its module {module} {_REFUSED[kind]}")
    first, *others = modules
    if first.is_own and first.kind not in (*TRANSFORMERS, STATIC):
        raise ExportUnsupported(f"{subject}: {FILE_NAME} begins with {first} instead of a transformer; {_REMOVE}")
    for module in others:
        if module.is_own and module.kind not in SUPPORTED:
            raise ExportUnsupported(f"{subject}: its module {module} cannot be exported; {_REMOVE}")
    return modules


_REMOVE = "remove the entry"


def _listed(data: object, *, subject: str) -> tuple[SentenceModule, ...]:
    fault = f"{subject}: {FILE_NAME} is not a list of modules with a type and a path each; name a revision where it is"
    if not isinstance(data, list) or not data:
        raise ModelInvalid(fault)
    modules = []
    for given in data:
        kind, path = (given.get("type"), given.get("path", "")) if isinstance(given, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ModelInvalid(fault)
        path = "" if path == "." else path.removeprefix("./").removesuffix("/")
        if path and any(part in ("", ".", "..") or "\\" in part for part in path.split("/")):
            raise UnsafeModel(f"{subject}: {FILE_NAME} names the folder {path!r}, which could leave the repo")
        modules.append(SentenceModule(kind=kind.rpartition(".")[2], type=kind, path=path))
    return tuple(modules)


def read(folder: Path, *, subject: str = "", trusted: bool = False) -> tuple[SentenceModule, ...]:
    """Read the modules of a source or a bundle; there are none where it has no modules.json.

    Raises:
        ModelInvalid, UnsafeModel, ExportUnsupported: see parse.
    """
    path, subject = folder / FILE_NAME, subject or folder.name
    return parse(jsonio.read(path, subject=subject), subject=subject, trusted=trusted) if path.is_file() else ()


def at_root(path: Path) -> str:
    """Return a modules.json whose transformer lies at the root, where consumers other than the library look."""
    first, *others = jsonio.read(path, subject=path.parent.name)
    return json.dumps([{**first, "path": ""}, *others], indent=2, ensure_ascii=False) + "\n"


def listed(folder: Path) -> tuple[SentenceModule, ...]:
    """Read the modules of a source or a bundle, whatever they are; there are none where it has no modules.json.

    Raises:
        ModelInvalid, UnsafeModel: modules.json is no list of modules, or names a folder outside.
    """
    path = folder / FILE_NAME
    return _listed(jsonio.read(path, subject=folder.name), subject=folder.name) if path.is_file() else ()


def folders(folder: Path) -> tuple[str, ...]:
    """Return the folders that a bundle's or a source's modules have; the root is none of them.

    Raises:
        ModelInvalid, UnsafeModel: see listed.
    """
    return tuple(dict.fromkeys(module.path for module in listed(folder) if module.path))


def files(
    modules: Sequence[SentenceModule], paths: Iterable[str], *, pickle: bool, commit: str, subject: str
) -> set[str]:
    """Return what an export needs of the modules' folders: their settings, and one file of weights each.

    Args:
        paths: the repo's files.
        pickle: whether weights may come as pickle.
    Raises:
        ModelInvalid: the weights of a module are missing.
        UnsafeModel: they are there as pickle alone, and that is not permitted.
    """
    there, wanted = set(paths), set[str]()
    for module in modules:
        if not module.path:
            continue
        inside = {path for path in there if path.rpartition("/")[0] == module.path}
        wanted |= {path for path in inside if path.endswith(".json")}
        weights, pickled = f"{module.path}/{WEIGHTS}", f"{module.path}/{PICKLED_WEIGHTS}"
        if weights in inside:
            wanted.add(weights)
        elif pickled in inside:
            if not pickle:
                raise UnsafeModel(
                    f"{subject}: {module.path} has its weights only as pickle; name a revision with {weights}, or "
                    f"trust this commit with allow_pickle: {commit}"
                )
            wanted.add(pickled)
        elif module.kind in _WITH_WEIGHTS:
            raise ModelInvalid(f"{subject}: its module {module} has no weights: {weights} is missing; publish it again")
    return wanted


def pack_weights(needed: Iterable[str], *, source_dir: Path, stage: Path) -> None:
    """Put the modules' weights into a stage, for the library to load the bundle: as they are, or out of a pickle.

    Their settings are packed with every other small file. Pickle is among the needed paths only where it is permitted.

    Raises:
        ModelInvalid: what is in a pickle is no table of tensors.
    """
    modules = set(folders(source_dir))
    if any(module.kind == STATIC for module in listed(source_dir)):
        modules.add("")
    for path in needed:
        folder, _, name = path.rpartition("/")
        if folder not in modules or name not in (WEIGHTS, PICKLED_WEIGHTS):
            continue
        target = stage / folder / WEIGHTS
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == WEIGHTS:
            shutil.copyfile(source_dir / path, target)
        else:
            _convert(source_dir / path, target)


def _convert(pickled: Path, target: Path) -> None:
    """Write pickled tensors as a safetensors file; nothing but tensors is unpickled."""
    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(pickled, map_location="cpu", weights_only=True)
        save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, target)
    except Exception as err:  # what is no such file makes torch raise any of a dozen errors
        raise ModelInvalid(f"{pickled.parent.name}/{pickled.name} holds no tensors ({err}); publish it again") from err


def settings(folder: Path) -> Settings | None:
    """Read what a source's or a bundle's files say beside the modules; None for other models than such ones."""
    told = _mapping(folder / _SETTINGS)
    config = _mapping(folder / "config.json")
    activation = activation_named(folder, config)
    is_chain = (folder / FILE_NAME).is_file()
    if not is_chain and not told and activation is None and not config.get("sentence_transformers"):
        return None
    transformer = transformer_settings(folder)
    length = transformer.get("max_seq_length")
    return Settings(
        kind=_kind(told, is_chain=is_chain),
        prompts=_prompts(told),
        default_prompt_name=_text(told.get("default_prompt_name")),
        max_seq_length=length if isinstance(length, int) and length > 0 else None,
        do_lower_case=transformer.get("do_lower_case") is True,
        similarity=_text(told.get("similarity_fn_name")),
        truncate_dim=dimension if isinstance(dimension := told.get("truncate_dim"), int) else None,
        activation=activation,
    )


_SETTINGS = "config_sentence_transformers.json"
_OLD_ACTIVATION = "sbert_ce_default_activation_function"
"""Where sentence-transformers before 4.0 kept a re-ranker's activation."""


def activation_named(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the class that a re-ranker's scores go through, by the newest of the places that files name it in.

    Args:
        config: its config.json.
    """
    own = config.get("sentence_transformers")
    own = own if isinstance(own, dict) else {}
    older = None if "activation_fn" in own else config.get(_OLD_ACTIVATION)
    return _text(_mapping(folder / _SETTINGS).get("activation_fn")) or _text(own.get("activation_fn")) or _text(older)


def transformer_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of the transformer's own module."""
    for name in _CONFIG_NAMES:
        if found := _mapping(folder / name):
            return found
    return {}


def transformer_task(modules: Sequence[SentenceModule], folder: Path) -> str:
    """Return the head that the first module wants: ``feature-extraction``, ``fill-mask``, …"""
    default = "fill-mask" if modules[0].kind == "MLMTransformer" else "feature-extraction"
    return str(transformer_settings(folder).get("transformer_task") or default)


def pools_word_scores(modules: Sequence[SentenceModule]) -> bool:
    """Tell whether the modules read a masked language model's scores, as SPLADE does."""
    return any(module.kind == "SpladePooling" for module in modules)


def _kind(told: Mapping[str, Any], *, is_chain: bool) -> Kind:
    """Decide the kind as the library does; a classifier without modules.json is a re-ranker."""
    match told.get("model_type"):
        case "SparseEncoder":
            return "SparseEncoder"
        case "CrossEncoder":
            return "CrossEncoder"
    return "SentenceTransformer" if is_chain or told else "CrossEncoder"


def _prompts(told: Mapping[str, Any]) -> dict[str, str]:
    prompts = told.get("prompts")
    given = prompts if isinstance(prompts, dict) else {}
    return {str(name): prompt or "" for name, prompt in given.items() if prompt is None or isinstance(prompt, str)}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _mapping(path: Path) -> dict[str, Any]:
    found = jsonio.read(path, subject=path.parent.name) if path.is_file() else None
    return found if isinstance(found, dict) else {}
