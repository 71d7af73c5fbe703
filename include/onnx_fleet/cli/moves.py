"""The commands that move channels on a person's word, and show what has moved them: promote, rollback, history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle
from onnx_fleet.bundles.channel_history import History, Row
from onnx_fleet.cli import choosing, terminal
from onnx_fleet.cli.options import By, DryRun, Hold, Json, MoveWhy, OfCatalogue, OnlyPublished, Store, Yes
from onnx_fleet.cli.settings import user
from onnx_fleet.entities.channel_move import Actor, MoveKind, MoveReason
from onnx_fleet.runs import channel_moves
from onnx_fleet.runs.channel_moves import Proposal
from onnx_fleet.store import ObjectStore

OneOrChosen = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="ORG/NAME; leave it out to choose by options.", show_default=False),
]
Version = Annotated[
    str | None,
    typer.Argument(
        metavar="VERSION", help="A version, or a channel that points to it; default: --from.", show_default=False
    ),
]
Run = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="What this run moved, by the name in its report or in a history."),
]


def promote(
    model: OneOrChosen = None,
    version: Version = None,
    *,
    to: Annotated[str, typer.Option("--to", metavar="CHANNEL", help="The channel to move, such as stable.")],
    source: Annotated[
        str, typer.Option("--from", metavar="CHANNEL", help="Promote what this channel of each model points to.")
    ] = bundle.LATEST,
    only: OnlyPublished = None,
    catalogue_file: OfCatalogue = None,
    run: Run = None,
    hold: Hold = False,
    reason: MoveWhy = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Point a channel to a published version: of one model, or of each of many to what another channel points to.

    What the gates of a version have found worse is shown first. With --run, each model is promoted to the version to
    which that run moved the channel that --from names.
    """
    with choosing.published(model, only=only, catalogue_file=catalogue_file, run=run, store=store) as chosen:
        if model and not run:
            proposed: Sequence[Proposal] = [
                channel_moves.to_version(chosen.store, model, to, version or source, held=hold)
            ]
        else:
            if version:
                raise typer.BadParameter("it is for one model; use --from CHANNEL for many", param_hint="VERSION")
            named = _versions(chosen, run, source=source)
            proposed = channel_moves.proposals(
                named, lambda name: channel_moves.to_version(chosen.store, name, to, named[name], held=hold), channel=to
            )
        done = decide(chosen.store, proposed, reason=given("promoted", reason, by), dry_run=dry_run, yes=yes)
    show(done, dry_run=dry_run, as_json=as_json, one=bool(model and not run))


def rollback(
    model: OneOrChosen = None,
    *,
    channel: Annotated[
        str | None,
        typer.Option(help="The channel to move; default: latest, with --run every channel.", show_default=False),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="VERSION", help="Go back to this version, whatever the history says."),
    ] = None,
    only: OnlyPublished = None,
    catalogue_file: OfCatalogue = None,
    run: Run = None,
    reason: MoveWhy = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Point a channel back to where it pointed before, by its history, and hold it there: runs do not move it on.

    A second rollback goes one version further back. With --run, what that run moved goes back, and nothing that was
    moved since. `onnx-fleet promote` or `channel set` releases a channel.
    """
    if to and (run or not model):
        raise typer.BadParameter("it is for one model", param_hint="--to")
    with choosing.published(model, only=only, catalogue_file=catalogue_file, run=run, store=store) as chosen:
        wanted = channel or bundle.LATEST
        if run:
            proposed: Sequence[Proposal] = [
                each
                for each in channel_moves.undoing(chosen.store, run, among=chosen.model_ids)
                if channel in (None, each.channel)
            ]
        elif model:
            proposed = [channel_moves.back(chosen.store, model, wanted, version=to)]
        else:
            names = [each.model_id for each in chosen.models if wanted in each.channels]
            proposed = channel_moves.proposals(
                names, lambda name: channel_moves.back(chosen.store, name, wanted), channel=wanted
            )
        done = decide(chosen.store, proposed, reason=given("rolled_back", reason, by), dry_run=dry_run, yes=yes)
    if any(each.after for each in done):
        terminal.paragraphs("runs leave a held channel alone; `onnx-fleet promote` to a version releases it")
    show(done, dry_run=dry_run, as_json=as_json, one=bool(model and not run))


def history(
    model: OneOrChosen = None,
    *,
    channel: Annotated[
        str | None, typer.Option(help="Only this channel; default: all of them.", show_default=False)
    ] = None,
    only: OnlyPublished = None,
    catalogue_file: OfCatalogue = None,
    run: Run = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show every move of a channel, the newest first: when, by whom, why, from where and to where.

    Versions that were published and held back have a row, too. With --run, only what that run moved is shown.
    """
    with choosing.published(model, only=only, catalogue_file=catalogue_file, run=run, store=store) as chosen:
        if run:
            of_run = channel_moves.touched_by(chosen.store, run, among=chosen.model_ids)
            found = tuple(
                replace(each, rows=tuple(row for row in each.rows if row.by.name == run))
                for each in of_run
                if channel in (None, each.channel)
            )
        else:
            places = [
                (each.model_id, name)
                for each in chosen.models
                for name in ([channel] if channel and model else each.channels)
                if channel in (None, name)
            ]
            found = channel_moves.histories(chosen.store, places)
    if as_json:
        terminal.dataclasses_as_json(found)
    else:
        _show_histories(found)


def _show_histories(found: Sequence[History]) -> None:
    several = len({each.model_id for each in found}) > 1
    columns = ("channel", "when", "what", "from", "to", "by", "why")
    rows = [(row.model_id, *_cells(row)) for each in found for row in reversed(each.rows)]
    terminal.table(
        ("model", *columns) if several else columns,
        rows if several else [row[1:] for row in rows],
        prose=("why",),
        below=("why", "by"),
        named_by=3 if several else 2,
    )
    for each in found:
        terminal.paragraphs(*(f"{each.model_id}@{each.channel}: {problem}" for problem in each.problems))


def _cells(row: Row) -> tuple[str, ...]:
    held = ", held" if row.held and row.kind != "held_back" else ""
    return (
        row.channel,
        f"{row.at:%Y-%m-%d %H:%M}",
        row.kind.replace("_", " ") + held,
        row.from_version or "–",
        row.to_version,
        str(row.by),
        " ".join(row.why.split()),
    )


def given(kind: MoveKind, why: str | None, by: str | None) -> MoveReason:
    """Who moves a channel by a command, and why."""
    said = " ".join((why or "").split())
    return MoveReason(kind=kind, by=Actor(kind="person", name=by or user()), why=said or "no reason was given")


def decide(
    store: ObjectStore, proposed: Sequence[Proposal], *, reason: MoveReason, dry_run: bool, yes: bool
) -> Sequence[Proposal]:
    """Show what is worse, ask the person, and move the channels; returns what became of each."""
    for each in proposed:
        if each.findings and each.compared_with:
            terminal.worse(f"{each.model_id}@{each.version}", each.compared_with, each.findings)
    if dry_run:
        return proposed
    moves = [each for each in proposed if not each.why_not]
    if moves and not yes:
        if len(moves) > 1:
            terminal.paragraphs(*map(_told, moves))
        question = _told(moves[0]) if len(moves) == 1 else f"move these {len(moves)} channels"
        typer.confirm(f"{question}?", abort=True, err=True)
    return channel_moves.carry_out(store, proposed, reason=reason, now=datetime.now(UTC))


def show(done: Sequence[Proposal], *, dry_run: bool, as_json: bool, one: bool) -> None:
    """Print what became of each move; exit status 1 where a channel should have been moved and was not.

    Args:
        one: whether the command was about one channel, so that its document is not a list.
    """
    if as_json:
        documents = [_document(each) for each in done]
        terminal.as_json(documents[0] if one else documents)
    else:
        for each in done:
            moved = "would move" if dry_run else "moved"
            place = f"{each.model_id}@{each.channel}"
            terminal.line(escape(f"{place} stays: {each.why_not}" if each.why_not else f"{moved} {_told(each)}"))
        if not done:
            terminal.say("no channel is to be moved")
    if any(each.failed for each in done):
        raise typer.Exit(1)


def _told(move: Proposal) -> str:
    place = f"{move.model_id}@{move.channel}: {move.before or 'nothing'} -> {move.version}"
    return place + (", held there" if move.held else "")


def _document(move: Proposal) -> jsonio.Json:
    standing = move.after or move.standing
    return {
        "model_id": move.model_id,
        "before": move.before or "nothing",
        "to": move.version,
        "moved": move.after is not None,
        "why_not": move.why_not,
        "findings": list(move.findings),
        "channel": jsonio.to_json(standing) if standing else None,
    }


def _versions(chosen: choosing.Chosen, run: str | None, *, source: str) -> Mapping[str, str]:
    """What to promote of each model: a version, or the channel that points to it."""
    if run is None:
        return dict.fromkeys(sorted(chosen.model_ids), source)
    found = channel_moves.touched_by(chosen.store, run, among=chosen.model_ids)
    return {
        each.model_id: moves[-1].to_version
        for each in found
        if each.channel == source and (moves := channel_moves.moves_by(each, run))
    }
