"""Download a resolved model's needed files into huggingface_hub's own cache, each one checked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

from onnx_fleet import jsonio
from onnx_fleet.bundles import model_config
from onnx_fleet.conventions import sentence_modules
from onnx_fleet.entities.resolved_model import ResolvedModel, SourceFile
from onnx_fleet.errors import HubFileCorrupt, ModelInvalid, UnsafeModel, WorkerOutOfResources
from onnx_fleet.source import checkpoint, static_embedding
from onnx_fleet.source.hub_client import Bar, Hub
from onnx_fleet.source.repo_files import Permits, is_index, is_native, require_pinned_code, without_variant

Progress = Callable[[int, int], None]

FILE_WORKERS = 4
"""The number of files of one model that are fetched at the same time."""

_CHUNK_BYTES = 1 << 20


def download(model: ResolvedModel, *, hub: Hub, progress: Progress | None = None) -> Path:
    """Download a model's needed files into the cache; what is there and right is not fetched again.

    Every file is held to the size and digest that the Hub listed. A wrong one is thrown out of the cache and fetched
    again, so a cache that another program or a crash has spoiled heals.

    Args:
        progress: is told (done bytes, total bytes), from several threads but never two at a time.
    Returns:
        The snapshot folder; where the source leaves out what its class is, or another variant of the weights is wanted,
        or the model lies in a folder of the repo, a folder beside it with the same files: config.json completed, the
        weights under their plain names, the model at the root.
    Raises:
        HubFileCorrupt: a file keeps coming with another size or digest.
        ModelInvalid: weights are complete but unreadable.
        UnsafeModel: the files ask for code that was not permitted.
        WorkerOutOfResources: the disk is too full.
        HubUnavailable, HubRateLimited, ModelNotFound, ModelGated: see Hub.calling.
    """
    files = list(model.sources.values())
    cache = _Cache(hub, model)
    _require_space(sum(file.size_bytes for file in files if not cache.holds(file)), hub=hub, subject=cache.subject)
    meter = _Meter(files, progress)
    with ThreadPoolExecutor(FILE_WORKERS, thread_name_prefix="hub-file") as pool:
        fetched = [pool.submit(cache.have, file, meter) for file in files]
        try:
            for future in as_completed(fetched):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the other files would be fetched for nothing
            raise
    _require_readable(model, cache.snapshot, subject=cache.subject)
    with hub.caching(cache.subject):
        return _as_loaded(model, cache)


class _Cache:
    """One model's part of huggingface_hub's cache.

    A file that was found right leaves a marker with its size and time of change, in a folder of ours beside the
    blobs. So each blob is hashed once, however many runs and steps use it, and again only when it was touched; blobs
    that were there before us are checked too, which trusting everything but our own downloads would miss.
    """

    def __init__(self, hub: Hub, model: ResolvedModel) -> None:
        self._hub = hub
        self._model = model
        self.subject = model.at_commit
        self.folder = hub.cache_dir / constants.REPO_ID_SEPARATOR.join(("models", *model.repo_id.split("/")))
        self.snapshot = self.folder / "snapshots" / model.commit

    def holds(self, file: SourceFile) -> bool:
        """Say whether something, right or wrong, is in the file's place."""
        return (self.snapshot / file.path).exists()

    def have(self, file: SourceFile, meter: _Meter) -> None:
        """Bring one file into the cache, and replace a wrong one."""
        attempts = self._hub.settings.download_attempts
        for attempt in range(1, attempts + 1):
            try:
                self._hub.fetch(self._model.repo_id, file.path, commit=self._model.commit, bar=meter.bar(file))
                fault = self._fault(file)
                if fault is None:
                    meter.complete(file)
                    return
                self._discard(file)
                raise HubFileCorrupt(f"{self.subject}: {file.path} {fault}")
            except HubFileCorrupt as err:
                if attempt == attempts:
                    raise HubFileCorrupt(f"{err}; downloaded {attempts} times; try again later") from err
                meter.restart(file)

    def _fault(self, file: SourceFile) -> str | None:
        """Say what is wrong with a file; its bytes are read only when no marker vouches for them."""
        path = (self.snapshot / file.path).resolve()
        stat = path.stat()
        if stat.st_size != file.size_bytes:
            return f"has {stat.st_size} bytes where the Hub lists {file.size_bytes}"
        kind, _, expected = file.digest.partition(":")
        marker = self.folder / "onnx-fleet-verified" / expected
        state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        if marker.is_file() and marker.read_text() == state:
            return None
        found = _digest(path, kind, stat.st_size)
        if found != expected:
            return f"has {kind} {found} where the Hub lists {expected}"
        with suppress(OSError):  # a cache that others filled may be read-only: its files are hashed each time
            marker.parent.mkdir(exist_ok=True)
            marker.write_text(state)
        return None

    def _discard(self, file: SourceFile) -> None:
        """Take a wrong file out of the cache: its place in the snapshot, and the blob that it points to."""
        pointer = self.snapshot / file.path
        blob = self.folder / "blobs" / file.digest.partition(":")[2]
        with self._hub.caching(f"{self.subject}: {file.path} is damaged and cannot be replaced"):
            pointer.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)


class _Meter:
    """Adds up the bytes of all files."""

    def __init__(self, files: list[SourceFile], progress: Progress | None) -> None:
        self._progress = progress
        self._total = sum(file.size_bytes for file in files)
        self._done = {file.path: 0 for file in files}
        self._lock = threading.Lock()

    def add(self, file: SourceFile, count: int) -> None:
        self._set(file, lambda done: max(0, min(file.size_bytes, done + count)))

    def complete(self, file: SourceFile) -> None:
        self._set(file, lambda _: file.size_bytes)

    def restart(self, file: SourceFile) -> None:
        self._set(file, lambda _: 0)

    def _set(self, file: SourceFile, change: Callable[[int], int]) -> None:
        with self._lock:
            self._done[file.path] = change(self._done[file.path])
            if self._progress is not None:
                self._progress(sum(self._done.values()), self._total)

    def bar(self, file: SourceFile) -> type[Bar]:
        """Make a progress bar class, as huggingface_hub wants one, that shows nothing and counts here."""

        class Counting(Bar):
            def update(self, n: float | None = 1) -> None:
                meter.add(file, int(n or 0))

        meter = self
        return Counting


def _require_space(size_bytes: int, *, hub: Hub, subject: str) -> None:
    """Refuse a download that cannot fit before the first byte of it.

    Raises:
        WorkerOutOfResources: less is free than is to be fetched.
    """
    place = next(folder for folder in (hub.cache_dir, *hub.cache_dir.absolute().parents) if folder.exists())
    free_bytes = shutil.disk_usage(place).free
    if size_bytes > free_bytes:
        raise WorkerOutOfResources(
            f"{subject}: {size_bytes} bytes to download and {free_bytes} free in the Hub cache {hub.cache_dir};"
            " free some space there"
        )


def _require_readable(model: ResolvedModel, snapshot: Path, *, subject: str) -> None:
    """Refuse files that are not a readable model, or ask for code that was not permitted.

    Raises:
        ModelInvalid: a JSON file or the header of a weights file cannot be read, or an index names other files.
        UnsafeModel: the files ask for code that was not permitted.
    """
    trusted = model.entry.trust_remote_code == model.commit
    permits = Permits(commit=model.commit, remote_code=trusted)
    for path, file in model.sources.items():
        if path.endswith(".safetensors"):
            try:
                list(checkpoint.tensors_of(snapshot / file.path))
            except ModelInvalid as err:
                raise ModelInvalid(f"{subject}: {err}") from err
        elif path in ("config.json", "tokenizer_config.json"):
            # The Hub's listing shows a part of these; the file itself decides.
            auto_map = jsonio.read_object(snapshot / file.path, subject=subject).get("auto_map") or {}
            if not isinstance(auto_map, dict):
                auto_map = {path: auto_map}
            own = model.entry.architecture or is_native(
                auto_map, architecture=model.architecture, model_type=model.model_type
            )
            if path == "config.json" and own:
                continue
            require_pinned_code(auto_map, permits=permits, subject=subject)
        elif is_index(path):
            weight_map = jsonio.read_object(snapshot / file.path, subject=subject).get("weight_map")
            shards = set(weight_map.values()) if isinstance(weight_map, dict) else set()
            if not shards or not shards <= set(model.needed):
                raise UnsafeModel(f"{subject}: {path} names files that are not the model's shards; remove the entry")


def _as_loaded(model: ResolvedModel, cache: _Cache) -> Path:
    """Return the folder to load the model from: the snapshot, or links to its files where that is not enough.

    Everything that reads a source then sees the same: the class that was decided on, one set of weights, and the
    transformer at the root.
    """
    snapshot, sources = cache.snapshot, {place: file.path for place, file in model.sources.items()}
    written = _rewritten(model, {place: snapshot / path for place, path in sources.items()}, subject=cache.subject)
    names = {place: without_variant(place, model.entry.weights_variant) for place in sources}
    if not written and all(sources[place] == name for place, name in names.items()):
        return snapshot
    told = hashlib.sha256(jsonio.canonical({"written": written, "names": names, "sources": sources})).hexdigest()
    folder = cache.folder / "onnx-fleet-completed" / f"{model.commit}-{told[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    for path, name in names.items():
        for place in {path, name} - set(written):
            (made / place).parent.mkdir(parents=True, exist_ok=True)
            (made / place).symlink_to(os.path.relpath(snapshot / sources[path], (made / place).parent))
    for path, content in written.items():
        (made / path).write_text(content, encoding="utf-8")
    if written.keys() - {"config.json"}:
        (made / sentence_modules.AS_PUBLISHED).symlink_to(os.path.relpath(snapshot, made))
    try:
        made.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(made)
        if not folder.is_dir():
            raise
    return folder


def _rewritten(model: ResolvedModel, files: Mapping[str, Path], *, subject: str) -> dict[str, str]:
    """Return the text of each file that must differ from the snapshot's, where that is not enough."""
    written = {}
    if model.architecture == static_embedding.ARCHITECTURE:
        written = static_embedding.texts(files, subject=subject)
    elif changes := model_config.completion(
        config := jsonio.read_object(files["config.json"], subject=subject),
        architecture=model.architecture,
        model_type=model.model_type,
        overrides=model.entry.architecture is not None,
    ):
        written["config.json"] = json.dumps({**config, **changes}, indent=2, ensure_ascii=False) + "\n"
    if model.folder:
        written[sentence_modules.FILE_NAME] = sentence_modules.at_root(files[sentence_modules.FILE_NAME])
    return written


def _digest(path: Path, kind: str, size_bytes: int) -> str:
    """Return a file's digest as the Hub lists it: SHA-256 for LFS, git's blob id for any other."""
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
