"""Plan: fingerprints; what is new, changed, unchanged, refused, and why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

from onnx_fleet import jsonio, published, recipes, toolchain
from onnx_fleet.entities.entry import DECODER_FORMS, Entry
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.work_item import Plan, Refusal, State, WorkItem
from onnx_fleet.errors import DuplicateModel, ExportUnsupported, OnnxFleetError
from onnx_fleet.planning.compatibility import misfit
from onnx_fleet.published import Manifest
from onnx_fleet.store import ObjectStore
from onnx_fleet.variants import calibration

STORE_WORKERS = 16
"""Models whose published state is looked up at the same time."""


def plan(
    models: Iterable[ResolvedModel],
    *,
    store: ObjectStore,
    force: str | None = None,
    channel: str = "latest",
    versions: Mapping[str, str] | None = None,
) -> Plan:
    """Say for every model whether it is to be exported, and why.

    Args:
        force: the label of a run that exports everything, unchanged or not; since bundles are immutable, the label
            goes into the fingerprint, and so into the version.
        channel: the one whose version a change is told against.
        versions: the toolchain; None takes the installed one.

    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked.
    """
    tools = toolchain.versions() if versions is None else versions
    accepted: dict[str, ResolvedModel] = {}
    refusals: list[Refusal] = []
    for model in sorted(models, key=lambda model: (-model.entry.priority, model.repo_id.lower(), model.repo_id)):
        refusal = _refuse(model, same=accepted.get(model.repo_id.lower()))
        if refusal is None:
            accepted[model.repo_id.lower()] = model
        else:
            refusals.append(refusal)
    with ThreadPoolExecutor(max_workers=STORE_WORKERS, thread_name_prefix="plan") as pool:
        items = tuple(
            pool.map(
                lambda model: _item(model, store=store, force=force, channel=channel, tools=tools), accepted.values()
            )
        )
    return Plan(items=items, refusals=tuple(sorted(refusals, key=lambda refusal: refusal.repo_id.lower())))


def fingerprint(
    model: ResolvedModel,
    *,
    family: str,
    versions: Mapping[str, str],
    recipe_digest: str | None = None,
    calibration_digest: str | None = None,
    rebuild: str | None = None,
) -> str:
    """SHA-256 over everything that decides the bundle's graphs: 64 hex digits."""
    told = {
        **deciding(model, family=family, versions=versions, recipe_digest=recipe_digest),
        **deciding_variants(model.entry, calibration_digest=calibration_digest),
        "rebuild": rebuild,
    }
    return hashlib.sha256(jsonio.canonical(told)).hexdigest()


def deciding(
    model: ResolvedModel, *, family: str, versions: Mapping[str, str], recipe_digest: str | None = None
) -> dict[str, object]:
    """Everything that decides the fp32 graphs of a bundle, by name.

    Tolerances, latency grid, providers and priority decide what is proven and when, not the graphs; they stay out.
    """
    entry = model.entry
    return {
        "commit": model.commit,
        "task": model.task,
        "family": family,
        "recipe": entry.recipe,
        **({"architecture": entry.architecture} if entry.architecture else {}),
        **({"weights_variant": entry.weights_variant} if entry.weights_variant else {}),
        **({"recipe_file": recipe_digest} if recipe_digest else {}),
        "opset": entry.opset,
        **({"decoder_form": entry.decoder_form} if entry.decoder_form != DECODER_FORMS[0] else {}),
        **({"may_be_fixed": sorted(entry.may_be_fixed)} if entry.may_be_fixed else {}),
        **({"tokenizer": entry.tokenizer} if entry.tokenizer != "exact" else {}),
        **({"tokenizer_graph": True} if entry.tokenizer_graph else {}),
        "weights": entry.weights,
        "inline_max_bytes": entry.inline_max_bytes,
        "trust_remote_code": entry.trust_remote_code is not None,
        "allow_pickle": entry.allow_pickle is not None,
        "toolchain": dict(versions),
    }


def deciding_variants(entry: Entry, *, calibration_digest: str | None = None) -> dict[str, object]:
    """Everything else that decides which variants a bundle has, and their bytes, by name.

    Gates are part of it: layers that hurt too much by them are left in float32.
    """
    asked = [name for name in sorted(entry.variants) if name != FP32]
    gates = {name: asdict(gates) for name, gates in entry.variant_gates.items() if name in asked}
    return {
        "variants": [FP32, *asked],
        **({"variant_gates": gates} if gates else {}),
        **({"calibration": calibration_digest} if asked and calibration_digest else {}),
    }


def version_of(commit: str, fingerprint: str) -> str:
    """The name of a bundle under its model."""
    return f"{commit[:8]}-{fingerprint[:8]}"


def _refuse(model: ResolvedModel, *, same: ResolvedModel | None) -> Refusal | None:
    where = f"{model.repo_id}@{model.commit[:8]}"
    error: OnnxFleetError
    if model.task not in TASKS:
        error = ExportUnsupported(
            f"{where}: no family exports {model.task}; give the entry one of these tasks: {', '.join(TASKS)}"
        )
    elif why := _misfit(model):
        error = ExportUnsupported(f"{where}: {why}")
    elif same is not None:
        error = DuplicateModel(
            f"{where}: '{model.entry.repo_id}' and '{same.entry.repo_id}' are one model to the Hub; remove one of the "
            f"two entries"
        )
    else:
        return None
    return Refusal.of(model.repo_id, error, step="plan", commit=model.commit)


def _misfit(model: ResolvedModel) -> str | None:
    entry = model.entry
    tuned_with = entry.calibration if set(entry.variants) != {FP32} else None
    return misfit(model.task, recipe=entry.recipe, decoder_form=entry.decoder_form, calibrated=tuned_with)


def _item(
    model: ResolvedModel, *, store: ObjectStore, force: str | None, channel: str, tools: Mapping[str, str]
) -> WorkItem:
    family = TASKS[model.task].family
    recipe_digest = recipes.digest(model.entry.recipe) if model.entry.recipe else None
    calibration_digest = calibration.digest(model.entry.calibration) if model.entry.calibration else None

    def item(state: State, reason: str, *, rebuild: str | None) -> WorkItem:
        digest = fingerprint(
            model,
            family=family,
            versions=tools,
            recipe_digest=recipe_digest,
            calibration_digest=calibration_digest,
            rebuild=rebuild,
        )
        return WorkItem(
            model=model,
            family=family,
            fingerprint=digest,
            version=version_of(model.commit, digest),
            state=state,
            reason=reason,
            toolchain=tools,
            recipe_digest=recipe_digest,
            calibration_digest=calibration_digest,
            rebuild=rebuild,
        )

    wanted = item("new", "nothing is published yet", rebuild=force)
    latest = published.channel(store, model.repo_id, channel)
    current = None
    if latest is not None and latest.version != wanted.version:
        current = published.manifest(store, model.repo_id, version=latest.version)
    if current is not None and force is None and current.bundle.rebuild is not None:
        # Without this the next run would move the channel back from a forced re-export to the version before it.
        again = item(
            "unchanged", f"a re-export that is up to date: {current.bundle.rebuild}", rebuild=current.bundle.rebuild
        )
        if again.fingerprint == current.bundle.fingerprint:
            return again
    if published.exists(store, model.repo_id, version=wanted.version):
        elsewhere = f"; {channel} points at {latest.version}" if latest and latest.version != wanted.version else ""
        return replace(wanted, state="unchanged", reason=f"{wanted.version} is published{elsewhere}")
    if latest is None:
        return wanted
    if force is not None:
        return replace(wanted, state="changed", reason=f"a re-export was asked for: {force}")
    why = _differences(current, wanted) if current is not None else [f"the manifest of {latest.version} is unreadable"]
    return replace(wanted, state="changed", reason="; ".join(why) or "the way of exporting changed")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _told(old: Manifest, setting: str) -> str:
    return str(old.export.settings.get(setting, "none"))


def _differences(old: Manifest, new: WorkItem) -> list[str]:
    """What made the latest version and would not make this one, in words."""
    model, entry = new.model, new.model.entry
    pairs = [
        ("commit", old.source.revision[:7], model.commit[:7]),
        ("task", old.task, model.task),
        ("family", old.family, new.family),
        ("recipe", old.export.recipe or "none", entry.recipe or "none"),
        ("recipe's file", (old.export.recipe_digest or "none")[:8], (new.recipe_digest or "none")[:8]),
        ("variants", ", ".join(old.variants), ", ".join(sorted(entry.variants))),
        ("opset", ", ".join(map(str, old.opsets)), str(entry.opset)),
        ("weights", str(old.export.settings.get("weights", "auto")), entry.weights),
        ("architecture", _told(old, "architecture"), entry.architecture or "none"),
        ("weights_variant", _told(old, "weights_variant"), entry.weights_variant or "none"),
        ("decoder_form", str(old.export.settings.get("decoder_form", DECODER_FORMS[0])), entry.decoder_form),
        ("tokenizer", str(old.export.settings.get("tokenizer", "exact")), entry.tokenizer),
        ("may_be_fixed", _told(old, "may_be_fixed"), _listed(entry.may_be_fixed)),
    ]
    names = sorted({*old.toolchain, *new.toolchain})
    pairs += [
        (f"toolchain: {name}", old.toolchain.get(name, "none"), new.toolchain.get(name, "none")) for name in names
    ]
    return [f"{what} {before} -> {after}" for what, before, after in pairs if before != after]
