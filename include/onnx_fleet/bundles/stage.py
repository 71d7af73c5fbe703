"""The stage: the folder in which one bundle grows, step by step, until it is published.

<stage>/.onnx-fleet/work.json      what is being made (WorkItem); never published
<stage>/.onnx-fleet/<kind>.zip      what is for the cache, or from it; never published
<stage>/.onnx-fleet/export.json    how the graphs were made (ExportRecord); never published
<stage>/config.json, tokenizer…    as they will lie in the bundle
<stage>/onnx/model.onnx
<stage>/reports/validation.json, latency.json    and validation_cuda.json, latency_cuda.json on a GPU
<stage>/reports/validation.svg, latency.svg      the same, to look at
"""

from __future__ import annotations

import json
from pathlib import Path

from onnx_fleet import jsonio
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound

PRIVATE = ".onnx-fleet"


def write_work(stage: Path, item: WorkItem) -> None:
    """Make a stage for one work item."""
    _write(stage / PRIVATE / "work.json", item)


def read_work(stage: Path) -> WorkItem:
    """What the stage is for.

    Raises:
        BundleNotFound: the folder is not a stage.
    """
    return jsonio.from_json(WorkItem, _read(stage, "work.json"))


def write_export(stage: Path, record: ExportRecord) -> None:
    """Keep how the graphs were made."""
    _write(stage / PRIVATE / "export.json", record)


def read_export(stage: Path) -> ExportRecord:
    """How the stage's graphs were made.

    Raises:
        BundleNotFound: nothing was exported into the folder yet.
    """
    return jsonio.from_json(ExportRecord, _read(stage, "export.json"))


def write_report(stage: Path, name: str, report: object) -> None:
    """Keep a report where the bundle publishes it: ``reports/<name>.json``."""
    _write(stage / "reports" / f"{name}.json", report)


def write_picture(stage: Path, name: str, svg: bytes | None) -> None:
    """Keep a report's picture beside it: ``reports/<name>.svg``; None takes away what an earlier report left."""
    path = stage / "reports" / f"{name}.svg"
    if svg is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(svg)


def published_files(stage: Path) -> tuple[str, ...]:
    """POSIX paths, sorted, of everything in the stage that goes into the bundle."""
    paths = (path.relative_to(stage) for path in stage.rglob("*") if path.is_file())
    return tuple(sorted(path.as_posix() for path in paths if path.parts[0] != PRIVATE))


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonio.canonical(jsonio.to_json(value)))


def _read(stage: Path, name: str) -> object:
    path = stage / PRIVATE / name
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as err:
        raise BundleNotFound(
            f"{stage}: no {PRIVATE}/{name}; make the folder with `onnx-fleet export MODEL --out {stage}`"
        ) from err
