"""Demotion: a channel whose version failed its audit goes back to the newest older one that passes its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from onnx_fleet.bundles import bundle, channels, listing
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, VersionConflict
from onnx_fleet.runs import audit
from onnx_fleet.runs.audit import Audit, Target
from onnx_fleet.runs.restored_stage import Trust
from onnx_fleet.runs.services import Services
from onnx_fleet.store import ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demotion:
    """The outcome for a channel that points at a version that failed."""

    model_id: str
    channel: str
    version: str
    """The version that failed."""
    to: str | None
    """The version that takes its place; None where the channel stays."""
    moved: bool
    """Whether the channel was moved; False in a dry run too."""
    reason: str
    """A statement for people: why the channel was moved, or stays."""


def demote(
    failed: Audit,
    *,
    channel: str,
    services: Services,
    by: Actor,
    now: datetime,
    trust: Trust | None = None,
    dry_run: bool = False,
    known: Iterable[Audit] = (),
) -> Demotion | None:
    """Move a channel off a version that failed its audit, and hold it there: a run would move it back.

    Only failures count: a bundle that could not be compared stays in use, and a channel that a person holds stays.
    A version that its gates held back when it was published is not gone back to.

    Args:
        by: the audit.
        trust: what a catalogue allows for the model's source.
        dry_run: find the version that would take its place, and move nothing.
        known: audits of this run, which are not done again.
    Returns:
        None where there is nothing to do: the bundle did not fail, or the channel points elsewhere.
    Raises:
        StoreUnavailable, StoreDenied, WorkerOutOfResources: as audit.audit does.
    """
    pointer = channels.find(services.store, failed.model_id, channel)
    if failed.verdict != "failed" or pointer is None or pointer.version != failed.version:
        return None

    def outcome(reason: str, *, to: str | None = None, moved: bool = False) -> Demotion:
        log.info("%s@%s: %s", failed.model_id, channel, reason)
        return Demotion(
            model_id=failed.model_id, channel=channel, version=failed.version, to=to, moved=moved, reason=reason
        )

    if pointer.held:
        return outcome("a person holds the channel; it was not moved")
    to = _successor(failed, services=services, now=now, trust=trust or Trust(), known=known)
    if to is None:
        return outcome("no older version passes its audit; the channel was not moved")
    if dry_run:
        return outcome(f"would move to {to} and be held there", to=to)
    moved = MoveReason(kind="demoted", by=by, why=f"{failed.version} failed its audit: {failed.reason}")
    try:
        channels.move(
            services.store, failed.model_id, channel, to, reason=moved, now=now, expected=failed.version, held=True
        )
    except VersionConflict:
        return outcome("another writer moved the channel meanwhile; it was not moved again")
    return outcome(f"moved to {to} and held there", to=to, moved=True)


def _successor(failed: Audit, *, services: Services, now: datetime, trust: Trust, known: Iterable[Audit]) -> str | None:
    done = {(each.model_id, each.version): each for each in known}
    for found in _older(failed, store=services.store):
        made = done.get((found.model_id, found.version)) or audit.audit(
            Target(model_id=found.model_id, version=found.version, trust=trust), services=services, now=now
        )
        if made.verdict == "passed":
            return found.version
    return None


def _older(failed: Audit, *, store: ObjectStore) -> list[Bundle]:
    """Return the versions older than the one that failed, newest first; all others where its manifest is gone."""
    models = listing.list_models(store, model_id=failed.model_id)
    readable = {
        version: found for model in models for version in model.versions if (found := _find(failed, version, store))
    }
    newest = readable.pop(failed.version, None)
    before = newest.manifest.bundle.created_at if newest else datetime.max.replace(tzinfo=UTC)
    older = [
        found
        for found in readable.values()
        if found.manifest.bundle.created_at < before
        and (found.manifest.regression is None or found.manifest.regression.verdict != "held")
    ]
    return sorted(older, key=lambda found: found.manifest.bundle.created_at, reverse=True)


def _find(failed: Audit, version: str, store: ObjectStore) -> Bundle | None:
    try:
        return bundle.find(Ref(model_id=failed.model_id, channel=None, version=version), store=store)
    except (BundleNotFound, BundleCorrupt):
        return None
