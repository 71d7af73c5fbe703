"""``onnx-fleet audit``: published bundles, hashed and proven again with what is installed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, feed
from onnx_fleet.cli import step_display, terminal
from onnx_fleet.cli.options import CatalogueFile, Json, OnlyPublished, Store
from onnx_fleet.cli.run import new_run_id
from onnx_fleet.cli.settings import opened_services, user
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import Retryable
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import audit as auditing
from onnx_fleet.runs import audit_report, rollback
from onnx_fleet.runs.audit import Audit, Target
from onnx_fleet.runs.audit_report import AuditRow
from onnx_fleet.runs.services import Services


def audit(
    only: OnlyPublished = None,
    channel: Annotated[
        str, typer.Option(help="Audit the version that this channel of each model points to.")
    ] = bundle.LATEST,
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Audit every version instead.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Audit at most this many bundles, chosen by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed chooses other bundles.")] = 0,
    catalogue_file: CatalogueFile = None,
    demote: Annotated[
        bool,
        typer.Option("--demote", help="If a version fails, move its channel to an older one that passes."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --demote: show which channels would move, and move none.")
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Hash and validate published bundles again with the currently installed packages; exit status 1 if one fails.

    Results are written under audits/ in the store; bundles are not changed. The catalogue decides which sources' code
    and pickle files may be run for the comparison.
    """
    if dry_run and not demote:
        raise typer.BadParameter("it needs --demote", param_hint="--dry-run")
    with opened_services(store, many_steps=True) as services:
        entries = reader.load(catalogue_file).entries if catalogue_file else ()
        targets = auditing.choose(
            services.store,
            channel=channel,
            all_versions=all_versions,
            only=only or (),
            sample=sample,
            seed=seed,
            entries=entries,
        )
        if not targets and not as_json:
            terminal.say(f"{services.store.address} has no channel {channel!r} that points to a version")
        made, rows = _audit(targets, services=services)
        if demote:
            rows = _demote(rows, targets, services=services, channel=channel, dry_run=dry_run, known=made)
    if as_json:
        terminal.as_json(
            {"audits": [jsonio.to_json(each) for each in made], "rows": [jsonio.to_json(row) for row in rows]}
        )
    else:
        _show(rows, where=services.store.address)
    if not audit_report.gate(rows).passed:
        raise typer.Exit(1)


def _audit(targets: Sequence[Target], *, services: Services) -> tuple[tuple[Audit, ...], tuple[AuditRow, ...]]:
    """Every result, and a row for each bundle, also where nothing was found out."""
    made, rows = [], []
    with step_display.steps() as steps:
        for number, target in enumerate(targets, 1):
            steps.begin(ref_of(target), f"audit {number} of {len(targets)}")
            try:
                found = auditing.audit(target, services=services, now=datetime.now(UTC), progress=steps.bytes_moved)
            except Retryable as err:
                rows.append(audit_report.broken_off(target, err))
            else:
                made.append(found)
                rows.append(audit_report.row(found))
            steps.note(f"{ref_of(target)}: {terminal.coloured(rows[-1].verdict)}")
        steps.end()
    return tuple(made), tuple(rows)


def _demote(
    rows: Iterable[AuditRow],
    targets: Iterable[Target],
    *,
    services: Services,
    channel: str,
    dry_run: bool,
    known: Sequence[Audit],
) -> tuple[AuditRow, ...]:
    """The same rows, with what became of the channels."""
    trust = {(target.model_id, target.version): target.trust for target in targets}
    failed = {(each.model_id, each.version): each for each in known if each.verdict == "failed"}
    told, moved = [], False
    by = Actor(kind="audit", name=new_run_id(), asked_by=user())
    for row in rows:
        key = (row.model_id, row.version)
        found = (
            rollback.demote(
                failed[key],
                channel=channel,
                services=services,
                by=by,
                now=datetime.now(UTC),
                trust=trust[key],
                dry_run=dry_run,
                known=known,
            )
            if key in failed
            else None
        )
        moved = moved or bool(found and found.moved)
        told.append(replace(row, demotion=found))
    if moved:
        feed.rebuild(services.store, now=datetime.now(UTC))
    return tuple(told)


def _show(rows: Sequence[AuditRow], *, where: str) -> None:
    terminal.table(
        ("model", "version", "verdict", "packages changed", "worst diff"),
        [
            (
                row.model_id,
                row.version,
                terminal.state_cell(row.verdict),
                ", ".join(row.changed) or "–",
                "–" if row.worst_abs_diff is None else f"{row.worst_abs_diff:.1e}",
            )
            for row in rows
        ],
        numbers=("worst diff",),
        prose=("packages changed",),
        below=("packages changed", "worst diff", "version"),
    )
    for row in rows:
        if row.verdict != "passed":
            terminal.console.print(f"\n[bold]{ref_of(row)}[/] {terminal.coloured(row.verdict)}", highlight=False)
            terminal.paragraphs(row.reason, *_details(row, where=where))
        if row.demotion:
            terminal.line(f"{row.model_id}@{row.demotion.channel}: {row.demotion.reason}")
    if rows:
        terminal.say(f"\n{audit_report.gate(rows, max_failed=len(rows)).reason}; results: {where}/audits/")


def _details(row: AuditRow, *, where: str) -> Iterator[str]:
    """What a person needs beside the reason: by name what failed, where the whole result is, and what to do."""
    if row.files:
        yield f"files: {', '.join(row.files)}"
    if row.checks:
        yield f"failed: {', '.join(row.checks)}"
    if row.key:
        yield f"result: {where}/{row.key}"
    yield f"next: {audit_report.advice(row)}"
