"""Plan: fingerprints; what is new, changed, unchanged, refused, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from onnx_fleet import recipes
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.work_item import Plan, Refusal, State, WorkItem
from onnx_fleet.errors import (
    BundleCorrupt,
    DuplicateModel,
    ExportUnsupported,
    LicenceRefused,
    LicenceUnapproved,
    OnnxFleetError,
)
from onnx_fleet.planning import changes, licence_policy, published_state, toolchain
from onnx_fleet.planning.calibration import source as calibration_source
from onnx_fleet.planning.compatibility import misfit
from onnx_fleet.planning.fingerprint import fingerprint, version_of
from onnx_fleet.store import ObjectStore
from onnx_fleet.store.concurrency import at_once


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
    planned = at_once(
        lambda model: _planned(model, store=store, force=force, channel=channel, tools=tools),
        accepted.values(),
        threads="plan",
    )
    items = tuple(each for each in planned if isinstance(each, WorkItem))
    refusals += [each for each in planned if isinstance(each, Refusal)]
    return Plan(items=items, refusals=tuple(sorted(refusals, key=lambda refusal: refusal.repo_id.lower())))


def _refuse(model: ResolvedModel, *, same: ResolvedModel | None) -> Refusal | None:
    where = model.at_commit
    error: OnnxFleetError
    if model.task not in TASKS:
        error = ExportUnsupported(
            f"{where}: no family exports {model.task}; give the entry one of these tasks: {', '.join(TASKS)}"
        )
    elif why := _misfit(model):
        error = ExportUnsupported(f"{where}: {why}")
    elif same is not None:
        error = DuplicateModel(
            f"{where}: '{model.entry.repo_id}' and '{same.entry.repo_id}' are the same model on the Hub; remove one "
            f"of the two entries"
        )
    else:
        return None
    return Refusal.of(model.repo_id, error, step="plan", commit=model.commit)


def _misfit(model: ResolvedModel) -> str | None:
    entry = model.entry
    tuned_with = entry.calibration if set(entry.variants) != {FP32} else None
    return misfit(model.task, recipe=entry.recipe, decoder_form=entry.decoder_form, calibrated=tuned_with)


def _planned(
    model: ResolvedModel, *, store: ObjectStore, force: str | None, channel: str, tools: Mapping[str, str]
) -> WorkItem | Refusal:
    try:
        licence_policy.require_approved(model, store=store)
        return _with_both_ids(_item(model, store=store, force=force, channel=channel, tools=tools))
    except (LicenceUnapproved, LicenceRefused, BundleCorrupt) as err:
        return Refusal.of(model.repo_id, err, step="plan", commit=model.commit)


def _item(
    model: ResolvedModel, *, store: ObjectStore, force: str | None, channel: str, tools: Mapping[str, str]
) -> WorkItem:
    family = TASKS[model.task].family
    recipe_digest = recipes.digest(model.entry.recipe) if model.entry.recipe else None
    calibration_digest = calibration_source.digest(model.entry.calibration) if model.entry.calibration else None

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
    latest = published_state.channel(store, model.repo_id, channel)
    current = None
    if latest is None or latest.version != wanted.version:
        wanted = _undeleted(wanted, lambda reason, rebuild: item("new", reason, rebuild=rebuild), store=store)
    if latest is not None and latest.version != wanted.version:
        current = published_state.manifest(store, model.repo_id, version=latest.version)
        if current is not None:
            licence_policy.require_unchanged(model, since=current, version=latest.version, store=store)
    if current is not None and force is None and current.bundle.rebuild is not None:
        # Without this the next run would move the channel back from a forced re-export to the version before it.
        again = item(
            "unchanged",
            f"it is up to date since the re-export {current.bundle.rebuild}",
            rebuild=current.bundle.rebuild,
        )
        if again.fingerprint == current.bundle.fingerprint:
            return again
    if published_state.exists(store, model.repo_id, version=wanted.version):
        elsewhere = f"; {channel} points to {latest.version}" if latest and latest.version != wanted.version else ""
        return replace(wanted, state="unchanged", reason=f"{wanted.version} is published{elsewhere}")
    if latest is None:
        return wanted
    if force is not None:
        return replace(wanted, state="changed", cause="own", reason=f"a re-export was asked for: {force}")
    if current is None:
        return replace(wanted, state="changed", cause="own", reason=f"the manifest of {latest.version} is unreadable")
    told = changes.told(wanted, since=current)
    return told if wanted.rebuild is None else replace(told, reason=f"{told.reason}; {wanted.reason}")


def _undeleted(wanted: WorkItem, item: Callable[[str, str], WorkItem], *, store: ObjectStore) -> WorkItem:
    """Return the item with a version that was never removed: no name of a version is used twice.

    What was removed is part of the next fingerprint, so that every plan comes to the same version.

    Args:
        item: makes the item anew, of its reason and of what goes into the fingerprint as ``rebuild``.
    """
    while published_state.is_deleted(store, wanted.model_id, version=wanted.version):
        gone = f"{wanted.version} was deleted"
        wanted = item(f"{gone}, and is made again as a new version", f"after {gone}")
    return wanted


def _with_both_ids(item: WorkItem) -> WorkItem:
    """Return the item, its reason telling both ids where the Hub has another one than the entry names."""
    old = item.model.renamed_from
    return replace(item, reason=f"{item.reason}; the Hub has renamed {old} to {item.model_id}") if old else item
