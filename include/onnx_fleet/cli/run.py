"""The commands that walk a catalogue: plan, run, check."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet import errors, jsonio
from onnx_fleet.bundles import bundle, feed
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.cli import step_display, tables, terminal, waves
from onnx_fleet.cli.options import (
    AllWaves,
    CatalogueFile,
    Changed,
    Channel,
    EntryOptions,
    Force,
    Jobs,
    Json,
    MaxFailed,
    MaxRefused,
    Model,
    Only,
    Profile,
    RetryFailed,
    Since,
    Store,
    with_entry_options,
)
from onnx_fleet.cli.settings import opened_services, run_actor, signing_key
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.work_item import Plan, WorkItem
from onnx_fleet.errors import OnnxFleetError
from onnx_fleet.planning import sizing
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes import profiling, progress
from onnx_fleet.runs import pipeline, rollout_report, run_report, selection, side_by_side, work_folder
from onnx_fleet.runs import record as records
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.selection import Selection, Wanted
from onnx_fleet.runs.services import Services

catalogue_app = typer.Typer(help="Check a catalogue file.", no_args_is_help=True)


@catalogue_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A catalogue file.", show_default=False)], as_json: Json = False
) -> None:
    """Check a catalogue file, and report every fault with its line. The exit status is 1 if there is one."""
    found = reader.load(file)
    if as_json:
        terminal.as_json({"models": len(found.entries), "discover": len(found.discover), "digest": found.digest})
    else:
        terminal.line(f"{file}: {len(found.entries)} models and {len(found.discover)} Hub searches, no faults")


@with_entry_options
def plan(
    model: Model = None,
    catalogue_file: CatalogueFile = None,
    only: Only = None,
    since: Since = None,
    retry_failed: RetryFailed = None,
    *,
    changed: Changed = False,
    entry: EntryOptions,
    force: Force = False,
    max_failed: MaxFailed = 0,
    max_refused: MaxRefused = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do and why, and what memory, disk and time it is predicted to take. Nothing is exported.

    The exit status is 1 if that of the run would be: a model cannot be resolved, or too many are refused.
    """
    with opened_services(store) as services:
        part = selected(only, since, retry_failed)
        wanted = wanted_entries(services, model, catalogue_file, part, entry=entry, force=force)
        made = planned(wanted.entries, services=services, force=new_run_id() if force else None)
        divided = waves.divided(made, wanted.scope, store=services.store, channel=bundle.LATEST, dry_run=True)
        made = divided.plan.changed() if changed else divided.plan
    together = sizing.total(made)
    if as_json:
        waiting = [jsonio.to_json(each) for each in divided.waiting]
        total = jsonio.to_json(together) if together else None
        terminal.as_json({**jsonio.to_json(made), "waiting": waiting, "total": total})
    else:
        tables.show_plan(made, waiting=divided.waiting, total=together)
        if divided.rollout:
            terminal.paragraphs(rollout_report.statement(divided.rollout))
    ended = run_report.build(map(records.of_refusal, made.refusals), run_id="plan", now=datetime.now(UTC))
    _require_passed(ended, max_failed=max_failed, max_refused=max_refused, one_model=model is not None)


@with_entry_options
def run(
    model: Model = None,
    catalogue_file: CatalogueFile = None,
    only: Only = None,
    since: Since = None,
    retry_failed: RetryFailed = None,
    *,
    changed: Changed = False,
    entry: EntryOptions,
    force: Force = False,
    all_waves: AllWaves = False,
    jobs: Jobs = None,
    channel: Channel = bundle.LATEST,
    max_failed: MaxFailed = 0,
    max_refused: MaxRefused = None,
    store: Store = None,
    profile: Profile = False,
    as_json: Json = False,
) -> None:
    """Run the whole flow: resolve, plan, export, validate, measure, compare, publish.

    If many models of a catalogue are changed only by a new version of a package, or by the catalogue's defaults, they
    follow in waves, and a run takes one wave. `onnx-fleet rollout` shows how far they are.

    Models go through their steps side by side; with --profile one after the other.
    """
    run_id = new_run_id()
    by = run_actor(run_id)
    key = signing_key()
    with recording(profile) as recorder, opened_services(store, many_steps=True) as services:
        part = selected(only, since, retry_failed)
        wanted = wanted_entries(services, model, catalogue_file, part, entry=entry, force=force)
        made = planned(wanted.entries, services=services, force=run_id if force else None, channel=channel)
        division = partial(waves.divided, made, wanted.scope, store=services.store, channel=channel)
        divided = division()
        provenance = Provenance(
            dag_id="onnx-fleet run", run_id=run_id, trigger="manual", catalogue_digest=wanted.catalogue_digest
        )
        unchanged = [item for item in divided.plan.items if item.state == "unchanged" and not changed]
        settled = [
            *(records.of_refusal(refusal) for refusal in made.refusals),
            *pipeline.settle_unchanged(unchanged, services=services, by=by, channel=channel),
        ]
        profiles: dict[str, profiling.Profile] = {}
        work_folder.prune(services.work_dir)
        corner = replace(services, work_dir=work_folder.of_run(services.work_dir, run_id))
        with step_display.steps() as steps:

            def take(item: WorkItem) -> Record:
                line = steps.another()
                with progress.listening(line.told), profiling.part() as measured:
                    ended = pipeline.process(
                        item,
                        services=corner,
                        provenance=provenance,
                        by=by,
                        machine=services.work_dir,
                        channel=channel,
                        signing_key=key,
                        on_step=partial(line.begin, item.model_id),
                        on_wait=line.note,
                        progress=line.bytes_moved,
                    )
                    if measured:
                        profiles[item.model_id] = measured.profile()
                line.end()
                return ended

            def take_all(items: Sequence[WorkItem]) -> list[Record]:
                at_once = 1 if profile else jobs or side_by_side.fitting(items)
                return side_by_side.each(take, items, jobs=at_once)

            walked = waves.walk(
                divided,
                take_all,
                others=settled,
                again=division,
                store=services.store,
                all_waves=all_waves,
            )
        left = [stage for stage in map(corner.stage, made.to_export) if stage.folder.exists()]
        if not left:
            shutil.rmtree(corner.work_dir, ignore_errors=True)
        rolled_out = rollout_report.statement(walked.rollout) if walked.rollout else None
        summary = run_report.build(
            [*settled, *walked.records], run_id=run_id, now=datetime.now(UTC), rollout=rolled_out
        )
        run_report.write(summary, store=services.store)
        if summary.counts["published"] or summary.counts["held"]:
            feed.rebuild(services.store, now=datetime.now(UTC))
        costs = profiling.RunProfile(run_id=run_id, whole=recorder.profile(), models=profiles) if recorder else None
        if costs:
            profiling.write(services.work_dir / "profiles" / f"{run_id}.json", costs)
    if as_json:
        terminal.as_json(with_profile(jsonio.to_json(summary), costs))
    else:
        terminal.records(summary.records)
        for stage in left:
            terminal.say(f"{stage.item.model_id}: the graphs and reports made so far are kept in {stage.folder}")
        if catalogue_file and summary.counts["failed"] + summary.counts["held"]:
            terminal.say(f"to take what failed or is held alone: --retry-failed {run_id}")
        if summary.rollout:
            terminal.paragraphs(summary.rollout)
            if walked.goes_on:
                terminal.say("to take the next wave, run the same command again, or use --all-waves")
        if costs:
            terminal.profile(costs.whole)
    _require_passed(summary, max_failed=max_failed, max_refused=max_refused, one_model=model is not None)


def wanted_entries(
    services: Services,
    model: str | None,
    file: Path | None,
    wanted: Selection,
    *,
    entry: EntryOptions,
    force: bool = False,
) -> Wanted:
    """The entries that a command is about, and what else there is to know of their catalogue where they have one."""
    given = entry.given()
    if (model is None) == (file is None):
        raise typer.BadParameter("name one model, or a file with --catalogue", param_hint="MODEL")
    if file is None:
        if wanted != Selection():
            raise typer.BadParameter("it chooses among the models of a catalogue", param_hint="MODEL")
        return Wanted(entries=(reader.entry({"repo_id": model, **given}, source=str(model)),))
    if given:
        raise typer.BadParameter(
            "this option is for one model; write it into the catalogue", param_hint=f"--{next(iter(given))}"
        )
    return selection.wanted(reader.load(file), wanted, services=services, force=force)


def selected(only: list[str] | None, since: datetime | None, retry_failed: str | None) -> Selection:
    """The part of a catalogue that the options ask for."""
    return Selection(
        only=tuple(only or ()),
        since=since.replace(tzinfo=UTC) if since else None,
        retry_failed=retry_failed,
    )


def planned(
    entries: Iterable[Entry], *, services: Services, force: str | None = None, channel: str = bundle.LATEST
) -> Plan:
    with terminal.console.status("asking the Hub and the store"):
        return pipeline.plan(tuple(entries), services=services, force=force, channel=channel)


def _require_passed(
    summary: run_report.RunReport, *, max_failed: int, max_refused: int | None, one_model: bool
) -> None:
    """Exit status 1 where the run's gate does not pass: a single model that is refused is one that was asked for."""
    if max_refused is None and one_model:
        max_refused = 0
    if not run_report.gate(summary, max_failed=max_failed, max_refused=max_refused).passed:
        raise typer.Exit(1)


def recording(asked: bool) -> AbstractContextManager[profiling.Profiler | None]:
    return profiling.recording(from_start=True) if asked else nullcontext()


def with_profile(document: jsonio.Json, costs: profiling.Profile | profiling.RunProfile | None) -> jsonio.Json:
    return {**document, "profile": jsonio.to_json(costs)} if costs else document


def raise_refusal(made: Plan) -> None:
    for refusal in made.refusals:
        raise errors.named(refusal.error, refusal.message) or OnnxFleetError(refusal.message)


def new_run_id() -> str:
    return f"cli__{datetime.now(UTC):%Y%m%dT%H%M%S}_{secrets.token_hex(4)}"
