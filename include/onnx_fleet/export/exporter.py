"""Export: a work item and its source files -> a stage with graphs, tokenizer and configuration."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from onnx_fleet import recipes
from onnx_fleet.bundles import model_config
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.conventions import sentence_modules
from onnx_fleet.entities.entry import DECODER_FORMS, OWN_TOLERANCES
from onnx_fleet.entities.export_record import ExportRecord, Fallback
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleCorrupt, ExportUnsupported
from onnx_fleet.export import cache, cache_keys, finishing, traced_model, weight_placement
from onnx_fleet.export.cache import Cache
from onnx_fleet.export.traced_model import Traced
from onnx_fleet.graphs import description
from onnx_fleet.planning import toolchain
from onnx_fleet.processes import isolation, peak_memory, profiling
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.recipes import Recipe
from onnx_fleet.source import checkpoint
from onnx_fleet.source.checkpoint import StoredTensor
from onnx_fleet.source.tokenizers import pack

log = logging.getLogger(__name__)

Turn = Callable[[str], AbstractContextManager[object]]
"""What makes a context manager of the name of a piece of work: nobody else on the machine does that in its block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """The request that the export's process gets."""

    stage: Stage
    source_dir: Path
    graph_key: str | None = None
    """The cache's key of the graphs; None where no other model can take them."""
    graphs: Path | None = None
    """The path of the cached archive of the graphs with this key."""
    tokenizer: Path | None = None
    """The path of the cached archive of what was made of the same tokenizer."""
    whole: bool = False
    """Whether every layer is traced, also where one shows what the others are."""
    link: bool = False
    """Whether the stage may hard-link the source's files."""


def export(
    stage: Stage,
    *,
    source_dir: Path,
    limits: Limits,
    cached: Cache | None = None,
    whole: bool = False,
    turn: Turn = nullcontext,
    link: bool = False,
) -> ExportRecord:
    """Fill a stage; whatever an earlier attempt left in it is removed first.

    Args:
        source_dir: the model's files, as download.download returns them.
        limits: the limits of the process that traces.
        cached: has what exports of the same kind found out before, and gets what this one does.
        whole: trace every layer of this very model; what the cache has of it is replaced.
        turn: keeps others from tracing graphs of a key, which are then in the cache when their turn comes.
        link: hard-link the source's files into the stage where that is possible: for a stage that is only read.
    Raises:
        ExportUnsupported: the exporter refuses the model, an axis or input would be lost, or this worker has other
            packages than the plan was made with.
        ModelInvalid: the source's weights or tokenizer cannot be used.
        WorkerOutOfResources, StepTimedOut, StepCrashed: the process passed a limit or died.
        StoreUnavailable: the cache cannot be asked.
    """
    item = stage.item
    _require_toolchain(item)
    _require_recipe(item)
    stage.begin()
    keys: dict[cache.Kind, str | None] = {
        "graphs": cache_keys.of_graphs(item, source_dir=source_dir, tensors=checkpoint.read(source_dir)),
        "tokenizers": cache_keys.of_tokenizer(item, source_dir=source_dir),
    }
    if whole and cached and keys["graphs"]:
        cached.remove("graphs", keys["graphs"])
    read = cached if item.rebuild is None else None  # what is made again because somebody asked takes nothing over
    wanted = {kind: key for kind, key in keys.items() if read and key and not (whole and kind == "graphs")}
    found = {kind: _fetch(stage, kind, key, cached=read) for kind, key in wanted.items()}
    with ExitStack() as held:
        if "graphs" in wanted and not found["graphs"]:
            held.enter_context(turn(f"graphs-{wanted['graphs']}"))
            found = {kind: found[kind] or _fetch(stage, kind, key, cached=read) for kind, key in wanted.items()}
        request = ExportRequest(
            stage=stage,
            source_dir=source_dir,
            graph_key=keys["graphs"],
            graphs=found.get("graphs"),
            tokenizer=found.get("tokenizers"),
            whole=whole,
            link=link,
        )
        before = {kind: path.read_bytes() for kind, path in found.items() if path}
        record = _run(request, limits=limits)
        stage.write_export(record)
        for kind, key in keys.items():
            archive = _archive(stage, kind)
            if cached and key and archive.exists() and (made := archive.read_bytes()) != before.get(kind):
                if kind in before:  # it was of no use
                    cached.remove(kind, key)
                cached.put(kind, key, made)
    megabytes = record.peak_memory_bytes >> 20
    log.info("exported %s in %.1f s, %d MB", item.model.at_commit, record.duration_s, megabytes)
    return record


def _fetch(stage: Stage, kind: cache.Kind, key: str, *, cached: Cache | None) -> Path | None:
    """Write the cached archive of a key to a file; None where there is none."""
    found = cached.get(kind, key) if cached else None
    if found is None:
        return None
    _archive(stage, kind).write_bytes(found)
    return _archive(stage, kind)


def _archive(stage: Stage, kind: cache.Kind) -> Path:
    return stage.private / f"{kind}.zip"


def _run(request: ExportRequest, *, limits: Limits) -> ExportRecord:
    """Fill the stage; a cached archive that does not fit this model is ignored, and its content made anew."""
    try:
        return _attempt(request, limits=limits)
    except BundleCorrupt as err:
        if not (request.graphs or request.tokenizer):
            raise
        log.warning("%s: the cached graphs do not fit it: %s", request.stage.item.model_id, err)
    return _attempt(replace(request, graphs=None, tokenizer=None), limits=limits)


def _attempt(request: ExportRequest, *, limits: Limits) -> ExportRecord:
    """Fill the stage in a process of its own where torch is needed; else in this one, which is faster."""
    entry = request.stage.item.model.entry
    own_recipe = entry.recipe is not None and entry.recipe not in recipes.RECIPES
    with_torch = own_recipe or not (request.graphs and request.tokenizer)
    # `inline` may put two gigabytes through memory, which a limit has to hold.
    if not with_torch and entry.weights != "inline":
        started = time.monotonic()
        record = fill(request)
        return replace(
            record,
            duration_s=time.monotonic() - started,
            peak_memory_bytes=peak_memory.peak_bytes(),
        )
    log_file = request.stage.private / "export.log"
    outcome = isolation.run(fill, request, limits=limits, log=log_file, with_torch=with_torch)
    return replace(outcome.value, duration_s=outcome.duration_s, peak_memory_bytes=outcome.peak_memory_bytes)


def fill(request: ExportRequest) -> ExportRecord:
    """Fill the stage, in the export's process; torch is imported where the graphs are not there yet."""
    item, entry = request.stage.item, request.stage.item.model.entry
    recipe = _recipe(item)
    earlier = request.tokenizer.read_bytes() if request.tokenizer else None
    sentence_modules.pack_weights(item.model.needed, source_dir=request.source_dir, stage=request.stage.folder)
    with profiling.timed("tokenizer"):
        packed = pack.pack(request.stage, source_dir=request.source_dir, earlier=earlier)
        if earlier is None:
            made = pack.archived(packed, source_dir=request.source_dir, folder=request.stage.folder)
            _archive(request.stage, "tokenizers").write_bytes(made)
    if recipe:
        model_config.change_tokenizer(request.stage.folder, recipe.tokenizer)
    tensors = checkpoint.read(request.source_dir)
    traces = _graphs(request, recipe)
    if traces.derived is None and traces.way != "cached":
        _archive(request.stage, "graphs").write_bytes(traced_model.pack(traces))
    with profiling.timed("write"):
        graphs = _write(request, traces, tensors, libraries=recipe.libraries if recipe else ())
    fallbacks = (*traces.fallbacks, *pack.not_exact(packed), *pack.lost_token_types(request.stage.folder, graphs))
    model_config.complete_config(request.stage.folder, external_data=description.external_data(graphs))
    settings: dict[str, str | int | bool] = {"opset": entry.opset, "attention": "eager", "weights": entry.weights}
    if entry.architecture:
        settings["architecture"] = entry.architecture
    if entry.weights_variant:
        settings["weights_variant"] = entry.weights_variant
    if request.stage.item.model.folder:
        settings["model_folder"] = request.stage.item.model.folder
    if item.model.completed:
        settings["config_completed"] = ", ".join(item.model.completed)
    if entry.decoder_form != DECODER_FORMS[0]:
        settings["decoder_form"] = entry.decoder_form
    if entry.may_be_fixed:
        settings["may_be_fixed"] = ", ".join(sorted(entry.may_be_fixed))
    if entry.calibration:
        settings["calibration"] = entry.calibration
    if traces.left_out:
        settings["left_out"] = "; ".join(traces.left_out)
    if entry.tolerances is not None:
        settings["tolerances"] = OWN_TOLERANCES
    if entry.tokenizer != "exact":
        settings["tokenizer"] = entry.tokenizer
    if entry.tokenizer_graph:
        from onnx_fleet.source.tokenizers import onnx_graph

        with profiling.timed("tokenizer"):
            written = onnx_graph.write(request.stage.folder)
        settings["tokenizer_graph"] = written.path is not None
        if written.path is None:
            fallbacks = (*fallbacks, Fallback(what="tokenizer.onnx -> none", why=written.reason))
    return ExportRecord(
        graphs=graphs,
        settings=settings,
        recipe=entry.recipe,
        recipe_digest=item.recipe_digest,
        fallbacks=fallbacks,
        traced=traces.way,
        graph_key=request.graph_key if traces.derived is None else None,
        toolchain=item.toolchain,
        duration_s=0.0,
        peak_memory_bytes=0,
    )


def _graphs(request: ExportRequest, recipe: Recipe | None) -> Traced:
    """Return the model's graphs without weights: the cache's, else traced. Whether the weights fit, _write tells."""
    if request.graphs is not None:
        return traced_model.unpack(request.graphs.read_bytes())
    with profiling.timed("imports"):
        from onnx_fleet.export import model_tracing

    derived = request.stage.private / "derived.safetensors"
    return model_tracing.trace_model(
        request.stage.item, source_dir=request.source_dir, derived=derived, recipe=recipe, whole=request.whole
    )


def _write(
    request: ExportRequest, made: Traced, tensors: Mapping[str, StoredTensor], *, libraries: tuple[str, ...]
) -> tuple[GraphInfo, ...]:
    """Write the graphs and their weights into the stage."""
    entry = request.stage.item.model.entry
    if made.derived is not None:
        tensors = {**tensors, **{tensor.name: tensor for tensor in checkpoint.tensors_of(made.derived)}}
    for role, model in made.graphs.items():
        if made.way != "cached":  # those were checked before they were kept
            finishing.check(model, role=role)
        finishing.stamp(model, _metadata(request.stage.item))
    paths = weight_placement.save_all(
        made.graphs,
        request.stage.folder / "onnx",
        tensors=tensors,
        placement=entry.weights,
        inline_max_bytes=entry.inline_max_bytes,
        link=request.link,
    )
    return tuple(
        description.describe(path, role=role, variant="fp32", bundle=request.stage.folder, libraries=libraries)
        for role, path in paths.items()
    )


def _require_toolchain(item: WorkItem) -> None:
    """Refuse other packages than the fingerprint names: graphs that others made must not stand under it."""
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
    """Refuse another recipe file than the fingerprint names by its digest: it would make other graphs."""
    name = item.model.entry.recipe
    if name is not None and recipes.digest(name) != item.recipe_digest:
        raise ExportUnsupported(
            f"{item.model_id}: the file of recipe '{name}' is not the one that the plan was made with; put the same "
            f"recipes/ on every worker"
        )


def _recipe(item: WorkItem) -> Recipe | None:
    """Return the entry's recipe; its file may import torch, so only the export's own process calls this."""
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
    """Return what a graph says of itself: where it comes from.

    Nothing that every upgrade changes: a file of the same bytes is copied by the store, and weights may be inside.
    """
    return {
        "onnx_fleet.model_id": item.model_id,
        "onnx_fleet.commit": item.model.commit,
        "onnx_fleet.task": item.model.task,
    }
