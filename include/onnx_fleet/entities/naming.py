"""How messages, logs and commands name a model: at a commit of its repo, or as one version of its bundle."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Protocol


class _Versioned(Protocol):
    @property
    def model_id(self) -> str: ...

    @property
    def version(self) -> str: ...


def at_commit(repo_id: str, commit: str) -> str:
    """Name a model at a commit, ``org/name@3f2a1c00``; versions that are made of it begin with the same digits."""
    return f"{repo_id}@{commit[:8]}"


def matches(model_id: str, patterns: Iterable[str]) -> bool:
    """Say whether a model's id matches one of the patterns, such as ``BAAI/*``, without regard to case."""
    return any(fnmatchcase(model_id.lower(), pattern.lower()) for pattern in patterns)


def ref_of(bundle: _Versioned) -> str:
    """Name a version of a bundle as commands take it, ``org/name@3f2a1c00-9d1e44b7``."""
    return f"{bundle.model_id}@{bundle.version}"
