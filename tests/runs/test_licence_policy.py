"""Licences that a person has to approve, and those that have changed: what a plan refuses, what an answer does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.models import RepoMaker
from fixtures.planned_models import NOW, publish, resolved
from onnx_fleet.bundles import licence_answers
from onnx_fleet.bundles.licence_answers import Decision
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.work_item import Plan, Refusal, WorkItem
from onnx_fleet.errors import BundleCorrupt, CatalogueInvalid
from onnx_fleet.planning import plan as planning
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import licence_requests, pipeline, record
from onnx_fleet.runs.services import Services
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.store import ObjectStore, layout
from onnx_fleet_demo.hub_server import HubServer

ADA = Actor(kind="person", name="ada@legal")
CARD = "---\nlicense: {licence}\nlicense_name: {name}\npipeline_tag: text-classification\n---\n"
MODEL = "acme/a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """One model at a Hub over HTTP, and a store."""

    services: Services
    repos: RepoMaker
    server: HubServer

    @property
    def store(self) -> ObjectStore:
        return self.services.store

    def card(self, licence: str, *, name: str = "null") -> None:
        """Commit a card that names a licence."""
        (self.repos.root / MODEL / "README.md").write_text(CARD.format(licence=licence, name=name))

    def plan(self, **settings: object) -> Plan:
        return pipeline.plan([Entry(repo_id=MODEL, **settings)], services=self.services)  # type: ignore[arg-type]

    def item(self, **settings: object) -> WorkItem:
        (item,) = self.plan(**settings).items
        return item

    def refusal(self, **settings: object) -> Refusal:
        made = self.plan(**settings)
        assert made.items == ()
        return made.refusals[0]

    def answer(self, decision: Decision, licence: str, *, why: str = "read it") -> None:
        licence_requests.answer(self.store, MODEL, licence, decision=decision, by=ADA, why=why, now=NOW)


@pytest.fixture
def fleet(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker, local_store: ObjectStore, tmp_path: Path) -> Fleet:
    repo_maker.with_licence("gemma", repo_id=MODEL)
    services = Services(store=local_store, hub=hub, work_dir=tmp_path, limits=Limits())
    return Fleet(services=services, repos=repo_maker, server=hub_server)


def test_a_licence_to_approve_is_refused_with_what_to_do_and_nothing_of_the_model_is_downloaded(fleet: Fleet) -> None:
    refused = fleet.refusal(licences_to_approve=("gem*",))
    assert (refused.state, refused.error, refused.step) == ("refused", "LicenceUnapproved", "plan")
    assert "licence 'gemma' is one of licences_to_approve" in refused.message
    assert f"`onnx-fleet licence approve {MODEL} --licence gemma --why …`" in refused.message
    assert "model.safetensors" not in {each.path for each in fleet.server.log.asked}


def test_an_approval_counts_for_that_licence_of_that_model_until_it_is_withdrawn(fleet: Fleet) -> None:
    fleet.answer("approved", "Gemma")
    assert fleet.item(licences_to_approve=("gemma",)).state == "new"
    other = replace(resolved("acme/b", licences_to_approve=("gemma",)), licence="gemma")
    assert planning.plan([other], store=fleet.store).refusals[0].error == "LicenceUnapproved"

    fleet.answer("declined", "gemma", why="our lawyers\nsay no")
    refused = fleet.refusal(licences_to_approve=("gemma",))
    assert (refused.state, refused.error) == ("refused", "LicenceRefused")
    assert "ada@legal has declined it: our lawyers say no; remove the entry, or approve it" in refused.message
    rows = licence_answers.find(fleet.store, MODEL).rows
    assert [(row.decision, row.by, row.at) for row in rows] == [("approved", ADA, NOW), ("declined", ADA, NOW)]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"allowed_licences": ("mit",), "licences_to_approve": ("gemma",)}, "LicenceUnapproved"),
        ({"allowed_licences": ("gemma",), "licences_to_approve": ("*",)}, None),
        ({"allowed_licences": ("mit",), "licences_to_approve": ("other",)}, "LicenceRefused"),
        ({"licences_to_approve": ("other",)}, None),
    ],
    ids=["to approve", "allowed, whatever is to be approved", "neither", "only licences_to_approve is given"],
)
def test_a_licence_is_allowed_or_to_approve_or_refused(
    fleet: Fleet, settings: dict[str, object], error: str | None
) -> None:
    refusals = fleet.plan(**settings).refusals
    assert [each.error for each in refusals] == ([error] if error else [])


@pytest.mark.parametrize(
    ("allowed", "to_approve", "error"),
    [
        (("other",), None, None),
        (("other/acme-terms-2",), None, None),
        (("other/acme-terms-1",), None, "LicenceRefused"),
        (None, ("other",), "LicenceUnapproved"),
        (None, ("other/acme-*",), "LicenceUnapproved"),
        (None, ("other/beta-*",), None),
    ],
)
def test_licences_without_an_id_are_told_apart_by_the_name_on_the_card(
    fleet: Fleet, allowed: tuple[str, ...] | None, to_approve: tuple[str, ...] | None, error: str | None
) -> None:
    fleet.card("other", name="Acme Terms 2")
    refusals = fleet.plan(allowed_licences=allowed, licences_to_approve=to_approve).refusals
    assert [each.error for each in refusals] == ([error] if error else [])


def test_an_id_that_only_begins_like_an_allowed_one_is_refused(fleet: Fleet) -> None:
    fleet.card("mit/acme-terms")
    assert fleet.refusal(allowed_licences=("mit",)).error == "LicenceRefused"


def test_a_card_that_names_no_licence_can_be_approved(fleet: Fleet) -> None:
    (fleet.repos.root / MODEL / "README.md").write_text("---\npipeline_tag: text-classification\n---\n")
    assert "licence 'none'" in fleet.refusal(licences_to_approve=("none",)).message
    fleet.answer("approved", "none")
    assert fleet.item(licences_to_approve=("none",)).state == "new"


def _published(fleet: Fleet) -> WorkItem:
    item = fleet.item()
    publish(fleet.store, item)
    card = (fleet.repos.root / MODEL / "README.md").read_bytes()
    fleet.store.create(f"{layout.bundle_prefix(MODEL, item.version)}README.md", card)
    return item


def test_a_model_whose_licence_has_changed_is_refused_until_a_person_approves_the_new_one(fleet: Fleet) -> None:
    before = _published(fleet)
    fleet.card("llama3.1")
    refused = fleet.refusal(allowed_licences=("gemma", "llama3.1"))
    assert (refused.state, refused.error) == ("refused", "LicenceUnapproved")
    assert f"the licence of {before.version}, 'gemma', is 'llama3.1' by now" in refused.message
    fleet.answer("approved", "llama3.1")
    assert fleet.item().state == "changed"
    fleet.card("gemma")
    assert fleet.item().state == "changed", "that is the licence of the version in use"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (("other", "acme-1"), ("other", "acme-2"), "'other/acme-1', is 'other/acme-2'"),
        (("other", "acme-1"), ("mit", "null"), "'other/acme-1', is 'mit'"),
        (("other", "acme-1"), ("Other", "Acme-1"), None),
        (("MIT", "null"), ("mit", "null"), None),
        (("Other", "acme-1"), ("other", "acme-2"), "'other/acme-1', is 'other/acme-2'"),
    ],
)
def test_a_change_of_name_is_a_change_of_licence_and_one_of_spelling_is_none(
    fleet: Fleet, before: tuple[str, str], after: tuple[str, str], told: str | None
) -> None:
    fleet.card(before[0], name=before[1])
    _published(fleet)
    fleet.card(after[0], name=after[1])
    refusals = fleet.plan().refusals
    assert [told in each.message for each in refusals if told] == ([True] if told else [])
    assert len(refusals) == (1 if told else 0)


def test_the_models_of_a_catalogue_that_wait_are_told_with_the_licence_in_use(fleet: Fleet) -> None:
    _published(fleet)
    fleet.card("llama3.1")
    fleet.repos.with_licence("openrail", repo_id="acme/b")
    entries = [Entry(repo_id=name, licences_to_approve=("openrail",)) for name in (MODEL, "acme/b")]
    found = licence_requests.waiting(entries, services=fleet.services)
    assert [each.cells[:3] for each in found] == [(MODEL, "llama3.1", "gemma"), ("acme/b", "openrail", "–")]
    assert "| acme/b | openrail | – |" in licence_requests.question(found)
    fleet.answer("declined", "llama3.1")
    found = licence_requests.waiting(entries, services=fleet.services)
    assert [each.model_id for each in found] == ["acme/b"], "what was declined is not asked again"


def test_a_question_is_the_same_for_the_next_commit_and_another_one_for_another_licence(fleet: Fleet) -> None:
    def digest() -> str | None:
        refusals = fleet.plan(licences_to_approve=("*",)).refusals
        return licence_requests.digest(map(record.of_refusal, refusals))

    asked = digest()
    (fleet.repos.root / MODEL / "more.txt").write_text("more")
    assert digest() == asked is not None
    fleet.card("llama3.1")
    assert digest() not in (asked, None)
    fleet.answer("declined", "llama3.1")
    assert digest() is None


def test_answers_that_are_given_at_once_are_all_kept_and_the_same_one_is_kept_once(any_store: ObjectStore) -> None:
    def approve(licence: str) -> None:
        licence_requests.answer(any_store, MODEL, licence, decision="approved", by=ADA, why="read it", now=NOW)

    with ThreadPoolExecutor() as pool:
        list(pool.map(approve, ["mit", "gemma", "llama2", "mit"]))
    (found,) = licence_answers.listed(any_store)
    assert sorted(row.licence for row in found.rows) == ["gemma", "llama2", "mit"]
    assert found.model_id == MODEL


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (("a", "mit", "why"), "'a' is no model's id"),
        (("acme/a", " ", "why"), "write both"),
        (("acme/a", "mit", "\n"), "write both"),
    ],
)
def test_an_answer_without_a_model_a_licence_or_a_reason_is_refused(
    local_store: ObjectStore, ask: tuple[str, str, str], told: str
) -> None:
    with pytest.raises(CatalogueInvalid, match=told):
        licence_requests.answer(local_store, ask[0], ask[1], decision="approved", by=ADA, why=ask[2], now=NOW)


def test_answers_that_cannot_be_read_stop_that_model_alone_and_are_left_as_they_are(fleet: Fleet) -> None:
    key = layout.licences_key(MODEL)
    fleet.store.create(key, b'{"schema_version": 2}')
    entries = [Entry(repo_id=MODEL, licences_to_approve=("gemma",))]
    fleet.repos.sound("acme/b")
    made = pipeline.plan([*entries, Entry(repo_id="acme/b")], services=fleet.services)
    assert [(each.error, each.state) for each in made.refusals] == [("BundleCorrupt", "failed")]
    assert [item.model_id for item in made.items] == ["acme/b"]
    with pytest.raises(BundleCorrupt, match="upgrade it if a newer one wrote that"):
        fleet.answer("approved", "gemma")
    assert fleet.store.read(key) == b'{"schema_version": 2}'
