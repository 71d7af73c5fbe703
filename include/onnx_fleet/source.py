"""A model's source: one repo of the Hub at one commit."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_fleet.entry import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a repo at one commit."""

    path: str
    """POSIX, relative to the repo; never leaves it."""
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
    """40 hex digits."""
    task: str
    """A task name of onnx_fleet.tasks.TASKS."""
    architecture: str
    """The class that the weights are of, such as ``BertForSequenceClassification``: config.json's, unless the entry
    says another, or config.json says none and its model_type and the task do."""
    model_type: str
    """config.json's model_type, such as ``bert``; the class's own where it says none."""
    licence: str | None
    gated: bool
    files: tuple[SourceFile, ...]
    """Every file of the repo."""
    needed: tuple[str, ...]
    """The paths among files that an export downloads."""
    completed: tuple[str, ...] = ()
    """Keys of config.json that the source leaves out, or the entry overrides: what loads it is given them."""

    @property
    def size_bytes(self) -> int:
        """The bytes that an export downloads."""
        wanted = set(self.needed)
        return sum(file.size_bytes for file in self.files if file.path in wanted)
