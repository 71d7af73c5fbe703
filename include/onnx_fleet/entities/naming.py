"""How messages, logs and commands name a model: at a commit of its repo, or as one version of its bundle."""

from __future__ import annotations

from typing import Protocol


class _Versioned(Protocol):
    @property
    def model_id(self) -> str: ...

    @property
    def version(self) -> str: ...


def at_commit(repo_id: str, commit: str) -> str:
    """``org/name@3f2a1c00``; the versions that are made of the commit begin with the same digits."""
    return f"{repo_id}@{commit[:8]}"


def ref_of(bundle: _Versioned) -> str:
    """``org/name@3f2a1c00-9d1e44b7``, as commands take it."""
    return f"{bundle.model_id}@{bundle.version}"
