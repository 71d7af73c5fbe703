"""The repos of the local Hub: folders under one root, read as the Hub would describe them.

<root>/<org>/<name>/                  the files of branch ``main``, as they lie
<root>/<org>/<name>.hub.json          what git does not hold: see Settings; optional
<root>/.history/<org>/<name>/<sha>/   states kept by HubRepos.keep, so that older commits stay reachable

No git is needed: a commit SHA is a SHA-1 over the repo's id, paths and blob ids, so equal files give equal commits.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from onnx_fleet import jsonio

_LFS_SUFFIXES = {".bin", ".gguf", ".h5", ".model", ".msgpack", ".onnx", ".pkl", ".pt", ".pth", ".safetensors"}
_LFS_FROM_BYTES = 10_000_000
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The Hub's settings of a repo, beside its files; they lie in ``<name>.hub.json``."""

    gated: Literal["auto", "manual"] | None = None
    """The kind of gate; listing stays open, and files need one of ``tokens``."""
    private: bool = False
    """Whether everything needs one of ``tokens``; without one the repo seems not to exist."""
    tokens: tuple[str, ...] = ()
    """The access tokens of people who were let in."""
    aliases: tuple[str, ...] = ()
    """The ids that redirect here, such as ``gpt2``."""
    downloads: int = 0
    likes: int = 0
    last_modified: str = "2026-11-01T00:00:00.000Z"
    branches: Mapping[str, str] = field(default_factory=dict)
    """The commits of kept states by branch; ``main`` is always the folder itself."""
    tags: Mapping[str, str] = field(default_factory=dict)
    listed_as: Mapping[str, str] = field(default_factory=dict)
    """The paths to list files under, by real path, for names that no folder can hold (``../x``)."""
    hidden_config: bool = False
    """Whether the parsed config is left out of the model info, as the Hub does for repos that it could not parse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoFile:
    """One file at one commit, with what the Hub says about it."""

    path: str
    location: Path
    size_bytes: int
    blob_id: str
    """The git blob id; for an LFS file, its pointer's."""
    sha256: str | None
    """The SHA-256 of an LFS file; None for any other."""
    pointer_bytes: int = 0

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One state of a repo."""

    repo_id: str
    sha: str
    files: Mapping[str, RepoFile]

    def read(self, path: str) -> bytes | None:
        file = self.files.get(path)
        return None if file is None else file.location.read_bytes()


class HubRepos:
    """Every repo under a root; answers are made from what lies there at the moment of asking."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[tuple[str, Path, int, int], RepoFile] = {}
        self._lock = threading.Lock()

    def ids(self) -> Iterator[str]:
        """Iterate over every repo id, sorted."""
        for org in sorted(path for path in self.root.glob("*") if path.is_dir() and not path.name.startswith(".")):
            for folder in sorted(path for path in org.glob("*") if path.is_dir() and not path.name.startswith(".")):
                yield f"{org.name}/{folder.name}"

    def canonical(self, repo_id: str) -> str | None:
        """Return the id under which a repo really lives, or None where there is no such repo."""
        if "/" in repo_id and ".." not in repo_id and (self.root / repo_id).is_dir():
            return repo_id
        return next((known for known in self.ids() if repo_id in self.settings(known).aliases), None)

    def settings(self, repo_id: str) -> Settings:
        path = self.root / f"{repo_id}.hub.json"
        return jsonio.parse(Settings, path.read_bytes()) if path.is_file() else Settings()

    def configure(self, repo_id: str, settings: Settings) -> None:
        """Set what the Hub knows of a repo beside its files."""
        (self.root / f"{repo_id}.hub.json").write_bytes(jsonio.canonical(jsonio.to_json(settings)))

    def keep(self, repo_id: str) -> str:
        """Copy the repo's present state aside and return its commit, which then outlives changes of the folder."""
        commit = self._state(repo_id, self.root / repo_id)
        kept = self.root / ".history" / repo_id / commit.sha
        if not kept.is_dir():
            shutil.copytree(self.root / repo_id, kept)
        return commit.sha

    def change(self, repo_id: str, revision: str, branch: str, apply: Callable[[Path], None]) -> str:
        """Apply a change to a copy of a revision's files, have a branch be that, and return its commit.

        What the branch was before outlives it. Nothing changes where the change raises.
        """
        self.keep(repo_id)
        state = self.commit(repo_id, revision)
        assert state is not None, f"{repo_id} has no {revision}"
        with tempfile.TemporaryDirectory(dir=self.root / ".history") as scratch:
            changed = Path(scratch) / "files"
            shutil.copytree(self.root / ".history" / repo_id / state.sha, changed)
            apply(changed)
            sha = self._state(repo_id, changed).sha
            kept = self.root / ".history" / repo_id / sha
            if not kept.is_dir():
                shutil.copytree(changed, kept)
            if branch == "main":
                (self.root / repo_id).rename(Path(scratch) / "before")
                changed.rename(self.root / repo_id)
            else:
                settings = self.settings(repo_id)
                self.configure(repo_id, replace(settings, branches={**settings.branches, branch: sha}))
        return sha

    def commit(self, repo_id: str, revision: str) -> Commit | None:
        """Return a revision's state: a branch, a tag, or a whole commit SHA; None where there is no such revision."""
        if revision == "main":
            return self._state(repo_id, self.root / repo_id)
        settings = self.settings(repo_id)
        sha = settings.branches.get(revision) or settings.tags.get(revision) or revision
        kept = self.root / ".history" / repo_id / sha
        if sha.isalnum() and kept.is_dir():
            return self._state(repo_id, kept)
        head = self._state(repo_id, self.root / repo_id)
        return head if head.sha == sha else None

    def _state(self, repo_id: str, folder: Path) -> Commit:
        listed_as = self.settings(repo_id).listed_as
        files = {}
        for location in sorted(folder.rglob("*")):
            if location.is_file():
                real = location.relative_to(folder).as_posix()
                path = listed_as.get(real, real)
                files[path] = self._file(path, location)
        digest = hashlib.sha1(repo_id.encode(), usedforsecurity=False)
        for path, file in sorted(files.items()):
            digest.update(f"\0{path}\0{file.blob_id}".encode())
        return Commit(repo_id=repo_id, sha=digest.hexdigest(), files=files)

    def _file(self, path: str, location: Path) -> RepoFile:
        """Hash a file once for each of its states: a repo's listing is asked for often, and weights are large."""
        stat = location.stat()
        key = (path, location, stat.st_size, stat.st_mtime_ns)
        with self._lock:
            if key not in self._files:
                self._files[key] = _described(path, location, stat.st_size)
            return self._files[key]


def is_lfs(path: str, size_bytes: int) -> bool:
    """Say whether the Hub keeps such a file in LFS."""
    return PurePosixPath(path).suffix in _LFS_SUFFIXES or size_bytes > _LFS_FROM_BYTES


def git_blob_id(content: bytes) -> str:
    """Return the id that git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _described(path: str, location: Path, size_bytes: int) -> RepoFile:
    if not is_lfs(path, size_bytes):
        blob_id = git_blob_id(location.read_bytes())
        return RepoFile(path=path, location=location, size_bytes=size_bytes, blob_id=blob_id, sha256=None)
    digest = hashlib.sha256()
    with location.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest.hexdigest()}\nsize {size_bytes}\n".encode()
    )
    return RepoFile(
        path=path,
        location=location,
        size_bytes=size_bytes,
        blob_id=git_blob_id(pointer),
        sha256=digest.hexdigest(),
        pointer_bytes=len(pointer),
    )
