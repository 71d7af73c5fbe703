"""What a person moves: proposed first, so that it can be read before anything moves, and then carried out.

A way back goes by the history of a channel, in which what was undone no longer counts: a second rollback goes one
version further back, and not forth again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, channels, feed
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.bundles.channel_history import History, Row
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.entities.channel_move import MoveKind, MoveReason
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, OnnxFleetError
from onnx_fleet.runs import run_report
from onnx_fleet.runs.record import told
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.store import ObjectStore, layout
from onnx_fleet.store.concurrency import at_once

log = logging.getLogger(__name__)

_BACKWARDS: Final[frozenset[MoveKind]] = frozenset({"rolled_back", "demoted", "taken_back"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A move of a channel: what it would be, and what became of it."""

    model_id: str
    channel: str
    standing: Channel | None
    """The channel as it stands; None where there is none."""
    version: str | None
    """The version to point it to; None where there is none to go to."""
    held: bool = False
    """Whether runs leave the channel there afterwards."""
    why_not: str = ""
    """A statement of why it does not move; empty where it does."""
    compared_with: str | None = None
    """The version with which its gates compared this one."""
    findings: tuple[str, ...] = ()
    """What of this version its gates found worse."""
    failed: bool = False
    """Whether it was to move and could not: ``why_not`` says why."""
    after: Channel | None = None
    """The channel as it stands after the move; None where there was none."""

    @property
    def before(self) -> str | None:
        """The version that the channel points to."""
        return self.standing.version if self.standing else None


def to_version(
    store: ObjectStore, model_id: str, channel: str, name: str = bundle.LATEST, *, held: bool = False
) -> Proposal:
    """Propose to point a channel to a version.

    Args:
        name: the version, or a channel that points to it.
    Raises:
        BundleNotFound: there is no such version or channel, or no channel can have the name.
        BundleCorrupt: the version's manifest or a channel's document is not readable.
    """
    standing = channels.find(store, model_id, channels.checked_name(channel))
    found = bundle.find(Ref.parse(f"{model_id}@{name}"), store=store)
    judged = found.manifest.regression
    return Proposal(
        model_id=model_id,
        channel=channel,
        standing=standing,
        version=found.version,
        held=held,
        compared_with=judged.compared_with if judged else None,
        findings=told(judged),
    )


def back(store: ObjectStore, model_id: str, channel: str, *, version: str | None = None) -> Proposal:
    """Propose to point a channel back to where it pointed before, and to hold it there.

    Args:
        version: where to go back to, whatever the history says.
    Raises:
        BundleNotFound: there is no such channel or version, or the history names no version before this one that is
            still published.
    """
    standing = channels.read(store, model_id, channel)
    if version is not None:
        return replace(to_version(store, model_id, channel, version, held=True), compared_with=None, findings=())
    way = way_back(channels.history(store, model_id, channel).rows, standing)
    for candidate in reversed(way[:-1]):
        if candidate != standing.version and _is_published(store, model_id, candidate):
            return Proposal(model_id=model_id, channel=channel, standing=standing, version=candidate, held=True)
    raise BundleNotFound(
        f"{model_id}@{channel}: its history names no version before {standing.version} that is still published;"
        f" name one that `onnx-fleet list {model_id}` shows: `onnx-fleet rollback {model_id} --to VERSION`"
    )


def way_back(rows: Sequence[Row], standing: Channel) -> tuple[str, ...]:
    """Return the versions by which a channel came to where it stands, the oldest first; what was undone is left out."""
    if standing.row is None:
        return (*([standing.previous] if standing.previous else []), standing.version)
    way: list[str] = []
    for row in rows:
        if row.kind == "held_back":
            continue
        if row.from_version and way[-1:] != [row.from_version]:
            way.append(row.from_version)
        if row.kind in _BACKWARDS and row.from_version:
            way.pop()
            if row.to_version in way:
                del way[len(way) - way[::-1].index(row.to_version) :]
        if way[-1:] != [row.to_version]:
            way.append(row.to_version)
    return tuple(way)


def undoing(store: ObjectStore, run: str, *, among: Collection[str] | None = None) -> tuple[Proposal, ...]:
    """Propose to undo what a run moved: its channels go back to where they pointed before it, and are held there.

    A channel that somebody has moved or held since stays as it is.

    Args:
        run: the run as its report calls it, or an audit, or the id of a rollout.
        among: the ids of the models to take; None takes all.
    Raises:
        BundleNotFound: no history has a row of this run.
    """
    moved = (past for past in touched_by(store, run, among=among) if moves_by(past, run))
    return tuple(at_once(lambda past: _undoing(store, past, run), moved, threads="channel"))


def histories(store: ObjectStore, places: Iterable[tuple[str, str]]) -> tuple[History, ...]:
    """Return the histories of channels, each named by its model and its own name, in the same order.

    Raises:
        BundleNotFound: there is no such channel.
    """
    return tuple(at_once(lambda place: channels.history(store, *place), places, threads="channel"))


def touched_by(store: ObjectStore, run: str, *, among: Collection[str] | None = None) -> tuple[History, ...]:
    """Return the histories, by model and channel, in which a run has a row.

    Where the run has a report, the histories of its models are read, else those of all models.

    Raises:
        BundleNotFound: there are none.
    """
    of_report = _models_of(store, run)
    keys = (layout.HISTORY_KEY.fullmatch(info.key) for info in store.list(layout.HISTORY))
    places = sorted({(match[1], match[2]) for match in keys if match})
    asked = [
        place
        for place in places
        if (of_report is None or place[0] in of_report) and (among is None or place[0] in among)
    ]
    read = at_once(lambda place: _known_history(store, *place), asked, threads="channel")
    found = [past for past in read if past and any(row.by.name == run for row in past.rows)]
    if not found:
        raise BundleNotFound(
            f"{store.address} has no channel that the run {run!r} moved; write the name in its report, such as"
            " fleet_reexport__manual__2026-01-31T12:00:00+00:00, or one that `onnx-fleet history` shows"
        )
    return tuple(found)


def moves_by(past: History, run: str) -> tuple[Row, ...]:
    """Return the moves of a channel that a run made; what it held back is none."""
    return tuple(row for row in past.rows if row.by.name == run and row.kind != "held_back")


def proposals(models: Iterable[str], propose: Callable[[str], Proposal], *, channel: str) -> tuple[Proposal, ...]:
    """Propose a move for each of several models; one for which there is none says why.

    Raises:
        StoreUnavailable, StoreDenied: the store cannot be asked.
    """

    def one(model_id: str) -> Proposal:
        try:
            return propose(model_id)
        except (BundleNotFound, BundleCorrupt) as err:
            return Proposal(model_id=model_id, channel=channel, standing=None, version=None, why_not=str(err))

    return tuple(at_once(one, models, threads="channel"))


def carry_out(
    store: ObjectStore, proposed: Iterable[Proposal], *, reason: MoveReason, now: datetime
) -> tuple[Proposal, ...]:
    """Move the channels that are proposed to move, and rebuild the feed once; returns what became of each.

    A channel that does not stand where it stood when the move was proposed is left there, and says so. The feed is
    rebuilt also where nothing is left to move: an earlier attempt may have been killed before it came to that.
    """

    def one(asked: Proposal) -> Proposal:
        if asked.version is None or asked.why_not:
            return asked
        try:
            after = channels.move(
                store,
                asked.model_id,
                asked.channel,
                asked.version,
                reason=reason,
                now=now,
                expected=asked.before or channels.NOTHING,
                held=asked.held,
            )
        except OnnxFleetError as err:
            return replace(asked, why_not=str(err), failed=True)
        log.info("%s@%s: moved to %s", asked.model_id, asked.channel, asked.version)
        return replace(asked, after=after)

    done = tuple(at_once(one, proposed, threads="channel"))
    feed.rebuild(store, now=now)
    return done


def _undoing(store: ObjectStore, past: History, run: str) -> Proposal:
    standing = channels.find(store, past.model_id, past.channel)
    moves = [row for row in past.rows if row.kind != "held_back"]
    last = max(number for number, row in enumerate(moves) if row.by.name == run)
    first = last
    while first and moves[first - 1].by.name == run:
        first -= 1
    there, back_to = moves[last].to_version, moves[first].from_version
    proposal = Proposal(model_id=past.model_id, channel=past.channel, standing=standing, version=back_to, held=True)
    since = next((row for row in moves[last + 1 :] if row.to_version != there or row.held), None)
    if standing is None or (since is None and standing.version != there):
        return replace(proposal, why_not="another writer moves it at this moment")
    if since is not None:
        what = f"moved it to {since.to_version}" if since.to_version != there else "has held it there"
        return replace(proposal, why_not=f"{since.by} {what} since: {since.why}")
    if back_to is None:
        return replace(proposal, why_not="this run made the channel, so that there is nothing before to go back to")
    if not _is_published(store, past.model_id, back_to):
        return replace(proposal, why_not=f"{back_to}, to which it pointed before, is no longer published")
    return proposal


def _known_history(store: ObjectStore, model_id: str, channel: str) -> History | None:
    try:
        return channels.history(store, model_id, channel)
    except BundleNotFound:
        return None  # its only row is of a writer that was killed


def _models_of(store: ObjectStore, run: str) -> frozenset[str] | None:
    """Return the models that a run's report has; None where it has none, or is a report of something else."""
    try:
        report = jsonio.parse(RunReport, store.read(run_report.key(run)))
    except (BundleNotFound, ValueError):
        return None
    return frozenset(record.model_id for record in report.records)


def _is_published(store: ObjectStore, model_id: str, version: str) -> bool:
    return store.stat(layout.manifest_key(model_id, version)) is not None
