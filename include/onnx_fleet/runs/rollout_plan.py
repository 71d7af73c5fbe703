"""What a run takes of a catalogue while a change is rolled out: the models whose turn it is; the others wait.

Only models wait that are exported again for the change alone. A new model, a new commit, an entry that was changed and
a model that is named by its id are taken whatever state the rollout is in, and pass their own gates.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from onnx_fleet import errors
from onnx_fleet.bundles import bundle, publish
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.entities.work_item import Plan, WorkItem
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, Retryable, VersionConflict
from onnx_fleet.planning.catalogue.reader import Catalogue
from onnx_fleet.planning.fingerprint import of_defaults
from onnx_fleet.runs import canary_waves, record, rollout, rollout_channels
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.rollout import Member, Outcome, Rollout, Wave
from onnx_fleet.store import ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a run is asked for, as far as rollouts are concerned."""

    catalogue: Catalogue
    named: frozenset[str] = frozenset()
    """The ids, in small letters, by which the run names models: those are taken now."""
    is_whole: bool = True
    """Whether the run takes the whole catalogue, so that what it does not find there is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """What a run takes, and what waits."""

    plan: Plan
    """The plan without the models that wait."""
    waiting: tuple[Record, ...] = ()
    rollout: Rollout | None = None
    """The rollout that the run is part of; None where nothing is rolled out."""


def divide(
    planned: Plan, *, scope: Scope | None, store: ObjectStore, channel: str, now: datetime, dry_run: bool = False
) -> Division:
    """Find the rollout that a plan belongs to, or begin one, and take the models whose turn it is.

    Args:
        scope: None takes everything.
        dry_run: say what a run would take, and write nothing.
    Raises:
        BundleCorrupt: the document of a rollout is not readable.
        StoreUnavailable, StoreDenied: the store cannot be asked.
    """
    if scope is None or not planned.items:
        return Division(plan=planned)
    target = rollout.id_of(channel, of_defaults(scope.catalogue.defaults, versions=planned.items[0].toolchain))
    moved = {
        item.model_id: item
        for item in planned.items
        if item.cause in ("toolchain", "defaults") and item.model.entry.repo_id.lower() not in scope.named
    }
    if not dry_run:
        _supersede(planned, target=target, store=store, channel=channel, now=now)
    found = _found(moved, target, scope=scope, store=store, channel=channel, now=now, dry_run=dry_run)
    if found is not None and not dry_run:
        found = rollout_channels.settle(found, store=store, now=now)
    if found is None or found.state == "done":
        return Division(plan=planned)
    if not dry_run:
        found = _without_what_left(found, planned, scope=scope, store=store)
    waiting = [item for item in planned.items if _waits(item, moved=moved, found=found, scope=scope)]
    names = {item.model_id for item in waiting}
    taken = replace(planned, items=tuple(item for item in planned.items if item.model_id not in names))
    if not dry_run:
        found = rollout_channels.release(found, {item.model_id for item in taken.items}, store=store, now=now)
    return Division(
        plan=taken,
        waiting=tuple(record.of_waiting(item, rollout_id=found.rollout_id) for item in waiting),
        rollout=found,
    )


def _supersede(planned: Plan, *, target: str, store: ObjectStore, channel: str, now: datetime) -> None:
    """End the rollouts of another toolchain, or of other defaults, that are about models of this plan."""
    models = {item.model_id for item in planned.items}
    for other in rollout.listed(store):
        is_live = other.state in ("running", "stopped") or not other.channels_moved
        about = {each.model_id for wave in other.waves for each in wave.members}
        if other.rollout_id == target or other.channel != channel or not is_live or not about & models:
            continue
        ended = rollout.update(store, other.rollout_id, _superseded)
        rollout_channels.settle(ended, store=store, now=now)
        log.info("the rollout %s is superseded by the one to %s", other.rollout_id, target)


def _superseded(standing: Rollout) -> Rollout:
    if standing.state not in ("running", "stopped"):
        return standing
    return replace(standing, state="superseded", channels_moved=not standing.taken_back)


def _found(
    moved: Mapping[str, WorkItem],
    target: str,
    *,
    scope: Scope,
    store: ObjectStore,
    channel: str,
    now: datetime,
    dry_run: bool,
) -> Rollout | None:
    """Return the rollout to this toolchain and these defaults; one is begun where enough models follow."""
    standing, etag = rollout.find(store, target)
    if standing is not None and standing.state == "superseded" and not standing.channels_moved and not dry_run:
        rollout_channels.settle(standing, store=store, now=now)
        standing, etag = rollout.find(store, target)
    if standing is not None and standing.state != "superseded":
        return standing
    canary = scope.catalogue.canary
    dealt = canary_waves.waves(moved.values(), shares=canary.shares, seed=target)
    if len(moved) < canary.min_models or len(dealt) < 2:
        return None
    begun = Rollout(
        rollout_id=target,
        channel=channel,
        began_at=now.astimezone(UTC).replace(microsecond=0),
        changes=dict(Counter(str(change) for item in moved.values() for change in item.changes)),
        waves=tuple(Wave(members=tuple(map(_member, wave))) for wave in dealt),
    )
    if not dry_run:
        try:
            rollout.put(store, begun, etag=etag)
        except VersionConflict:
            return rollout.read(store, target)  # another run has begun it at the same time
        log.info("the rollout %s begins: %d models in %d waves", target, begun.models, len(begun.waves))
    return begun


def _member(item: WorkItem) -> Member:
    return Member(model_id=item.model_id, repo_id=item.model.entry.repo_id, architecture=item.model.architecture)


def _waits(item: WorkItem, *, moved: Mapping[str, WorkItem], found: Rollout, scope: Scope) -> bool:
    if found.state == "stopped":
        went_back = item.model_id in found.taken_back and item.state == "unchanged"
        return item.model_id in moved or (went_back and item.model.entry.repo_id.lower() not in scope.named)
    is_last = found.current + 1 == len(found.waves)
    return item.model_id in moved and not is_last and item.model_id not in found.open


def _without_what_left(found: Rollout, planned: Plan, *, scope: Scope, store: ObjectStore) -> Rollout:
    """Decide on the models of a wave that no record of this run will decide on."""
    if found.state != "running":
        return found
    items = {item.model_id: item for item in planned.items}
    refused = {refusal.repo_id.lower(): refusal for refusal in planned.refusals}

    def outcome(member: Member) -> Outcome | None:
        item, refusal = items.get(member.model_id), refused.get(member.repo_id.lower())
        if item is not None and item.state == "unchanged":
            return _published(item, found, store=store)
        if item is not None and item.cause != "own":
            return None
        if item is not None:
            return Outcome(verdict="left", message=f"it is exported for a reason of its own: {item.reason}")
        if refusal is not None:
            passes = isinstance(errors.named(refusal.error, ""), Retryable)
            return None if passes else Outcome(verdict="left", error=refusal.error, message=refusal.message)
        return Outcome(verdict="left", message="it is no longer in the catalogue") if scope.is_whole else None

    open_models = set(found.wave.undecided)
    decided = {
        member.model_id: made
        for member in found.wave.members
        if member.model_id in open_models and (made := outcome(member))
    }

    def with_decided(standing: Rollout) -> Rollout:
        if (standing.state, standing.current) != (found.state, found.current):
            return standing
        return standing.with_wave(replace(standing.wave, outcomes={**decided, **standing.wave.outcomes}))

    return rollout.update(store, found.rollout_id, with_decided) if decided else found


def _published(item: WorkItem, found: Rollout, *, store: ObjectStore) -> Outcome | None:
    """Return the outcome of a model that an earlier run published, by its manifest; None where that is not readable."""
    try:
        stands = bundle.find(Ref(model_id=item.model_id, channel=None, version=item.version), store=store).manifest
    except (BundleNotFound, BundleCorrupt):
        return None
    findings = record.told(stands.regression)
    if publish.is_held(stands, store=store, channel=found.channel):
        message = "its gates keep the channel from it"
        return Outcome(verdict="failed", version=item.version, message=message, findings=findings)
    return Outcome(verdict="passed", version=item.version, findings=findings)
