"""The stage: the folder in which one bundle grows, step by step, until it is published.

<stage>/.onnx-fleet/work.json      what is being made (WorkItem); never published
<stage>/.onnx-fleet/<kind>.zip      what is for the cache, or from it; never published
<stage>/.onnx-fleet/export.json    how the graphs were made (ExportRecord); never published
<stage>/config.json, tokenizer…    as they will lie in the bundle
<stage>/onnx/model.onnx
<stage>/reports/validation.json, latency.json    and validation_cuda.json, latency_cuda.json on a GPU
<stage>/reports/validation.svg, latency.svg      the same, to look at
<stage>/bom.json, provenance.json  what the bundle is made of, and how; written when it is published
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from onnx_fleet import jsonio
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound

PRIVATE = ".onnx-fleet"
SIGNATURES = "signatures"
"""The folder of the signatures of a bundle that was pulled: they are of that bundle, and of no other one."""
BILL_OF_MATERIALS = "bom.json"
PROVENANCE = "provenance.json"
WRITTEN_BY_SEAL = (BILL_OF_MATERIALS, PROVENANCE)
"""The files at the root that sealing makes of all the others; like reports they differ between runs."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, and what is being made in it: what the steps hand on to each other."""

    folder: Path
    item: WorkItem

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the stage in a folder.

        Raises:
            BundleNotFound: the folder is not a stage.
        """
        return cls(folder, _read(WorkItem, folder, "work.json"))

    @classmethod
    def make(cls, folder: Path, item: WorkItem) -> Self:
        """Make a stage for a work item; other files of the folder stay."""
        _write(folder / PRIVATE / "work.json", item)
        return cls(folder, item)

    def begin(self) -> None:
        """Empty the folder, as an export needs it: whatever an earlier attempt left is removed."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.make(self.folder, self.item)

    def discard(self) -> None:
        """Delete the stage's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def private(self) -> Path:
        """The part of the folder that is never published."""
        return self.folder / PRIVATE

    def read_export(self) -> ExportRecord:
        """Return how the graphs were made.

        Raises:
            BundleNotFound: nothing was exported into the folder yet.
        """
        return _read(ExportRecord, self.folder, "export.json")

    def write_export(self, record: ExportRecord) -> None:
        """Record how the graphs were made."""
        _write(self.private / "export.json", record)

    def is_changed(self) -> bool:
        """Say whether a file of the bundle was written to since the export ended, or since variants were made."""
        ended = (self.private / "export.json").stat().st_mtime_ns
        about = ("reports/", *WRITTEN_BY_SEAL)
        paths = (path for path in self.published_files() if not path.startswith(about))
        return any((self.folder / path).stat().st_mtime_ns > ended for path in paths)

    def report(self, name: str) -> Path:
        """Return a report's path: ``reports/<name>.json``."""
        return self.folder / "reports" / f"{name}.json"

    def read_report(self, name: str, kind: type[R]) -> R | None:
        """Return a report; None where there is none that can be read."""
        try:
            return jsonio.parse(kind, self.report(name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def write_report(self, name: str, report: object) -> None:
        """Write a report to where the bundle publishes it."""
        _write(self.report(name), report)

    def write_picture(self, name: str, svg: bytes | None) -> None:
        """Write a report's picture beside it: ``reports/<name>.svg``; None removes what an earlier report left."""
        path = self.report(name).with_suffix(".svg")
        if svg is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(svg)

    @property
    def size_bytes(self) -> int:
        """The bytes of all files in the folder, the private ones and links to others among them."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def published_files(self) -> tuple[str, ...]:
        """Return the POSIX paths, sorted, of everything in the stage that goes into the bundle."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return tuple(sorted(path.as_posix() for path in paths if path.parts[0] not in (PRIVATE, SIGNATURES)))


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonio.canonical(jsonio.to_json(value)))


def _read(kind: type[R], folder: Path, name: str) -> R:
    path = folder / PRIVATE / name
    try:
        return jsonio.parse(kind, path.read_bytes())
    except FileNotFoundError as err:
        raise BundleNotFound(
            f"{folder}: no {PRIVATE}/{name}; make the folder with `onnx-fleet export MODEL --out {folder}`"
        ) from err
