"""How one architecture fares on the product's own path: packed, loaded, traced, saved, and proven."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from fixtures.items import work_item
from onnx_fleet import export, stage, tokenizer, validation
from onnx_fleet.errors import Permanent
from onnx_fleet.export import ExportRequest
from onnx_fleet.stage import Fallback
from onnx_fleet.validation import ValidationReport
from zoo.architecture import Architecture
from zoo.repo import save

Status = Literal["passed", "failed", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row of docs/architectures.md."""

    family: str
    architecture: str
    task: str
    graphs: tuple[str, ...]
    """Their roles."""
    worst_abs_diff: float | None
    """From PyTorch, over every output of every check."""
    status: Status
    """``failed``: a graph was made and did not prove right; ``refused``: none was made. Neither is ever published."""
    note: str
    """What was given up, or the cause."""
    duration_s: float


def survey(architecture: Architecture, folder: Path) -> Verdict:
    """Save the architecture's repo under a folder, export and validate it in this process, and say how it ended."""
    started = time.perf_counter()
    source, stage_dir = folder / "zoo" / architecture.name, folder / "stage"
    save(architecture, source)
    item = work_item(source, task=architecture.task)
    stage.write_work(stage_dir, item)
    try:
        record = export.fill(ExportRequest(item=item, source_dir=source, stage=stage_dir))
        stage.write_export(stage_dir, record)
        report = validation.validate(stage_dir, source_dir=source)
    except Permanent as err:
        return _verdict(architecture, status="refused", note=_in_few_words(str(err)), started=started)
    return _verdict(
        architecture,
        status="passed" if report.passed else "failed",
        note=_fallbacks(record.fallbacks) if report.passed else _failures(report),
        started=started,
        graphs=tuple(graph.role for graph in record.graphs),
        worst_abs_diff=report.worst_abs_diff,
    )


def survey_aside(architecture: Architecture) -> Verdict:
    """In a folder of its own, which is gone afterwards."""
    with TemporaryDirectory(prefix="zoo-") as folder:
        return survey(architecture, Path(folder))


def be_quiet() -> None:
    """For a process that surveys: the exporter reports its progress, and torch its deprecations, on every row."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


def _verdict(
    architecture: Architecture,
    *,
    status: Status,
    note: str,
    started: float,
    graphs: tuple[str, ...] = (),
    worst_abs_diff: float | None = None,
) -> Verdict:
    return Verdict(
        family=architecture.family,
        architecture=architecture.name,
        task=architecture.task,
        graphs=graphs,
        worst_abs_diff=worst_abs_diff,
        status=status,
        note=note,
        duration_s=time.perf_counter() - started,
    )


def _fallbacks(fallbacks: Sequence[Fallback]) -> str:
    """But for the tokenizer's, which is the zoo's own and of no model."""
    return "; ".join(fallback.what for fallback in fallbacks if fallback.what != tokenizer.NO_TOKEN_TYPES)


def _failures(report: ValidationReport) -> str:
    checks = dict.fromkeys(row.check for row in report.rows if not row.passed)
    first = next(row for row in report.rows if not row.passed)
    return _in_few_words(f"{', '.join(checks)}: {validation.describe(first)}")


def _in_few_words(message: str, *, most: int = 240) -> str:
    words = " ".join(message.split())
    return words if len(words) <= most else f"{words[:most]} …"
