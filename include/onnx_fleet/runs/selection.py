"""The part of a catalogue that a run is asked to take."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from onnx_fleet import jsonio
from onnx_fleet.bundles import listing
from onnx_fleet.bundles.listing import PublishedModel
from onnx_fleet.entities.entry import Entry
from onnx_fleet.errors import BundleNotFound, HubUnavailable
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.planning.catalogue.reader import Catalogue
from onnx_fleet.runs import run_report
from onnx_fleet.runs.rollout_plan import Scope
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.runs.services import Services
from onnx_fleet.store import ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The models to take: those that everything asked for here is true of."""

    only: tuple[str, ...] = ()
    """Patterns of repo ids; none takes all."""
    allow_unmatched: bool = False
    """Whether a pattern may match nothing; else that is a fault."""
    since: datetime | None = None
    """The time, with a time zone, since which the Hub's repo has had a commit."""
    retry_failed: str | None = None
    """The run, as its report calls it, in which the model failed or was held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The work that a run is asked for."""

    entries: tuple[Entry, ...]
    catalogue_digest: str | None = None
    """None for a model that is named by itself, as is the scope."""
    scope: Scope | None = None
    """What decides which models wait for their turn in a rollout; None lets none wait."""


def wanted(catalogue: Catalogue, selection: Selection, *, services: Services, force: bool = False) -> Wanted:
    """Return what is selected of a catalogue.

    Args:
        force: take everything now, whatever is rolled out.
    Raises:
        CatalogueInvalid, BundleNotFound, HubUnavailable, HubRateLimited, ModelGated: as entries does.
    """
    return Wanted(
        entries=entries(catalogue, selection, services=services),
        catalogue_digest=catalogue.digest,
        scope=None if force else scope(catalogue, selection),
    )


def published(catalogue: Catalogue, *, only: Sequence[str], services: Services) -> tuple[PublishedModel, ...]:
    """Return the published models that are in a catalogue.

    Args:
        only: patterns of ids, of which each matches an entry; none takes all.
    Raises:
        CatalogueInvalid, HubUnavailable, HubRateLimited, ModelGated: as entries does.
    """
    ids = {entry.repo_id.lower() for entry in entries(catalogue, Selection(only=tuple(only)), services=services)}
    return tuple(model for model in listing.list_models(services.store) if model.model_id.lower() in ids)


def entries(catalogue: Catalogue, selection: Selection, *, services: Services) -> tuple[Entry, ...]:
    """Return the entries of a catalogue that are selected; the Hub is asked for no more than that takes.

    Raises:
        CatalogueInvalid: a pattern matches nothing.
        BundleNotFound: the store has no report of the run whose failures are wanted.
        HubUnavailable, HubRateLimited, ModelGated: the Hub cannot be asked.
    """
    failed = None if selection.retry_failed is None else _failed(selection.retry_failed, store=services.store)
    known = _known(catalogue, selection, services)
    chosen = reader.select(known, selection.only, allow_unmatched=selection.allow_unmatched)
    if failed is not None:
        chosen = tuple(entry for entry in chosen if _is_among(entry, failed))
        log.info("%d of the %d models that failed in %s are taken", len(chosen), len(failed), selection.retry_failed)
    return chosen if selection.since is None else _modified(chosen, selection.since, services)


def scope(catalogue: Catalogue, selection: Selection) -> Scope:
    """Return what a selection means for a rollout: a model that is named by its whole id is wanted now."""
    return Scope(
        catalogue=catalogue,
        named=frozenset(pattern.lower() for pattern in selection.only if not re.search(r"[*?\[]", pattern)),
        is_whole=selection == Selection(),
    )


def _known(catalogue: Catalogue, selection: Selection, services: Services) -> tuple[Entry, ...]:
    """Return the entries to select from; what is listed by name needs no search."""
    from onnx_fleet.source import search  # huggingface_hub takes 0.2 s

    listed = {entry.repo_id.lower() for entry in catalogue.entries}
    if selection.only and all(pattern.lower() in listed for pattern in selection.only):
        return catalogue.entries
    return reader.expand(catalogue, lambda discover: search.search(discover, hub=services.hub))


def _failed(run: str, *, store: ObjectStore) -> frozenset[str]:
    """Return the ids, in small letters, of the models that a run's gate counts as failed.

    Raises:
        BundleNotFound: there is no report of that run.
    """
    key = run_report.key(run)
    try:
        report = jsonio.parse(RunReport, store.read(key))
    except BundleNotFound as err:
        raise BundleNotFound(
            f"{store.address}/{key}: there is no report of a run {run!r}; write the name in its report,"
            " such as fleet_reexport__manual__2026-01-31T12:00:00+00:00"
        ) from err
    records = [record for record in report.records if record.state in ("failed", "held")]
    return frozenset((record.renamed_from or record.model_id).lower() for record in records)


def _is_among(entry: Entry, ids: Iterable[str]) -> bool:
    """Say whether one of these ids is an entry's, which may be short: ``gpt2``."""
    name = entry.repo_id.lower()
    return any(each == name or ("/" not in name and each.endswith(f"/{name}")) for each in ids)


def _modified(chosen: tuple[Entry, ...], since: datetime, services: Services) -> tuple[Entry, ...]:
    """Return the entries whose repos have had a commit since then; one that is gone has had none.

    Raises:
        HubUnavailable: the Hub has not said it of every one.
    """
    from onnx_fleet.source import poll

    asked = poll.poll(chosen, hub=services.hub)
    if asked.memory.waiting:
        raise HubUnavailable(
            f"{services.hub.settings.endpoint} stopped answering after {asked.requests} requests, so it is unknown"
            f" what has changed since {since:%Y-%m-%d}; try again later, or give a token for a larger budget"
        )
    found = ((name, state.modified_at) for name, state in asked.repos.items())
    times = {name: datetime.fromisoformat(modified_at) for name, modified_at in found if modified_at}
    oldest = datetime.min.replace(tzinfo=UTC)
    return tuple(entry for entry in chosen if times.get(entry.repo_id.lower(), oldest) >= since)
