"""Changes at the Hub, noticed: the models that a run is to be started for, and what else there is to know.

The state of it is one small document in the store, moved by compare-and-swap:

watch/state.json    what the last poll has seen, the commits that runs were started for, and the runs to start

A run is written there before it is started, under the id that it will have, and taken off afterwards. Whatever is
killed in between, the next poll offers the same run again, and whoever starts it finds that it is there already. A
state that is lost is made anew: of a model that it does not know, the store says whether its commit is published.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Literal

from onnx_fleet import jsonio
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.naming import at_commit
from onnx_fleet.entities.resolved_model import is_renamed
from onnx_fleet.errors import (
    BundleNotFound,
    HubRateLimited,
    ModelGated,
    ModelNotFound,
    RefusedByRule,
    Retryable,
)
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.planning.catalogue.reader import Catalogue
from onnx_fleet.runs import watch_report
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.watch_report import Finding, WatchReport
from onnx_fleet.source import admission, poll
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.poll import Memory, RepoState
from onnx_fleet.store import ObjectStore, layout, swaps
from onnx_fleet.store.concurrency import at_once

log = logging.getLogger(__name__)

MAX_REQUESTS: Final = 250
"""The requests of one poll where nobody says otherwise: half of what the Hub allows in five minutes without an account,
so that a run beside it has the other half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A run to start, of the catalogue that is watched: whoever can write to the store must not name another one."""

    run_id: str
    models: Mapping[str, str]
    """The models to take, by the ids of their entries, each with its repo and commit: ``org/name@<sha>``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What one poll leaves for the next."""

    schema_version: Literal[1] = 1
    memory: Memory = field(default_factory=Memory)
    begun: Mapping[str, str] = field(default_factory=dict)
    """The repo and commit of each model that a run was started for last, or that was found published, by the id of its
    entry in small letters."""
    to_start: tuple[Start, ...] = ()
    """The runs that are decided on, and of which nobody has said that they were started."""

    def asked(self) -> dict[str, str]:
        """Return begun, as it will be when every run is started."""
        return dict(self.begun) | {name.lower(): ref for start in self.to_start for name, ref in start.models.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a poll has found, with nothing written yet."""

    report: WatchReport
    state: State
    was: State
    etag: str | None
    """The tag of the document that the state takes the place of; None where there is none."""


def look(
    catalogue: Catalogue,
    *,
    services: Services,
    run_id: str,
    now: datetime,
    room: int,
    max_requests: int | None = MAX_REQUESTS,
) -> Look:
    """Poll the Hub for a catalogue, and decide which models are to be exported; nothing is written.

    Args:
        run_id: the label under which the poll is reported.
        room: the most models that one run takes.
        max_requests: the most requests to the Hub; None makes all that there are.
    Raises:
        HubUnavailable, HubRateLimited, ModelGated: the Hub cannot be asked.
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked.
    """
    was, etag = _read(services.store)
    found = poll.poll(
        catalogue.entries, catalogue.discover, hub=services.hub, memory=was.memory, max_requests=max_requests
    )
    matches = iter(found.matches)
    entries = reader.expand(catalogue, lambda discover: next(matches))
    due, published = _due(found.repos, asked=was.asked(), store=services.store)
    access = _Access(services.hub, None if max_requests is None else max_requests - found.requests)
    listed = {entry.repo_id.lower() for entry in catalogue.entries}
    findings, repos = _findings(entries, found.repos, was.memory.repos, due=due, listed=listed, access=access)
    starting = {each.model_id: due[each.model_id.lower()] for each in findings if each.state == "started"}
    starts = _starts(starting, now=now, room=room)
    return Look(
        report=watch_report.build(
            findings,
            run_id=run_id,
            now=now,
            models=len(entries),
            unasked=sum(entry.repo_id.lower() not in found.repos for entry in entries),
            requests=found.requests + access.requests,
            starts=[start.run_id for start in starts],
        ),
        state=State(
            memory=replace(found.memory, repos=repos),
            begun={**was.begun, **published},
            to_start=(*was.to_start, *starts),
        ),
        was=was,
        etag=etag,
    )


def keep(found: Look, *, store: ObjectStore) -> None:
    """Write what a poll leaves for the next; nothing is written where nothing is new.

    Raises:
        VersionConflict: another poll came between.
    """
    if found.etag is None or found.state != found.was:
        store.replace(layout.WATCH_KEY, _document(found.state), etag=found.etag)


def started(run_ids: Collection[str], *, store: ObjectStore) -> None:
    """Note that runs were started: no poll offers them again.

    Raises:
        VersionConflict: other writers keep coming between.
    """

    def noted() -> None:
        state, etag = _read(store)
        begun = [start for start in state.to_start if start.run_id in run_ids]
        if not begun:
            return
        models = {name.lower(): ref for start in begun for name, ref in start.models.items()}
        left = tuple(start for start in state.to_start if start.run_id not in run_ids)
        changed = replace(state, begun={**state.begun, **models}, to_start=left)
        store.replace(layout.WATCH_KEY, _document(changed), etag=etag)

    swaps.repeated(noted)


def _read(store: ObjectStore) -> tuple[State, str | None]:
    """Return the state and its tag; one that cannot be read counts as none, and is written anew."""
    try:
        data, etag = store.read_tagged(layout.WATCH_KEY)
    except BundleNotFound:
        return State(), None
    try:
        return jsonio.parse(State, data), etag
    except ValueError as err:
        log.warning("%s/%s cannot be read and is written again: %s", store.address, layout.WATCH_KEY, err)
        return State(), etag


def _document(state: State) -> bytes:
    return jsonio.canonical(jsonio.to_json(state))


def _due(
    repos: Mapping[str, RepoState], *, asked: Mapping[str, str], store: ObjectStore
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the repo and commit of each model that no run was asked for: those to export, and those published.

    A version of the commit that stands in the store will do, whatever its settings are: a run has been there.
    """

    def is_published(ref: str) -> bool:
        model_id, _, commit = ref.rpartition("@")
        listed = store.list(f"{layout.model_prefix(model_id)}{commit[:8]}-")
        return any(layout.MANIFEST_KEY.fullmatch(info.key) for info in listed)

    refs = {name: f"{state.repo_id}@{state.commit}" for name, state in repos.items() if state.commit}
    new = {name: ref for name, ref in refs.items() if asked.get(name) != ref}
    stands = dict(zip(new, at_once(is_published, new.values(), threads="watch"), strict=True))
    due = {name: ref for name, ref in new.items() if not stands[name]}
    return due, {name: ref for name, ref in new.items() if stands[name]}


class _Access:
    """Asks whether the token has access to gated repos, within what is left of the poll's requests."""

    def __init__(self, hub: Hub, left: int | None) -> None:
        self._hub = hub
        self._left = left
        self.requests = 0

    def require(self, state: RepoState, *, subject: str) -> None:
        """Refuse a gated repo to which there is no access.

        Raises:
            ModelGated: there is none.
            HubUnavailable, HubRateLimited: it could not be asked.
        """
        if state.gated and self._hub.settings.token:
            if self._left is not None and self.requests >= self._left:
                raise HubRateLimited(f"{subject}: the poll has made all the requests that it may")
            self.requests += 1
        admission.require_access(state.repo_id, gated=state.gated, hub=self._hub, subject=subject)


def _findings(
    entries: Iterable[Entry],
    repos: Mapping[str, RepoState],
    before: Mapping[str, RepoState],
    *,
    due: Collection[str],
    listed: Collection[str],
    access: _Access,
) -> tuple[list[Finding], dict[str, RepoState]]:
    """Say what there is to know of each model, and what to keep of the repos for the next poll.

    Args:
        before: what the Hub said before.
        due: the models whose commit is to be exported.
        listed: the models that the catalogue lists, and no search had to find.
    """
    findings, kept = [], dict(repos)
    for entry in entries:
        name = entry.repo_id.lower()
        if name not in repos:
            continue
        try:
            finding = _finding(
                entry,
                before.get(name),
                repos[name],
                is_due=name in due,
                is_listed=name in listed,
                access=access,
            )
            findings += [finding] if finding else []
        except Retryable as err:
            log.warning("%s: is looked at again by the next poll: %s", entry.repo_id, err)
            del kept[name]
            kept |= {name: before[name]} if name in before else {}
    return findings, kept


def _finding(
    entry: Entry, before: RepoState | None, state: RepoState, *, is_due: bool, is_listed: bool, access: _Access
) -> Finding | None:
    """Say what there is to know of one model; None where that is nothing new.

    Args:
        is_due: whether its commit is not published, and no run was asked for it.
        is_listed: whether the catalogue lists it, and no search had to find it.
    """
    if state.commit is None:
        was_gone = before is not None and before.commit is None
        return None if was_gone else Finding(model_id=entry.repo_id, state="gone", message=state.gone)
    changes = _changes(entry, before, state) if before else ()
    if before is None and is_due:
        changes = ("new in the catalogue" if is_listed else "a new match of a search",)
    if not is_due and not changes:
        return None
    subject = at_commit(state.repo_id, state.commit)
    try:
        admission.require_id(state.repo_id, entry)
        admission.require_licence(state.licence, entry, subject=subject, is_whole=False)
        access.require(state, subject=subject)
    except (RefusedByRule, ModelGated, ModelNotFound) as err:
        if not changes:
            return None  # it was told when it came to be so
        return Finding(
            model_id=entry.repo_id,
            state="refused",
            commit=state.commit,
            changes=changes,
            error=type(err).__name__,
            message=str(err),
        )
    return Finding(
        model_id=entry.repo_id,
        state="started" if is_due else "noted",
        commit=state.commit,
        changes=changes or ("it may be exported now",),
    )


def _changes(entry: Entry, before: RepoState, state: RepoState) -> tuple[str, ...]:
    """Say what the Hub says now and did not say before."""
    said = []
    if before.commit is None:
        said.append("it is there again")
    elif state.commit and state.commit != before.commit:
        said.append(f"commit {before.commit[:7]} -> {state.commit[:7]}")
    if is_renamed(entry.repo_id, to=state.repo_id) and state.repo_id != before.repo_id:
        said.append(f"renamed to {state.repo_id}: write that id in the catalogue")
    if state.gated != before.gated:
        said.append("gated now" if state.gated else "no longer gated")
    if state.licence != before.licence and before.commit is not None:
        said.append(f"licence {before.licence or 'none'} -> {state.licence or 'none'}")
    return tuple(said)


def _starts(models: Mapping[str, str], *, now: datetime, room: int) -> tuple[Start, ...]:
    """Deal models to runs; the ids of the runs stand in the order of their times."""
    names, starts = list(models), []
    for first in range(0, len(names), room):
        taken = {name: models[name] for name in names[first : first + room]}
        digest = hashlib.sha256(jsonio.canonical(taken)).hexdigest()
        run_id = f"watch__{now.astimezone(UTC):%Y%m%dT%H%M%SZ}_{digest[:8]}"
        starts.append(Start(run_id=run_id, models=taken))
    return tuple(starts)
