"""The process of a step that proves, makes variants or measures: what it is given, its limits, and its log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.provider import Provider
from onnx_fleet.processes import isolation
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.runs.services import Services

Q = TypeVar("Q")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What such a step is about: a stage, the source beside it, and where its graphs run."""

    stage: Stage
    source_dir: Path
    """The source's files at the stage's commit."""
    provider: Provider
    gpu: GpuOptions


def subject(stage: Stage, *, services: Services, provider: Provider) -> Subject:
    """Return what a step is about; the source is downloaded where it is not there any more."""
    from onnx_fleet.source import download

    source_dir = download.download(stage.item.model, hub=services.hub)
    return Subject(stage=stage, source_dir=source_dir, provider=provider, gpu=services.gpu)


def run(
    function: Callable[[Q], R], request: Q, *, stage: Stage, provider: Provider, services: Services, step: str
) -> R:
    """Run a function in a process of its own, which is forked from one with torch where that is there.

    Nothing is forked for a GPU: CUDA does not survive the fork of a process that has used it.

    Args:
        step: what the process's log is called after: ``<step>_<provider>.log`` in the private part of the stage.
    """
    log = stage.private / f"{step}_{provider}.log"
    on_cpu = provider == "cpu"
    return isolation.run(function, request, limits=services.step_limits, log=log, with_torch=on_cpu).value
