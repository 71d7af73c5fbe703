"""What changed at the Hub since the last poll: what a run is started for, what is only said, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.small_hub import SmallHub
from onnx_fleet import jsonio
from onnx_fleet.errors import HubUnavailable, VersionConflict
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import watch, watch_report
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.watch import Look
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.store import ObjectStore, layout
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_repos import Settings

NOW = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)


class Watch:
    """A catalogue that is watched: one Hub, one store."""

    def __init__(self, small_hub: SmallHub, store: ObjectStore, work_dir: Path) -> None:
        self.hub = small_hub
        self.store = store
        self.work_dir = work_dir
        self.polls = 0

    def look(
        self,
        *models: str,
        settings: str = "",
        discover: str = "",
        room: int = 1000,
        hub: Hub | None = None,
        max_requests: int | None = None,
    ) -> Look:
        """Look, and write nothing.

        Args:
            settings: YAML of the catalogue's defaults.
            discover: YAML of one search.
        """
        self.polls += 1
        self.hub.server.log.clear()
        lines = [f"defaults: {{{settings}}}", "models:", *(f"  - {model}" for model in models)]
        lines += ["discover:", f"  - {{{discover}}}"] if discover else []
        return watch.look(
            reader.parse("\n".join(lines if models else [lines[0], *lines[2:]]), source="fleet.yaml"),
            services=Services(store=self.store, hub=hub or self.hub.hub, work_dir=self.work_dir, limits=Limits()),
            run_id="hub_watch__test",
            now=NOW + timedelta(hours=self.polls),
            room=room,
            max_requests=max_requests,
        )

    def poll(self, *models: str, **options: object) -> Look:
        """Look, keep what was found, and start the runs."""
        found = self.look(*models, **options)  # type: ignore[arg-type]
        watch.keep(found, store=self.store)
        watch.started([start.run_id for start in found.state.to_start], store=self.store)
        return found

    def publish(self, repo_id: str) -> None:
        """Have a version of the repo's present commit stand in the store."""
        version = f"{self.hub.commit(repo_id)[:8]}-00000000"
        self.store.create(layout.manifest_key(repo_id, version), b"{}")


@pytest.fixture
def watched(small_hub: SmallHub, local_store: ObjectStore, tmp_path: Path) -> Watch:
    small_hub.add("acme/a", "acme/b", "solo/one")
    return Watch(small_hub, local_store, tmp_path)


def _said(found: Look) -> dict[str, tuple[str, str]]:
    return {each.model_id: (each.state, "; ".join(each.changes)) for each in found.report.findings}


def _started(found: Look) -> list[str]:
    return [name for start in found.state.to_start for name in start.models]


def test_the_first_poll_starts_what_is_not_published_and_the_second_nothing(watched: Watch) -> None:
    watched.publish("acme/a")
    found = watched.poll("acme/a", "acme/b")
    assert _said(found) == {"acme/b": ("started", "new in the catalogue")}
    assert _started(found) == ["acme/b"]
    again = watched.poll("acme/a", "acme/b")
    assert (_said(again), _started(again)) == ({}, [])


def test_a_new_commit_starts_a_run_of_that_model_alone(watched: Watch) -> None:
    watched.poll("acme/a", "acme/b", "solo/one")
    before = watched.hub.commit("acme/b")
    watched.hub.write("acme/b", "more")
    found = watched.poll("acme/a", "acme/b", "solo/one")
    after = watched.hub.commit("acme/b")
    assert _said(found) == {"acme/b": ("started", f"commit {before[:7]} -> {after[:7]}")}
    (start,) = found.state.to_start
    assert start.models == {"acme/b": f"acme/b@{after}"}
    assert start.run_id.startswith("watch__20261122T013000Z_")


def test_a_commit_that_another_run_has_published_already_starts_none(watched: Watch) -> None:
    watched.poll("acme/a")
    watched.hub.write("acme/a", "more")
    watched.publish("acme/a")
    found = watched.poll("acme/a")
    assert [state for state, _ in _said(found).values()] == ["noted"]
    assert _started(found) == []


def test_a_new_match_of_a_search_starts_a_run_and_one_that_comes_back_does_not(watched: Watch) -> None:
    search = "author: acme"
    watched.poll(discover=search)
    watched.hub.add("acme/c")
    found = watched.poll(discover=search)
    assert _said(found) == {"acme/c": ("started", "a new match of a search")}
    card = watched.hub.server.repos.root / "acme/c"
    card.rename(card.with_name(".c"))
    assert _said(watched.poll(discover=search)) == {}
    card.with_name(".c").rename(card)
    assert _said(watched.poll(discover=search)) == {}


def test_a_repo_that_is_gone_is_said_once_and_starts_nothing(watched: Watch) -> None:
    watched.poll("acme/a", "acme/b")
    watched.hub.delete("acme/b")
    found = watched.poll("acme/a", "acme/b")
    assert _said(found) == {"acme/b": ("gone", "")}
    assert "no such model" in found.report.findings[0].message
    assert (_said(watched.poll("acme/a", "acme/b")), _started(found)) == ({}, [])
    watched.hub.add("acme/b")
    assert _said(watched.poll("acme/a", "acme/b")) == {"acme/b": ("noted", "it is there again")}


def test_a_renamed_repo_is_started_under_its_entry_where_that_follows(watched: Watch) -> None:
    watched.poll("acme/a", "solo/one")
    watched.hub.rename("solo/one", "solo/two")
    found = watched.poll("acme/a", "solo/one")
    assert _started(found) == ["solo/one"]
    assert found.state.to_start[0].models == {"solo/one": f"solo/two@{watched.hub.commit('solo/two')}"}
    assert "renamed to solo/two: write that id in the catalogue" in _said(found)["solo/one"][1]
    assert _said(watched.poll("acme/a", "solo/one")) == {}


@pytest.mark.parametrize(
    ("settings", "change", "error"),
    [
        ("follow_renames: false", lambda hub: hub.rename("solo/one", "solo/two"), "ModelRenamed"),
        ("allowed_licences: [mit]", lambda hub: hub.write("solo/one", licence="other"), "LicenceRefused"),
        ("", lambda hub: hub.server.repos.configure("solo/one", Settings(gated="auto")), "ModelGated"),
    ],
)
def test_what_a_run_would_refuse_is_said_once_and_starts_nothing(
    watched: Watch, settings: str, change: Callable[[SmallHub], None], error: str
) -> None:
    watched.poll("solo/one", settings=settings)
    change(watched.hub)
    found = watched.poll("solo/one", settings=settings)
    (finding,) = found.report.findings
    assert (finding.state, finding.error) == ("refused", error)
    assert finding.message
    assert _started(found) == []
    assert _said(watched.poll("solo/one", settings=settings)) == {}


def test_what_was_refused_is_started_by_the_first_poll_that_finds_the_cause_gone(watched: Watch) -> None:
    watched.hub.server.repos.configure("solo/one", Settings(gated="manual", tokens=("hf_in",)))
    assert _started(watched.poll("solo/one")) == []
    assert _started(watched.poll("solo/one", hub=watched.hub.client(token="hf_out"))) == []
    found = watched.poll("solo/one", hub=watched.hub.client(token="hf_in"))
    assert (_started(found), _said(found)) == (["solo/one"], {"solo/one": ("started", "it may be exported now")})
    assert found.report.requests == 2, "of which one asks for access"
    again = watched.poll("solo/one", hub=watched.hub.client(token="hf_in"))
    assert again.report.requests == 1, "which nobody needs to know of a commit that a run has taken"


def test_another_licence_that_nothing_forbids_is_said_with_the_commit_that_it_came_with(watched: Watch) -> None:
    watched.poll("acme/a")
    watched.hub.write("acme/a", licence="apache-2.0")
    (state, changes) = _said(watched.poll("acme/a"))["acme/a"]
    assert (state, changes.partition("; ")[2]) == ("started", "licence mit -> apache-2.0")


def test_a_poll_that_finds_nothing_takes_one_request_for_each_call_and_writes_nothing(watched: Watch) -> None:
    watched.poll("acme/a", "acme/b", "solo/one", discover="author: acme")
    before = watched.store.stat(layout.WATCH_KEY)
    found = watched.poll("acme/a", "acme/b", "solo/one", discover="author: acme")
    assert sorted(watched.hub.asked()) == [("info", 304), ("list", 304), ("list", 304)]
    assert found.state == found.was
    assert watched.store.stat(layout.WATCH_KEY) == before
    assert watch_report.title(found.report) == "3 models: nothing new; 3 requests"


def test_the_state_comes_back_from_the_store_as_it_was(watched: Watch) -> None:
    found = watched.poll("acme/a", "acme/b", "solo/one", discover="author: acme, exclude: ['*-x']")
    document = json.loads(watched.store.read(layout.WATCH_KEY))
    assert document["schema_version"] == 1
    assert jsonio.from_json(watch.State, document).memory == found.state.memory


def test_a_start_that_nobody_has_noted_is_offered_again_as_it_was(watched: Watch) -> None:
    first = watched.look("acme/a", "acme/b")
    watch.keep(first, store=watched.store)
    second = watched.look("acme/a", "acme/b")
    assert second.state.to_start == first.state.to_start
    assert second.report.starts == (), "it was decided before"
    watched.hub.write("acme/b", "more")
    third = watched.poll("acme/a", "acme/b")
    assert _started(third) == ["acme/a", "acme/b", "acme/b"]
    assert watched.poll("acme/a", "acme/b").state.to_start == ()


def test_two_polls_at_once_do_not_forget_each_others_runs(watched: Watch) -> None:
    first, second = watched.look("acme/a"), watched.look("acme/a")
    watch.keep(first, store=watched.store)
    with pytest.raises(VersionConflict):
        watch.keep(second, store=watched.store)


@pytest.mark.parametrize("left", [b"not JSON", b'{"schema_version": 99}', None])
def test_a_state_that_is_lost_is_made_anew_from_what_is_published(watched: Watch, left: bytes | None) -> None:
    watched.publish("acme/a")
    watched.poll("acme/a", "acme/b")
    standing = watched.store.stat(layout.WATCH_KEY)
    assert standing is not None
    if left is None:
        watched.store.delete(layout.WATCH_KEY)
    else:
        watched.store.replace(layout.WATCH_KEY, left, etag=standing.etag)
    found = watched.poll("acme/a", "acme/b")
    assert _started(found) == ["acme/b"]
    assert watched.poll("acme/a", "acme/b").state == watched.look("acme/a", "acme/b").state


def test_more_models_than_one_run_takes_are_several_runs(watched: Watch) -> None:
    found = watched.poll("acme/a", "acme/b", "solo/one", room=2)
    assert [list(start.models) for start in found.state.to_start] == [["acme/a", "acme/b"], ["solo/one"]]
    assert len({start.run_id for start in found.state.to_start}) == 2


def test_a_poll_with_too_few_requests_says_how_many_models_are_left(watched: Watch) -> None:
    found = watched.poll("acme/a", "solo/one", max_requests=1)
    assert (_started(found), found.report.unasked) == (["acme/a"], 1)
    assert watch_report.title(found.report) == "2 models: 1 started, 1 not asked for yet; 1 requests"
    assert _started(watched.poll("acme/a", "solo/one", max_requests=1)) == ["solo/one"]


def test_a_question_of_access_that_is_not_answered_is_asked_by_the_next_poll(watched: Watch) -> None:
    watched.hub.server.repos.configure("solo/one", Settings(gated="manual", tokens=("hf_in",)))
    token = watched.hub.client(token="hf_in")
    watched.hub.server.fail(Failure(kind="server_error", route="auth-check"))
    assert _said(watched.poll("acme/a", "solo/one", hub=token)) == {"acme/a": ("started", "new in the catalogue")}
    watched.hub.server.failures.clear()
    assert _started(watched.poll("acme/a", "solo/one", hub=token, max_requests=2)) == [], "two for the states"
    assert _started(watched.poll("acme/a", "solo/one", hub=token)) == ["solo/one"]


def test_a_hub_that_does_not_answer_leaves_everything_as_it_was(watched: Watch) -> None:
    watched.poll("acme/a")
    watched.hub.write("acme/a", "more")
    watched.hub.server.fail(Failure(kind="server_error"))
    with pytest.raises(HubUnavailable):
        watched.poll("acme/a")
    watched.hub.server.failures.clear()
    assert _started(watched.poll("acme/a")) == ["acme/a"]


def test_the_report_is_for_programs_and_for_people(watched: Watch) -> None:
    watched.poll("acme/a", "solo/one")
    watched.hub.delete("solo/one")
    watched.hub.write("acme/a", "<b>|more")
    found = watched.poll("acme/a", "solo/one")
    key = watch_report.write(found.report, store=watched.store)
    assert key == "reports/hub_watch__test.json"
    assert jsonio.parse(watch_report.WatchReport, watched.store.read(key)) == found.report
    page = watched.store.read("reports/hub_watch__test.md").decode()
    assert "2 models: 1 gone, 1 started; 2 requests." in page
    assert "| solo/one | gone | – | – | solo/one@main on " in page
    assert f"- started: {found.report.starts[0]}" in page
    assert "no such model" in watched.store.read("reports/hub_watch__test.html").decode()
