"""Vocabulary files: which ones a tokenizer class reads, as transformers' own sources say, and as a repo's code says.

A class says it in ``vocab_files_names``. Its source is read as text: importing it would bring torch, and a repo's code
is not run before it is trusted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache

from onnx_fleet.conventions import auto_mappings, python_source

_NAMES = re.compile(r"\b(?:VOCAB_FILES_NAMES|vocab_files_names)\s*(?::[^=\n]+)?=\s*(\{[^{}]*\})")
_CONSTANT = re.compile(r"""^(\w+)\s*(?::[^=\n]+)?=\s*["']([^"'\n]+)["']""", re.MULTILINE)
_CLASS = re.compile(r"^class (\w+)(?:\(([^)]*)\))?:", re.MULTILINE)
_OTHER_NAME = re.compile(r"^(\w+) = (\w+)$", re.MULTILINE)
_OF_MODEL_TYPE = re.compile(r"""\(\s*"([\w-]+)",\s*"(\w+)\"""")
_IN_PYTHON = ("PreTrainedTokenizer", "PythonBackend")
"""What classes that run in Python descend from; one of them that names no file needs none."""

TOKENIZER_JSON = "tokenizer.json"
"""The file with a whole tokenizer, which every class reads."""
_BESIDE = frozenset({"tokenizer_config.json"})
"""Files that are settings, which some classes count among their vocabulary."""
_ANY_NAME = ("*.model", "*.spm", "*.tiktoken", "tekken.json")
"""Kinds of vocabulary that transformers takes under any name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerClass:
    """A tokenizer class of transformers, by its source."""

    name: str
    files: tuple[str, ...]
    """The files that it names, its vocabulary first; empty for one that needs no file, as bytes are its tokens."""
    enough: tuple[str, ...]
    """The files of which one will do to tell ids."""


def is_vocabulary(name: str) -> bool:
    """Tell whether some tokenizer class of transformers reads a file of this name, whatever it is for."""
    return name in _every_name() or _of_any_name(name)


def tells_ids(paths: Iterable[str], *, reader: TokenizerClass | None) -> bool:
    """Tell whether the files at the root say how to turn text into ids.

    Merges, emoji and shapes of words are of no use without the vocabulary, which a class names first.

    Args:
        reader: the class that reads them; None for one that is not known, for which any class's vocabulary will do.
    """
    root = {path for path in paths if "/" not in path}
    if TOKENIZER_JSON in root or any(map(_of_any_name, root)) or (reader is not None and not reader.files):
        return True
    return bool(root & (_first_names() if reader is None else set(reader.enough)))


def tokenizer_class(name: str | None, *, model_type: str) -> TokenizerClass | None:
    """Return the class that reads a repo's files, as transformers chooses it; None where it has no such class.

    Args:
        name: what tokenizer_config.json says; without a word of it the model's type decides.
    """
    known = _classes()
    wanted = name or _by_model_type().get(model_type)
    if wanted is None:
        return None
    found = wanted if wanted in known else wanted.removesuffix("Fast")
    if found not in known:
        return None
    files = tuple(name for name in known[found].values() if name not in _BESIDE)
    return TokenizerClass(name=found, files=files, enough=tuple(name for name in files if name in _first_names()))


def class_of_code(name: str, *, sources: Iterable[str]) -> TokenizerClass:
    """Return a tokenizer class of a repo's own, by what its modules name: any of it may be the vocabulary."""
    files = tuple(dict.fromkeys(file for source in sources for file in named_in(source)))
    return TokenizerClass(name=name, files=files, enough=files)


def named_in(source: str) -> tuple[str, ...]:
    """Return the vocabulary files that the source of some module names, in its order."""
    return tuple(dict.fromkeys(name for names in _named(source) for name in names.values()))


def _of_any_name(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _ANY_NAME)


@cache
def _every_name() -> frozenset[str]:
    return frozenset(name for source in _sources() for name in named_in(source)) - _BESIDE


@cache
def _first_names() -> frozenset[str]:
    """Return the files that classes name first, which are vocabulary; their other files stand behind it."""
    dictionaries = [names for source in _sources() for names in _named(source)]
    return frozenset(next(iter(names.values())) for names in dictionaries)


@cache
def _sources() -> tuple[str, ...]:
    """Return the sources of transformers' modules of tokenizers; none where it is not installed."""
    folder = auto_mappings.source_folder()
    if folder is None:
        return ()
    paths = [*sorted(folder.glob("tokenization_*.py")), *sorted(folder.glob("models/*/tokenization_*.py"))]
    return tuple(path.read_text(encoding="utf-8") for path in paths)


@lru_cache(maxsize=256)
def _named(source: str) -> tuple[Mapping[str, str], ...]:
    """Return every dictionary of file names in a source: what a file is for -> its name."""
    constants = dict(_CONSTANT.findall(source))
    return tuple(names for text in _NAMES.findall(source) if (names := _dictionary(text, constants)))


def _dictionary(text: str, constants: Mapping[str, str]) -> dict[str, str]:
    try:
        tree = python_source.expression(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {}
    for key, value in zip(tree.keys, tree.values, strict=True) if isinstance(tree, ast.Dict) else ():
        name = constants.get(value.id) if isinstance(value, ast.Name) else getattr(value, "value", None)
        if isinstance(key, ast.Constant) and isinstance(name, str):
            found[str(key.value)] = name
    return found


@cache
def _classes() -> Mapping[str, Mapping[str, str]]:
    """Return every tokenizer class of transformers with its files, inherited ones and other names of a class too."""
    own: dict[str, Mapping[str, str]] = {name: {} for name in _IN_PYTHON}
    inherited: dict[str, str] = {}
    for source in _sources():
        module = next(iter(_named(source)), {})
        starts = [*_CLASS.finditer(source)]
        for start, end in zip(starts, [*(each.start() for each in starts), len(source)][1:], strict=True):
            body, name = source[start.end() : end], start[1]
            if re.search(r"^    vocab_files_names\b", body, re.MULTILINE):
                own[name] = next(iter(_named(body)), {}) or module
            elif start[2]:
                inherited.setdefault(name, start[2].partition(",")[0].strip())
        for other, name in _OTHER_NAME.findall(source):
            inherited.setdefault(other, name)
    own.pop("PreTrainedTokenizerBase", None)  # which says that it names none, and is no class that reads a text
    return {**own, **{name: files for name in inherited if (files := _of(name, own, inherited)) is not None}}


def _of(name: str, own: Mapping[str, Mapping[str, str]], inherited: Mapping[str, str]) -> Mapping[str, str] | None:
    seen: set[str] = set()
    while name not in own and name in inherited and name not in seen:
        seen.add(name)
        name = inherited[name]
    return own.get(name)


@cache
def _by_model_type() -> Mapping[str, str]:
    folder = auto_mappings.source_folder()
    if folder is None:
        return {}
    mapping = folder / "models/auto/tokenization_auto.py"
    return dict(_OF_MODEL_TYPE.findall(mapping.read_text(encoding="utf-8")))
