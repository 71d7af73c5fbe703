"""Stages that travel through the store from worker to worker, which share no disk.

scratch/<run>/<org>/<name>/item/<time>.json                      the work item
scratch/<run>/<org>/<name>/<version>/steps/plan/<time>.json      the files to calibrate with, of who planned
scratch/<run>/<org>/<name>/<version>/steps/<step>/<time>.json    the stage as a step has left it: a Snapshot
scratch/<run>/<org>/<name>/<version>/failed/<step>/<time>.json   what a try of a step that failed has reported
scratch/<run>/<org>/<name>/<version>/blobs/<sha256>              the files that snapshots name

A snapshot is written last, and names each file by its digest: whatever is killed, what it names is whole. The
checkpoint's own files are not sent: each worker has them from the Hub. A large file that the version in use has too is
copied by the store. A file that a worker has made, or has fetched before, is taken from its own disk.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Final

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle
from onnx_fleet.bundles.stage import PRIVATE, Stage
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound, OnnxFleetError, StoreDenied
from onnx_fleet.graphs import recorded_feeds
from onnx_fleet.planning.calibration import source as calibration
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.steps import STEPS, StepName
from onnx_fleet.store import ObjectInfo, layout, transfer
from onnx_fleet.store.blob_cache import BlobCache, place
from onnx_fleet.store.transfer import FileState

log = logging.getLogger(__name__)

_RECORD: Final = f"{PRIVATE}/export.json"
_CORPUS: Final = f"{PRIVATE}/{recorded_feeds.FOLDER}/"
"""What the fp32 graphs were fed, by which a GPU's worker judges variants; it is large."""
_CALIBRATION: Final = f"{PRIVATE}/{calibration.CAME_WITH}/"

_DONE: Final = "steps"
_FAILED: Final = "failed"
_PLANNED: Final = "plan"
_ORDER: Final[Mapping[str, int]] = {step.name: number for number, step in enumerate(STEPS)}
_WORKERS: Final = 8
"""The number of files that are sent or fetched at the same time."""
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedFile:
    """One file of a stage."""

    path: str
    """A POSIX path relative to the stage."""
    size_bytes: int
    sha256: str
    source: str | None = None
    """The checkpoint's file that it is, by where that stands in what is loaded; None where the store has the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A stage at the end of a step."""

    files: tuple[StagedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """A file of a stage that was fetched, and how to tell that nobody has written to it since."""

    file: StagedFile
    state: FileState


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughStore:
    """The stages of one run, in the store; Handover says what each operation is for."""

    run: str
    """The run's label."""
    services: Services
    blobs: BlobCache
    """The files that this worker keeps between the tasks that it is given."""

    def write_item(self, item: WorkItem) -> None:
        if (name := item.model.entry.calibration) is not None:
            found = {_CALIBRATION + path: local for path, local in calibration.files(name).items()}
            files = tuple(map(self._sender(item), found.values(), found))
            self._write(self._steps(item, _PLANNED), Snapshot(files=files))
        self._write(f"{self._about(item.model_id)}item/", item)

    def read_item(self, model_id: str) -> WorkItem:
        prefix = f"{self._about(model_id)}item/"
        newest = max(self.services.store.list(prefix), key=_time, default=None)
        if newest is None:
            raise BundleNotFound(f"{self.services.store.address}/{prefix}: is gone; clear the run's plan task")
        return jsonio.parse(WorkItem, self.services.store.read(newest.key))

    @contextmanager
    def opened(self, item: WorkItem, step: StepName) -> Iterator[Stage]:
        with self._folder(item) as stage:
            known = self._fetch(stage, self._left_for(item, step))
            try:
                yield stage
            except Exception:
                self._report(stage, known, step)
                raise
            if step != STEPS[-1].name:
                files = self._send(stage, known, _handed_on(stage))
                self._write(self._steps(item, step), Snapshot(files=files))

    @contextmanager
    def ended(self, item: WorkItem, step: StepName) -> Iterator[Stage]:
        with self._folder(item) as stage:
            self._fetch(stage, [file for file in self._left_at(item, step) if _is_told(file.path)])
            yield stage

    def done(self, item: WorkItem) -> frozenset[StepName]:
        snapshots = self._snapshots(item, _DONE)
        return frozenset(step.name for step in STEPS if step.name in snapshots)

    def stored(self, item: WorkItem) -> Mapping[str, str]:
        prefix = self._blob(item, "")
        return {info.key.removeprefix(prefix): info.key for info in self.services.store.list(prefix)}

    def discard(self, item: WorkItem) -> None:
        try:
            for info in list(self.services.store.list(self._of(item))):
                self.services.store.delete(info.key)
        except StoreDenied as err:
            log.warning("%s: its scratch objects could not be removed from the store: %s", item.model_id, err)

    def _about(self, model_id: str) -> str:
        return layout.scratch_prefix(self.run, model_id)

    def _of(self, item: WorkItem) -> str:
        return f"{self._about(item.model_id)}{item.version}/"

    def _steps(self, item: WorkItem, step: str, kind: str = _DONE) -> str:
        return f"{self._of(item)}{kind}/{step}/"

    def _blob(self, item: WorkItem, sha256: str) -> str:
        return f"{self._of(item)}blobs/{sha256}"

    @contextmanager
    def _folder(self, item: WorkItem) -> Iterator[Stage]:
        """Make an empty stage on this worker's disk; it is removed at the end, and a killed task's with its run."""
        parent = self.services.work_dir / "stages" / item.model_id
        with transfer.local_disk(str(parent)):
            parent.mkdir(parents=True, exist_ok=True)
            corner = tempfile.TemporaryDirectory(prefix=f"{item.version}-", dir=parent, ignore_cleanup_errors=True)
        with corner as folder:
            yield Stage.make(Path(folder), item)

    def _left_for(self, item: WorkItem, step: StepName) -> tuple[StagedFile, ...]:
        """Return what a step begins with: the stage as the last step before it left it, and what only it reads."""
        done = self._snapshots(item, _DONE)
        before = [name for name in done if name in _ORDER and _ORDER[name] < _ORDER[step]]
        files = self._read(done[max(before, key=_ORDER.__getitem__)]) if before else ()
        if step == "validate" and _PLANNED in done:
            files = (*files, *self._read(done[_PLANNED]))
        return tuple(file for file in files if step == "prove_on_gpu" or not file.path.startswith(_CORPUS))

    def _left_at(self, item: WorkItem, step: StepName) -> tuple[StagedFile, ...]:
        """Return what there is of a model that ended at a step: what that left, or reported where it failed."""
        here, failed = (self._snapshots(item, kind).get(step) for kind in (_DONE, _FAILED))
        if failed and (here is None or _time(failed) > _time(here)):
            return self._read(failed)
        return self._read(here) if here else self._left_for(item, step)

    def _snapshots(self, item: WorkItem, kind: str) -> dict[str, ObjectInfo]:
        """Return the newest snapshot of each step."""
        prefix = f"{self._of(item)}{kind}/"
        found = sorted(self.services.store.list(prefix), key=_time)
        return {info.key.removeprefix(prefix).partition("/")[0]: info for info in found}

    def _read(self, info: ObjectInfo) -> tuple[StagedFile, ...]:
        return jsonio.parse(Snapshot, self.services.store.read(info.key)).files

    def _write(self, prefix: str, value: WorkItem | Snapshot) -> None:
        """Leave something beside what an earlier try has left: the newest counts."""
        key = f"{prefix}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
        self.services.store.create(key, jsonio.canonical(jsonio.to_json(value)))

    def _fetch(self, stage: Stage, files: Iterable[StagedFile]) -> dict[str, _Known]:
        """Bring files into a stage; the record of the export is the newest of them, as it was: see Stage.is_changed."""
        files = tuple(files)
        source = self._download(stage.item) if any(file.source for file in files) else None
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="stage") as pool:
            list(pool.map(lambda file: self._bring(stage, file, source=source), files))
        with transfer.local_disk(str(stage.folder)):
            if (stage.folder / _RECORD).exists():
                os.utime(stage.folder / _RECORD)
            return {file.path: _Known(file, transfer.file_state(stage.folder / file.path)) for file in files}

    def _download(self, item: WorkItem) -> Path:
        from onnx_fleet.source import download

        return download.download(item.model, hub=self.services.hub)

    def _bring(self, stage: Stage, file: StagedFile, *, source: Path | None) -> None:
        path = stage.folder / file.path
        if file.source and source:
            with transfer.local_disk(str(path)):
                path.parent.mkdir(parents=True, exist_ok=True)
                place((source / file.source).resolve(), path)
            return
        key = self._blob(stage.item, file.sha256)
        try:
            self.blobs.put(file.sha256, path, fetch=lambda to: self.services.store.download(key, to))
        except BundleNotFound as err:
            raise BundleNotFound(
                f"{stage.item.model_id}: {file.path} is not in {self.services.store.address}/{key} any more; clear the"
                " model's export task, and those behind it"
            ) from err

    def _send(self, stage: Stage, known: Mapping[str, _Known], paths: Iterable[str]) -> tuple[StagedFile, ...]:
        """Send what the store lacks of these files; return all of them."""
        send = self._sender(stage.item)

        def sent(path: str) -> StagedFile:
            local, before = stage.folder / path, known.get(path)
            if before and before.state == transfer.file_state(local):
                return before.file
            return send(local, path)

        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="stage") as pool:
            return tuple(pool.map(sent, paths))

    def _sender(self, item: WorkItem) -> Callable[[Path, str], StagedFile]:
        """Return what sends a file to its place, unless it is one of the checkpoint's own, or the store can copy it."""
        own = _of_checkpoint(item)
        # asked for by the first large file
        in_use = cache(partial(bundle.stored_files, item.model_id, bundle.LATEST, store=self.services.store))

        def send(local: Path, path: str) -> StagedFile:
            with transfer.local_disk(str(local)):
                size_bytes, sha256 = local.stat().st_size, transfer.hash_file(local)
            source = own.get(f"sha256:{sha256}")
            if source is None:
                known = in_use().get(sha256) if size_bytes >= bundle.WORTH_COPYING else None
                self.services.store.upload(self._blob(item, sha256), local, sha256=sha256, copy_of=known)
                self.blobs.add(sha256, local)
            return StagedFile(path=path, size_bytes=size_bytes, sha256=sha256, source=source)

        return send

    def _report(self, stage: Stage, known: Mapping[str, _Known], step: StepName) -> None:
        """Leave what a step that failed has reported, for the model's record; the failure itself is more important."""
        try:
            files = self._send(stage, known, [path for path in _handed_on(stage) if _is_told(path)])
            self._write(self._steps(stage.item, step, _FAILED), Snapshot(files=files))
        except OnnxFleetError as err:
            log.warning("%s: the reports of %s could not be stored: %s", stage.item.model_id, step, err)


def _of_checkpoint(item: WorkItem) -> dict[str, str]:
    """Return the checkpoint's own files: digest -> where the file stands in what is loaded."""
    return {file.digest: place for place, file in item.model.sources.items()}


def _handed_on(stage: Stage) -> tuple[str, ...]:
    """Return the files of a stage that steps behind read: the bundle's, and of the private ones those that matter."""
    private = [stage.folder / _RECORD]
    if any(step.on_gpu and step.is_for(stage.item) for step in STEPS):
        private += recorded_feeds.folder(stage.folder).glob("*")
    kept = (path.relative_to(stage.folder).as_posix() for path in private if path.is_file())
    return (*stage.published_files(), *sorted(kept))


def _is_told(path: str) -> bool:
    """Say whether a model's record is made of a file, too."""
    return path == _RECORD or path.startswith("reports/")


def _time(info: ObjectInfo) -> tuple[datetime, str]:
    """Return when an object was left: by the store's one clock, and within its second by the worker's."""
    return info.modified_at or _EPOCH, info.key.rpartition("/")[2]
