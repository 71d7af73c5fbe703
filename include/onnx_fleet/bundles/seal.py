"""Seal a stage: its manifest, with a digest of every file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from onnx_fleet.bundles import bill_of_materials, manifest, model_card, report_summaries, slsa_provenance
from onnx_fleet.bundles.manifest import BundleFile, BundleInfo, Export, FileRole, Manifest, Provenance, Source
from onnx_fleet.bundles.stage import BILL_OF_MATERIALS, PROVENANCE, WRITTEN_BY_SEAL, Stage
from onnx_fleet.conventions import sentence_modules, vocabulary
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleCorrupt
from onnx_fleet.store import keys, transfer

_ROLES: Mapping[str, FileRole] = {
    "config.json": "config",
    "generation_config.json": "config",
    "tokenizer.json": "tokenizer",
    "tokenizer_config.json": "tokenizer",
    "special_tokens_map.json": "tokenizer",
    "added_tokens.json": "tokenizer",
    "chat_template.jinja": "tokenizer",
    "chat_template.json": "tokenizer",
    "tokenizer.onnx": "tokenizer",
    "preprocessor_config.json": "preprocessor",
    "processor_config.json": "preprocessor",
    "image_processor_config.json": "preprocessor",
    "feature_extractor_config.json": "preprocessor",
    "video_preprocessor_config.json": "preprocessor",
    "modules.json": "sentence_transformers",
    "sentence_bert_config.json": "sentence_transformers",
    "config_sentence_transformers.json": "sentence_transformers",
    "model.safetensors": "sentence_transformers",
    "README.md": "readme",
}
_ROLES_BY_PATTERN: tuple[tuple[re.Pattern[str], FileRole], ...] = (
    (re.compile(r"reports/[^/]+\.(json|svg)"), "report"),
    (re.compile(r"(?i)licen[cs]e(\..+)?|notice(\..+)?"), "licence"),
    (re.compile(r"[^/]+\.bpe"), "tokenizer"),
    (re.compile(r"vocab[^/]*\.(txt|json)"), "tokenizer"),
    (re.compile(r"additional_chat_templates/[^/]+\.jinja"), "tokenizer"),
)


def seal(stage: Stage, *, provenance: Provenance, created_at: datetime) -> Manifest:
    """Hash every file of a stage, once, and describe the bundle; nothing goes into the store.

    The bill of materials and the provenance are made of that description and written into the stage: they are the last
    two files of the bundle. Their role is that of reports, because they name the run and its time.

    Args:
        stage: the stage, which has its graphs and reports.
    Raises:
        BundleNotFound: nothing was exported into the stage.
        BundleCorrupt: a graph or its weights are missing.
        ValidationFailed: the stage's reports do not say that its graphs are right.
        UnsafeModel: a file has a name that no bundle may have.
    """
    item, export = stage.item, stage.read_export()
    validation = report_summaries.validation(stage)
    files = _files(stage, graphs=export.graphs)
    _require_graphs(stage.folder, graphs=export.graphs, files=files)
    described = Manifest(
        bundle=BundleInfo(
            model_id=item.model_id,
            version=item.version,
            fingerprint=item.fingerprint,
            rebuild=item.rebuild,
            created_at=created_at.astimezone(UTC).replace(microsecond=0),
        ),
        source=_source(item),
        task=item.model.task,
        family=item.family,
        architecture=item.model.architecture,
        graphs=export.graphs,
        files=files,
        sentence_transformers=sentence_modules.settings(stage.folder),
        toolchain={**item.toolchain, **export.toolchain},
        export=Export(
            settings=dict(export.settings),
            recipe=export.recipe,
            recipe_digest=export.recipe_digest,
            fallbacks=export.fallbacks,
            traced=export.traced,
            graph_key=export.graph_key,
            duration_s=export.duration_s,
            peak_memory_bytes=export.peak_memory_bytes,
        ),
        validation=validation,
        variants=report_summaries.variants(stage),
        latency=report_summaries.latency(stage),
        regression=report_summaries.regression(stage),
        provenance=provenance,
    )
    return _with_materials(stage.folder, described)


def _with_materials(folder: Path, described: Manifest) -> Manifest:
    """Write the bill of materials and the provenance into a stage, and list them in its manifest."""
    written = {
        BILL_OF_MATERIALS: bill_of_materials.of(described, card=model_card.read(folder)),
        PROVENANCE: slsa_provenance.of(described),
    }
    for path, data in written.items():
        with transfer.local_disk(str(folder / path)):
            (folder / path).unlink(missing_ok=True)  # it may be a second name of another folder's file
            (folder / path).write_bytes(data)
    made = [
        BundleFile(path=path, size_bytes=len(data), sha256=transfer.sha256_of(data), role="report")
        for path, data in written.items()
    ]
    return replace(described, files=tuple(sorted((*described.files, *made), key=lambda file: file.path)))


def _source(item: WorkItem) -> Source:
    model = item.model
    return Source(
        repo_id=model.repo_id,
        requested_revision=model.entry.revision,
        revision=model.commit,
        licence=model.licence,
        gated=model.gated,
        files=tuple(sorted(model.sources.values(), key=lambda file: file.path)),
    )


def _files(stage: Stage, *, graphs: tuple[GraphInfo, ...]) -> tuple[BundleFile, ...]:
    found, folder = [], stage.folder
    modules = sentence_modules.folders(folder)
    for path in stage.published_files():
        keys.checked(path)
        if path in (manifest.FILE_NAME, *WRITTEN_BY_SEAL):
            continue  # of a bundle that was pulled, or of an earlier attempt; new ones are written
        with transfer.local_disk(str(folder / path)):
            found.append(
                BundleFile(
                    path=path,
                    size_bytes=(folder / path).stat().st_size,
                    sha256=transfer.hash_file(folder / path),
                    role=_role(path, graphs=graphs, modules=modules),
                )
            )
    return tuple(found)


def _role(path: str, *, graphs: tuple[GraphInfo, ...], modules: tuple[str, ...]) -> FileRole:
    if any(path == graph.path for graph in graphs):
        return "graph"
    if any(path in graph.weight_files for graph in graphs):
        return "weights"
    if path in _ROLES:
        return _ROLES[path]
    if path.rpartition("/")[0] in modules:
        return "sentence_transformers"
    by_pattern = next((role for pattern, role in _ROLES_BY_PATTERN if pattern.fullmatch(path)), None)
    return by_pattern or ("tokenizer" if vocabulary.is_vocabulary(path) else "other")


def _require_graphs(folder: Path, *, graphs: tuple[GraphInfo, ...], files: tuple[BundleFile, ...]) -> None:
    there = {file.path for file in files}
    missing = [path for graph in graphs for path in (graph.path, *graph.weight_files) if path not in there]
    if missing or not graphs:
        raise BundleCorrupt(f"{folder}: {', '.join(missing) or 'every graph'} is missing; export the model again")
