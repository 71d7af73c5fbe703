"""How one architecture fares on the product's own path: packed, loaded, traced, saved, and proven."""

from __future__ import annotations

import inspect
import logging
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from fixtures.items import work_item
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.export_record import Fallback
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.errors import OnnxFleetError, Permanent, StepTimedOut, WorkerOutOfResources
from onnx_fleet.export import exporter
from onnx_fleet.export.exporter import ExportRequest
from onnx_fleet.processes import isolation
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.source.tokenizers import pack
from onnx_fleet.validation import validator
from zoo.architecture import Architecture
from zoo.repo import save

Status = Literal["right", "refused", "failed", "unknown"]

_SEEN_OR_HEARD = re.compile(r"(image_|audio_)?pixel_values.*|visual_embeds|(audio_)?input_(features|values)")
LIMITS = Limits(memory_bytes=4 << 30, timeout_s=180)
"""For one row. One that needs more says nothing about its architecture: most rows need ten seconds and one gigabyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row of docs/architectures.md."""

    family: str
    architecture: str
    model_type: str
    task: str
    status: Status
    """``refused``: no graph was made; ``failed``: one was made and did not prove right, or the export broke off;
    ``unknown``: there is no tiny model that could tell, or it took too long. Only ``right`` is ever published."""
    graphs: tuple[str, ...] = ()
    """Their roles."""
    worst_abs_diff: float | None = None
    """From PyTorch, over every output of every check."""
    note: str = ""
    """What was given up, or the cause."""
    duration_s: float = 0.0


def survey(architecture: Architecture, folder: Path) -> Verdict:
    """Save the architecture's repo under a folder, export and validate it in this process, and say how it ended."""
    started = time.perf_counter()
    verdict = _tried(architecture, folder)
    if verdict.status == "right" and (faults := _weaknesses(architecture)):
        verdict = replace(
            verdict, status="unknown", note=_in_few_words(f"its outputs would not tell a broken graph: {faults}")
        )
    return replace(verdict, duration_s=time.perf_counter() - started)


def survey_aside(architecture: Architecture, *, limits: Limits = LIMITS) -> Verdict:
    """The same in a process of its own: what hangs, crashes or takes all memory ends this row and no other."""
    started = time.perf_counter()
    with TemporaryDirectory(prefix="zoo-") as folder:
        try:
            found = isolation.run(survey_quietly, architecture, limits=limits, log=Path(folder, "log"), with_torch=True)
        except StepTimedOut:
            note = f"it took longer than {limits.timeout_s:g} s"
        except WorkerOutOfResources:
            note = f"it needed more than {(limits.memory_bytes or 0) >> 30} GiB of memory"
        except OnnxFleetError as err:  # the row's process died
            note = _in_few_words(str(err))
        else:
            return found.value
    verdict = _verdict(architecture, status="unknown", note=note)
    return replace(verdict, duration_s=time.perf_counter() - started)


def survey_quietly(architecture: Architecture) -> Verdict:
    """What a row's process does: the exporter reports its progress, and torch its deprecations, on every row."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with TemporaryDirectory(prefix="zoo-") as folder:
        return survey(architecture, Path(folder))


def _tried(architecture: Architecture, folder: Path) -> Verdict:
    source, stage_dir = folder / "zoo" / architecture.name, folder / "stage"
    try:
        save(architecture, source)
    except Exception as err:  # noqa: BLE001  whatever it is, there is no model to try
        note = _in_few_words(f"no tiny model of it could be made: {type(err).__name__}: {err}")
        return _verdict(architecture, status="unknown", note=note)
    item = work_item(source, task=architecture.task)
    stage = Stage.make(stage_dir, item)
    try:
        record = exporter.fill(ExportRequest(stage=stage, source_dir=source))
        stage.write_export(record)
        report = validator.validate(stage, source_dir=source)
    except Permanent as err:
        return _verdict(architecture, status="refused", note=_in_few_words(str(err)))
    except Exception as err:  # noqa: BLE001  in the product the step's process ends so, and nothing is published
        return _verdict(architecture, status="failed", note=_in_few_words(f"{type(err).__name__}: {err}"))
    fed = {spec.name for graph in record.graphs for spec in graph.inputs}
    if report.passed and (unseen := [name for name in of_another_modality(architecture) if name not in fed]):
        note = f"the model takes {', '.join(unseen)} too, which no graph does: a row of text alone does not tell"
        return _verdict(architecture, status="unknown", note=note)
    return _verdict(
        architecture,
        status="right" if report.passed else "failed",
        note=_fallbacks(record.fallbacks) if report.passed else _failures(report),
        graphs=tuple(graph.role for graph in record.graphs),
        worst_abs_diff=report.worst_abs_diff,
    )


def of_another_modality(architecture: Architecture) -> list[str]:
    """What the model's forward takes of pictures or sound, for a task of texts alone. Imports transformers."""
    import transformers

    if TASKS[architecture.task].takes != ("text",):
        return []
    taken = inspect.signature(getattr(transformers, architecture.name).forward).parameters
    return [name for name in taken if _SEEN_OR_HEARD.fullmatch(name)]


def _weaknesses(architecture: Architecture) -> str:
    """Why the row proves little; empty when it proves what it should. Imports torch."""
    from zoo.strength import weaknesses

    try:
        return "; ".join(weaknesses(architecture, architecture.build()))
    except Exception as err:  # noqa: BLE001  who cannot feed it cannot say what it would tell
        return f"{type(err).__name__}: {err}"


def _verdict(
    architecture: Architecture,
    *,
    status: Status,
    note: str,
    graphs: tuple[str, ...] = (),
    worst_abs_diff: float | None = None,
) -> Verdict:
    return Verdict(
        family=architecture.family,
        architecture=architecture.name,
        model_type=architecture.model_type,
        task=architecture.task,
        graphs=graphs,
        worst_abs_diff=worst_abs_diff,
        status=status,
        note=note,
    )


def _fallbacks(fallbacks: Sequence[Fallback]) -> str:
    """But for the tokenizer's, which is the zoo's own and of no model."""
    return "; ".join(fallback.what for fallback in fallbacks if fallback.what != pack.NO_TOKEN_TYPES)


def _failures(report: ValidationReport) -> str:
    checks = dict.fromkeys(row.check for row in report.rows if not row.passed)
    first = next(row for row in report.rows if not row.passed)
    return _in_few_words(f"{', '.join(checks)}: {validation_report.describe(first)}")


def _in_few_words(message: str, *, most: int = 240) -> str:
    words = " ".join(message.split())
    return words if len(words) <= most else f"{words[:most]} …"
