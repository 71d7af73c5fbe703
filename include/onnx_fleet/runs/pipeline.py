"""The way through for one model: what a run decides for it, its steps in a row, and the record of its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from onnx_fleet.bundles import bundle, costs, feed, publish, renames
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.bundles.publish import Publication
from onnx_fleet.bundles.signing_key import SigningKey
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.entities.work_item import Plan, WorkItem
from onnx_fleet.errors import OnnxFleetError
from onnx_fleet.planning import plan as planning
from onnx_fleet.planning import sizing
from onnx_fleet.processes import profiling
from onnx_fleet.runs import claims, record, spending
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.spending import Spending
from onnx_fleet.runs.steps import Job, StepName, steps_of
from onnx_fleet.store import Progress
from onnx_fleet.store.concurrency import at_once

log = logging.getLogger(__name__)


def plan(
    entries: Iterable[Entry], *, services: Services, force: str | None = None, channel: str = bundle.LATEST
) -> Plan:
    """Resolve every entry and say what is to be done with it; what the Hub refuses is in the plan too."""
    with profiling.timed("imports"):
        from onnx_fleet.source import resolve  # huggingface_hub takes 0.2 s

    with profiling.timed("plan"):
        models, refused = resolve.resolve_all(entries, hub=services.hub)
        made = planning.plan(models, store=services.store, force=force, channel=channel)
        made = sizing.sized(made, store=services.store, largest_worker=services.largest_worker)
    return Plan(items=made.items, refusals=(*refused, *made.refusals))


def process(
    item: WorkItem,
    *,
    services: Services,
    provenance: Provenance,
    by: Actor,
    machine: Path,
    channel: str = bundle.LATEST,
    signing_key: SigningKey | None = None,
    on_step: Callable[[StepName], None] = lambda step: None,
    on_wait: Callable[[str], None] = lambda reason: None,
    progress: Progress | None = None,
) -> Record:
    """Take a new or changed model through all of its steps; return one record and raise nothing, however it ends.

    A model that another run is making is waited for, and what that run has published is not made again.

    Args:
        by: who moves the channel.
        machine: the folder in which steps that measure lock out the others of this machine.
        signing_key: what the bundle is signed with; None signs nothing.
        on_step: is told when a step begins.
        on_wait: is told why the model is waited for.
        progress: is told of the download and the upload, in bytes.
    """
    run, store = provenance.run_id, services.store
    stage = services.stage(item)
    try:
        if not claims.wait(item.model_id, item.version, run=run, store=store, on_wait=on_wait):
            return record_of_another_runs(item, services=services, by=by, channel=channel)
    except OnnxFleetError as err:
        error, message = type(err).__name__, str(err)
        return record_of_failure(stage, step="export", error=error, message=message, spent={})
    job = Job(
        stage=stage,
        services=services,
        provenance=provenance,
        by=by,
        channel=channel,
        progress=progress,
        signing_key=signing_key,
    )
    with claims.renewed(item.model_id, run=run, store=store):
        return _made(item, job, machine=machine, on_step=on_step)


def _made(item: WorkItem, job: Job, *, machine: Path, on_step: Callable[[StepName], None]) -> Record:
    """Take a model that is claimed through its steps."""
    stage = job.stage
    spent = Spending()
    for step in steps_of(item):
        on_step(step.name)
        try:
            with spent.counted(step.name) as count:
                count.take(step, job, machine=machine)
                count.disk_bytes = spending.disk_bytes(stage)
        except Exception as err:
            if not isinstance(err, OnnxFleetError):
                log.exception("%s: %s failed with an unexpected error", ref_of(item), step.name)
            error, message = type(err).__name__, str(err)
            taken = spending.in_records(spent.steps)
            return record_of_failure(stage, step=step.in_records, error=error, message=message, spent=taken)
    taken = spending.in_records(spent.steps)
    try:
        ended = record_of_bundle(item, services=job.services, channel=job.channel, spent=taken)
    except OnnxFleetError as err:
        error, message = type(err).__name__, str(err)
        return record_of_failure(stage, step="publish", error=error, message=message, spent=taken)
    stage.discard()
    return ended


def settle_unchanged(
    items: Iterable[WorkItem],
    *,
    services: Services,
    by: Actor,
    channel: str = bundle.LATEST,
    on_finished: Callable[[Publication], None] = lambda publication: None,
) -> list[Record]:
    """Return the records of models that are published already, and finish publications that a killed run began.

    No single model raises an error: a bundle that cannot be read gets the record of a failure.

    Args:
        by: who moves the channels of those where that is still to be done.
        on_finished: is told of each publication that was finished here, from any thread.
    Raises:
        StoreUnavailable, StoreDenied: the store cannot be asked.
    """
    items = list(items)
    if not items:
        return []
    unfinished = publish.unfinished(services.store)
    records = at_once(
        lambda item: _settle(item, unfinished, services=services, by=by, channel=channel, on_finished=on_finished),
        items,
        threads="settle",
    )
    standing = ((ended.model_id, ended.version) for ended in records if ended.version and ended.state != "failed")
    feed.catch_up(services.store, standing, now=datetime.now(UTC))
    return records


def _settle(
    item: WorkItem,
    unfinished: frozenset[tuple[str, str]],
    *,
    services: Services,
    by: Actor,
    channel: str,
    on_finished: Callable[[Publication], None],
) -> Record:
    try:
        found = _bundle(item, services=services)
        begun = (found.model_id, found.version) in unfinished
        held = publish.settle(
            found.manifest,
            manifest_sha256=found.manifest_sha256,
            store=services.store,
            channel=channel,
            by=by,
            now=datetime.now(UTC),
            begun=begun,
        )
        renames.leave_for(item.model, store=services.store, now=datetime.now(UTC))
    except OnnxFleetError as err:
        return record.of_failure(item, step="publish", error=type(err).__name__, message=str(err))
    if begun:
        on_finished(
            publish.publication_of(
                found.manifest,
                state="published",
                manifest_sha256=found.manifest_sha256,
                store=services.store,
                held=held,
            )
        )
    return _record(item, found, services=services, state="held" if held else "unchanged")


def record_of_another_runs(item: WorkItem, *, services: Services, by: Actor, channel: str = bundle.LATEST) -> Record:
    """Return the record of an item that another run has published since it was planned.

    Args:
        by: who moves the channel where that is still to be done.
    Raises:
        StoreUnavailable, StoreDenied: the store cannot be asked.
    """
    [settled] = settle_unchanged([item], services=services, by=by, channel=channel)
    return replace(settled, reason=f"another run has published it meanwhile; {item.reason}")


def record_of_bundle(
    item: WorkItem,
    *,
    services: Services,
    channel: str = bundle.LATEST,
    spent: Mapping[str, StepCost] | None = None,
) -> Record:
    """Return the record of an item that a run published, read from its manifest; what it took is kept for later plans.

    Args:
        spent: what its steps took, by their names in records.
    """
    found = _bundle(item, services=services)
    if spent:
        costs.keep(spending.to_keep(item, spent, made=found.manifest), store=services.store)
    held = publish.is_held(found.manifest, store=services.store, channel=channel)
    return _record(item, found, services=services, state="held" if held else "published", spent=spent)


def record_of_failure(stage: Stage, *, step: str, error: str, message: str, spent: Mapping[str, StepCost]) -> Record:
    """Return the record of an item that a step failed on, with the findings of its validation where there are any."""
    return record.of_failure(
        stage.item,
        step=step,
        error=error,
        message=message,
        validation=stage.read_report("validation", ValidationReport),
        gpu=stage.read_report("validation_cuda", ValidationReport),
        spent=spent,
    )


def _bundle(item: WorkItem, *, services: Services) -> Bundle:
    return bundle.find(Ref(model_id=item.model_id, channel=None, version=item.version), store=services.store)


def _record(
    item: WorkItem,
    found: Bundle,
    *,
    services: Services,
    state: Literal["held", "published", "unchanged"],
    spent: Mapping[str, StepCost] | None = None,
) -> Record:
    location = f"{services.store.address}/{found.prefix}".rstrip("/")
    return record.of_bundle(item, state=state, location=location, manifest=found.manifest, spent=spent)
