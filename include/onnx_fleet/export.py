"""Export: a work item and its source files -> a stage with graphs, tokenizer and configuration."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet import (
    graph,
    isolated,
    model_config,
    recipes,
    stage,
    tokenizer,
    tokenizer_graph,
    toolchain,
    tracing,
    weights,
)
from onnx_fleet.catalogue_schema import DECODER_FORMS
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graph import GraphInfo
from onnx_fleet.isolated import Limits
from onnx_fleet.plan import WorkItem
from onnx_fleet.recipes import Recipe
from onnx_fleet.stage import ExportRecord, Fallback

if TYPE_CHECKING:
    import onnx_ir as ir

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What the export's process is told."""

    item: WorkItem
    source_dir: Path
    stage: Path


def export(item: WorkItem, *, source_dir: Path, stage_dir: Path, limits: Limits) -> ExportRecord:
    """Fill a stage; whatever an earlier attempt left in it is removed first.

    Args:
        source_dir: the model's files, as hub.download gives them.
        limits: of the process that traces.
    Raises:
        ExportUnsupported: the exporter refuses the model, an axis or input would be lost, or this worker has other
            packages than the plan was made with.
        ModelInvalid: the source's weights or tokenizer cannot be used.
        WorkerOutOfResources, StepTimedOut, StepCrashed: the process passed a limit or died.
    """
    _require_toolchain(item)
    _require_recipe(item)
    if stage_dir.exists():
        shutil.rmtree(stage_dir)
    stage.write_work(stage_dir, item)
    request = ExportRequest(item=item, source_dir=source_dir, stage=stage_dir)
    outcome = isolated.run(fill, request, limits=limits, log=stage_dir / stage.PRIVATE / "export.log")
    record = replace(outcome.value, duration_s=outcome.duration_s, peak_memory_bytes=outcome.peak_memory_bytes)
    stage.write_export(stage_dir, record)
    log.info(
        "exported %s@%s in %.1f s, %d MB", item.model_id, item.model.commit[:8], record.duration_s,
        record.peak_memory_bytes >> 20,
    )  # fmt: skip
    return record


def fill(request: ExportRequest) -> ExportRecord:
    """What the export's process does; imports torch."""
    item = request.item
    recipe = _recipe(item)
    tokenizer.pack(item.model, source_dir=request.source_dir, stage=request.stage)
    if recipe:
        model_config.change_tokenizer(request.stage, recipe.tokenizer)
    graphs, fallbacks = _make_graphs(request, recipe)
    fallbacks = (*fallbacks, *tokenizer.lost_token_types(request.stage, graphs))
    model_config.complete_config(request.stage, external_data=_external_data(graphs))
    settings: dict[str, str | int | bool] = {"opset": item.model.entry.opset, "attention": "eager"}
    if item.model.entry.decoder_form != DECODER_FORMS[0]:
        settings["decoder_form"] = item.model.entry.decoder_form
    if item.model.entry.may_be_fixed:
        settings["may_be_fixed"] = ", ".join(sorted(item.model.entry.may_be_fixed))
    if item.model.entry.tokenizer_graph:
        made = tokenizer_graph.write(request.stage)
        settings["tokenizer_graph"] = made.path is not None
        if made.path is None:
            fallbacks = (*fallbacks, Fallback(what="tokenizer.onnx -> none", why=made.reason))
    return ExportRecord(
        graphs=graphs,
        settings=settings,
        recipe=item.model.entry.recipe,
        recipe_digest=item.recipe_digest,
        fallbacks=fallbacks,
        toolchain=item.toolchain,
        duration_s=0.0,
        peak_memory_bytes=0,
    )


def _make_graphs(request: ExportRequest, recipe: Recipe | None) -> tuple[tuple[GraphInfo, ...], tuple[Fallback, ...]]:
    """Trace every graph of the model's family, and write them with their weights."""
    from onnx_fleet import families

    item = request.item
    family = families.family(item.family)
    model = family.load(item, request.source_dir)
    if recipe and recipe.rewrite:
        recipe.rewrite(model)
    checkpoint = weights.checkpoint_names(request.source_dir)
    traced: dict[str, ir.Model] = {}
    fallbacks: list[Fallback] = []
    for spec in family.graphs(item, model):
        traced[spec.role], taken = tracing.trace(
            spec,
            opset=item.model.entry.opset,
            checkpoint=checkpoint,
            metadata=_metadata(item),
            recipe=recipe,
            may_be_fixed=item.model.entry.may_be_fixed,
        )
        fallbacks += taken
    paths = weights.save_all(traced, request.stage / "onnx")
    for path in paths.values():
        graph.check(path)
    libraries = recipe.libraries if recipe else ()
    described = (
        graph.describe(path, role=role, variant="fp32", bundle=request.stage, libraries=libraries)
        for role, path in paths.items()
    )
    return tuple(described), tuple(fallbacks)


def _require_toolchain(item: WorkItem) -> None:
    """The fingerprint names the packages; graphs that others made must not stand under it."""
    installed = toolchain.versions()
    differing = [
        f"{name} {version} (here {installed.get(name)})"
        for name, version in item.toolchain.items()
        if installed.get(name) != version
    ]
    if differing:
        raise ExportUnsupported(
            f"{item.model_id}: planned with {', '.join(differing)}; install the same requirements.txt on every worker"
        )


def _require_recipe(item: WorkItem) -> None:
    """The fingerprint names the recipe's file by its digest: another file here would make other graphs under it."""
    name = item.model.entry.recipe
    if name is not None and recipes.digest(name) != item.recipe_digest:
        raise ExportUnsupported(
            f"{item.model_id}: the file of recipe '{name}' is not the one that the plan was made with; bring the same "
            f"recipes/ to every worker"
        )


def _recipe(item: WorkItem) -> Recipe | None:
    """The entry's recipe; a file's may import torch, so only the export's own process asks."""
    name, task = item.model.entry.recipe, item.model.task
    if name is None:
        return None
    recipe = recipes.find(name)
    if recipe.tasks and task not in recipe.tasks:
        raise ExportUnsupported(
            f"{item.model_id}: recipe '{name}' is for {', '.join(recipe.tasks)}, not for {task}; leave the recipe out, "
            f"or name one of these tasks"
        )
    return recipe


def _metadata(item: WorkItem) -> Mapping[str, str]:
    return {
        "onnx_fleet.model_id": item.model_id,
        "onnx_fleet.commit": item.model.commit,
        "onnx_fleet.task": item.model.task,
        "onnx_fleet.fingerprint": item.fingerprint,
    }


def _external_data(graphs: Iterable[GraphInfo]) -> dict[str, int]:
    """The files of those graphs that have weights under their own name beside them; others' are in one of these."""
    files = {file for info in graphs for file in info.weight_files}
    return {info.path.removeprefix("onnx/"): 1 for info in graphs if f"{info.path}_data" in files}
