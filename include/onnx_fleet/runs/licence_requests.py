"""The models of a catalogue whose licence waits for a person, and the answers that are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, licence_answers
from onnx_fleet.bundles.licence_answers import Decision, LicenceAnswer, LicenceAnswers
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.errors import CatalogueInvalid, LicenceUnapproved
from onnx_fleet.formatting import models as count_of
from onnx_fleet.planning import licence_policy, published_state
from onnx_fleet.planning import plan as planning
from onnx_fleet.runs import run_report
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.services import Services
from onnx_fleet.store import ObjectStore

COLUMNS: Final = ("model", "licence", "licence in use", "commit")
"""What is told of each model that waits."""
_NOTHING: Final = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceRequest:
    """A model that waits for an answer about its licence."""

    model_id: str
    entry: str
    """The id that the entry of the catalogue names, which may be a short or an earlier one."""
    licence: str
    """How the licence is called that a person has to approve."""
    in_use: str | None
    """How the licence of the version in use is called; None where there is none."""
    commit: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The request as a row below COLUMNS."""
        return (self.model_id, self.licence, self.in_use or _NOTHING, self.commit[:8])


def waiting(
    entries: Iterable[Entry], *, services: Services, channel: str = bundle.LATEST
) -> tuple[LicenceRequest, ...]:
    """Return the models that a run would refuse until a person answers, by id.

    Args:
        channel: the one whose version is the one in use.
    Raises:
        HubUnavailable, HubRateLimited: the Hub cannot be asked.
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked.
    """
    from onnx_fleet.source import resolve  # huggingface_hub takes 0.2 s

    models, _ = resolve.resolve_all(entries, hub=services.hub)
    refusals = planning.plan(models, store=services.store, channel=channel).refusals
    unapproved = {each.repo_id for each in refusals if each.error == LicenceUnapproved.__name__}
    found = {model.repo_id: model for model in models if model.repo_id in unapproved}
    return tuple(_request(found[name], store=services.store, channel=channel) for name in sorted(found))


def _request(model: ResolvedModel, *, store: ObjectStore, channel: str) -> LicenceRequest:
    name, standing = model.repo_id, published_state.channel(store, model.repo_id, channel)
    sealed = published_state.manifest(store, name, version=standing.version) if standing else None
    in_use = (
        licence_policy.in_use(name, since=sealed, version=standing.version, store=store)
        if standing and sealed
        else None
    )
    return LicenceRequest(
        model_id=name, entry=model.entry.repo_id, licence=model.licence_called, in_use=in_use, commit=model.commit
    )


def answer(
    store: ObjectStore, model_id: str, licence: str, *, decision: Decision, by: Actor, why: str, now: datetime
) -> LicenceAnswers:
    """Keep what a person has answered about one licence of a model; returns all answers about the model.

    Raises:
        CatalogueInvalid: the model or the licence has no name, or nobody says why.
        BundleCorrupt: the answers that stand cannot be read.
        VersionConflict: other writers keep coming between.
    """
    called, said = "-".join(licence.lower().split()), " ".join(why.split())
    if model_id.count("/") != 1 or not all(model_id.split("/")):
        raise CatalogueInvalid.of([f"{model_id!r} is no model's id; write ORG/NAME"])
    if not called or not said:
        raise CatalogueInvalid.of([f"{model_id}: the answer says no licence, or not why; write both"])
    row = LicenceAnswer(
        licence=called, decision=decision, by=by, why=said, at=now.astimezone(UTC).replace(microsecond=0)
    )
    return licence_answers.keep(store, model_id, row)


def digest(records: Iterable[Record]) -> str | None:
    """Return what names the licences that a run has refused for want of an answer; None where there is none.

    It is the same for the next commit of the same model.
    """
    refused = sorted(
        (each.model_id, each.message.partition(": ")[2])
        for each in records
        if each.error == LicenceUnapproved.__name__ and each.message
    )
    return hashlib.sha256(jsonio.canonical(refused)).hexdigest() if refused else None


def question(requests: Sequence[LicenceRequest], *, more: int = 0) -> str:
    """Return what a person is asked, in Markdown.

    Args:
        more: how many other models wait, and are asked about later.
    """
    verb = "waits" if len(requests) == 1 else "wait"
    behind = ["", f"{count_of(more)} more will be asked about by the next run of this DAG."] if more else []
    return "\n".join(
        [
            f"{count_of(len(requests))} {verb} for an answer about the licence. Read each one on the model's card.",
            "",
            *run_report.table(COLUMNS, [each.cells for each in requests]),
            *behind,
        ]
    )
