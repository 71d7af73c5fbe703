"""A model's source: one repo of the Hub at one commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from onnx_fleet.entities import licence, naming
from onnx_fleet.entities.entry import Entry

_OF_THE_REPO = ("modules.json", "config_sentence_transformers.json", "README.md", "LICENSE*")
"""Files at a repo's root that speak of all of it, and are no model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a repo at one commit."""

    path: str
    """A POSIX path relative to the repo, which never leaves it."""
    size_bytes: int
    digest: str
    """``sha256:<hex>`` for an LFS file, ``git-sha1:<hex>`` (the blob id) for any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """An entry pinned to one commit."""

    entry: Entry
    repo_id: str
    """The Hub's canonical id, ``org/name``; the entry may have said less (``gpt2``)."""
    commit: str
    """The commit, 40 hexadecimal digits."""
    task: str
    """The name of a task, one of onnx_fleet.entities.tasks.TASKS."""
    architecture: str
    """The class that the weights are of, such as ``BertForSequenceClassification``: config.json's, unless the entry
    says another, or config.json says none and its model_type and the task do."""
    model_type: str
    """config.json's model_type, such as ``bert``; the class's own where it says none."""
    licence: str | None
    """The Hub's id of the licence; None where the card names none."""
    gated: bool
    files: tuple[SourceFile, ...]
    """Every file of the repo."""
    needed: tuple[str, ...]
    """The files that an export downloads, by where they stand in what is loaded: see laid_out."""
    folder: str = ""
    """The folder of the repo whose files stand at the root of what is loaded and published: ``0_Transformer`` of a
    sentence-transformers repo that keeps its transformer there."""
    made: tuple[str, ...] = ()
    """Files that the repo lacks, and that what is loaded and published has."""
    float32_bytes: int = 0
    """The bytes of the weights in float32, by the headers of their files as the Hub counts them, else by the files'
    sizes; 0 where nobody has counted."""
    completed: tuple[str, ...] = ()
    """Keys of config.json that the source leaves out, or the entry overrides: what loads it is given them."""
    licence_name: str | None = None
    """What the card calls the licence, where the Hub has no id for it but ``other``."""

    @property
    def at_commit(self) -> str:
        """The model's name in messages and logs: ``org/name@3f2a1c00``."""
        return naming.at_commit(self.repo_id, self.commit)

    @property
    def licence_called(self) -> str:
        """The licence as catalogues and answers name it: ``mit``, ``other/acme-community``, ``none``."""
        return licence.called(self.licence, self.licence_name)

    @property
    def renamed_from(self) -> str | None:
        """The id that the entry names, where the Hub has another one for that repo now; ``gpt2`` is only short."""
        return self.entry.repo_id if is_renamed(self.entry.repo_id, to=self.repo_id) else None

    @property
    def sources(self) -> dict[str, SourceFile]:
        """The files that an export downloads: where one stands in what is loaded -> the file of the repo."""
        files = {file.path: file for file in self.files}
        places = laid_out(files, folder=self.folder)
        return {place: files[places[place]] for place in self.needed}

    @property
    def laid_out(self) -> tuple[str, ...]:
        """The files of what is loaded."""
        return tuple(sorted((*self.needed, *self.made)))

    @property
    def size_bytes(self) -> int:
        """The bytes that an export downloads."""
        return sum(file.size_bytes for file in self.sources.values())


def is_renamed(asked: str, *, to: str) -> bool:
    """Say whether the Hub's own id of a repo is another than the one asked for, and not just its whole form."""
    return "/" in asked and asked.lower() != to.lower()


def laid_out(paths: Iterable[str], *, folder: str) -> Mapping[str, str]:
    """Return where the files of a repo stand in what is loaded -> their paths in the repo.

    They stand where they are, unless the model lies in a folder: then that folder's files stand at the root, and those
    of the root's own that are no model's beside them.
    """
    if not folder:
        return {path: path for path in paths}
    prefix = f"{folder}/"
    model = {path.removeprefix(prefix): path for path in paths if path.startswith(prefix)}
    others = {path: path for path in paths if "/" in path and not path.startswith(prefix)}
    about = {path: path for path in paths if any(fnmatchcase(path, pattern) for pattern in _OF_THE_REPO)}
    return {**others, **model, **about}
