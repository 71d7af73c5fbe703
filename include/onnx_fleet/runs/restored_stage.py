"""A published bundle as a stage again, so that the steps that proved it can prove it once more.

What a bundle was held to is in its manifest and its reports. What may be run to hold it to that (code and pickles of
its source) is not: whoever can write to the store could say so there, and only a catalogue may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from onnx_fleet import jsonio, recipes
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import DECODER_FORMS, OWN_TOLERANCES, Entry, TokenizerForm, Tolerances
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.resolved_model import ResolvedModel, laid_out
from onnx_fleet.entities.variant import FP32, VARIANTS, VariantGates
from onnx_fleet.entities.variant_report import REPORT_NAME, VariantReport
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.source import repo_files, static_embedding
from onnx_fleet.source.repo_files import Permits

_GATES: Mapping[str, str] = {
    "cosine": "min_cosine",
    "top1": "min_top1",
    "perplexity_ratio": "max_perplexity_ratio",
    "size": "max_layers_ratio",
}
"""The name of a figure in a report -> the gate that its threshold comes from."""
_NOT_ASKED_THEN: Mapping[str, float] = {"max_layers_ratio": 1.0}
"""The gates that older reports have no figure for: a bundle that was published without one is not held to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The permissions that a catalogue has for one model."""

    trust_remote_code: str | None = None
    """The commit whose Python code may be run."""
    allow_pickle: str | None = None
    """The commit whose pickle weights may be loaded."""


def write(folder: Path, made: Manifest, *, trust: Trust) -> Stage:
    """Make a stage of a pulled bundle.

    Args:
        folder: the bundle's files as they were published.
    Raises:
        UnsafeModel: its source is loaded by running code or pickles, and the catalogue does not allow that commit.
        ModelInvalid: its manifest does not name the files of a model.
        ExportUnsupported, CatalogueInvalid: the recipe that it was made with is not here.
    """
    _require_recipe(made)
    stage = Stage.make(folder, _item(folder, made, trust=trust))
    stage.write_export(
        ExportRecord(
            graphs=made.graphs,
            settings=made.export.settings,
            recipe=made.export.recipe,
            recipe_digest=made.export.recipe_digest,
            fallbacks=made.export.fallbacks,
            traced=made.export.traced,
            graph_key=made.export.graph_key,
            toolchain=made.toolchain,
            duration_s=made.export.duration_s,
            peak_memory_bytes=made.export.peak_memory_bytes,
        )
    )
    return stage


def _item(folder: Path, made: Manifest, *, trust: Trust) -> WorkItem:
    source, info = made.source, made.bundle
    subject = ref_of(info)
    repo_files.require_safe_paths((file.path for file in source.files), subject=subject)
    permits = Permits(
        commit=source.revision,
        pickle=trust.allow_pickle == source.revision,
        remote_code=trust.trust_remote_code == source.revision,
    )
    model_folder = str(made.export.settings.get("model_folder", ""))
    paths = laid_out([file.path for file in source.files], folder=model_folder)
    variant = made.export.settings.get("weights_variant")
    written = static_embedding.made(paths) if made.architecture == static_embedding.ARCHITECTURE else ()
    repo_files.needed(
        paths,
        permits=permits,
        read=lambda index: {"weight_map": repo_files.weights_beside(index, paths)},
        variant=str(variant) if variant else None,
        made=written,
        subject=subject,
    )
    model = ResolvedModel(
        entry=_entry(folder, made, trust=trust),
        repo_id=source.repo_id,
        commit=source.revision,
        task=made.task,
        architecture=made.architecture,
        model_type=str(json.loads((folder / "config.json").read_bytes()).get("model_type", "")),
        licence=source.licence,
        gated=source.gated,
        files=source.files,
        needed=tuple(sorted(paths)),
        folder=model_folder,
        made=written,
    )
    return WorkItem(
        model=model,
        family=made.family,
        fingerprint=info.fingerprint,
        version=info.version,
        state="unchanged",
        reason="published, and audited",
        toolchain=made.toolchain,
        recipe_digest=made.export.recipe_digest,
        rebuild=info.rebuild,
    )


def _entry(folder: Path, made: Manifest, *, trust: Trust) -> Entry:
    """Return the part of an entry that decides what is compared, and how strictly."""
    settings = made.export.settings
    return Entry(
        repo_id=made.source.repo_id,
        revision=made.source.revision,
        task=made.task,
        architecture=str(settings["architecture"]) if "architecture" in settings else None,
        weights_variant=str(settings["weights_variant"]) if "weights_variant" in settings else None,
        recipe=made.export.recipe,
        variants=tuple(dict.fromkeys((FP32, *(info.variant for info in made.graphs)))),
        variant_gates=_gates(folder),
        calibration=str(settings["calibration"]) if "calibration" in settings else None,
        opset=int(settings.get("opset", made.graphs[0].opset)),
        may_be_fixed=tuple(str(settings["may_be_fixed"]).split(", ")) if "may_be_fixed" in settings else (),
        decoder_form=str(settings.get("decoder_form", DECODER_FORMS[0])),
        tokenizer=_tokenizer(made),
        tolerances=_tolerances(made),
        trust_remote_code=trust.trust_remote_code,
        allow_pickle=trust.allow_pickle,
    )


def _tolerances(made: Manifest) -> Tolerances:
    """Return the entry's tolerances: the largest applied ones, since small values are held to tighter ones."""
    rows = [row for row in made.validation.checks if row.provider == "cpu"]
    derived = made.export.settings.get("tolerances") != OWN_TOLERANCES
    if not rows:
        return Tolerances(derived=derived)
    return Tolerances(atol=max(row.atol for row in rows), rtol=max(row.rtol for row in rows), derived=derived)


def _tokenizer(made: Manifest) -> TokenizerForm:
    said = made.export.settings.get("tokenizer")
    return "none" if said == "none" else "as-published" if said == "as-published" else "exact"


def _gates(folder: Path) -> dict[str, VariantGates]:
    """Return the gates that each variant passed, from its report; empty where no report can be read."""
    try:
        report = jsonio.parse(VariantReport, (folder / "reports" / f"{REPORT_NAME}.json").read_bytes())
    except (FileNotFoundError, ValueError, ValidationError):
        return {}
    gates = {}
    for verdict in report.verdicts:
        measured = [measure for graph in verdict.graphs for measure in graph.measures if measure.name in _GATES]
        told = {**_NOT_ASKED_THEN, **{_GATES[measure.name]: measure.threshold for measure in measured}}
        if verdict.variant in VARIANTS:
            gates[verdict.variant] = replace(VARIANTS[verdict.variant].gates, **told)
    return gates


def _require_recipe(made: Manifest) -> None:
    """Refuse a recipe that is not the one of the manifest: PyTorch would be compared with another model."""
    name = made.export.recipe
    if name is not None and recipes.digest(name) != made.export.recipe_digest:
        raise ExportUnsupported(
            f"{ref_of(made.bundle)}: the file of recipe '{name}' has changed since the"
            " export; put the earlier file here to compare the bundle with PyTorch again"
        )
