"""One poll of the Hub for many models: what it tells, and how many requests it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from huggingface_hub import hf_api

from fixtures.small_hub import SmallHub
from onnx_fleet.entities.entry import Discover, Entry
from onnx_fleet.errors import HubRateLimited, HubUnavailable, ModelGated
from onnx_fleet.source import poll as polling
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer


def test_the_fields_that_are_asked_for_are_those_of_the_hubs_api() -> None:
    known = set(get_args(hf_api.ExpandModelProperty_T))
    assert set(polling._FIELDS) <= known
    assert not {"downloads", "likes", "trendingScore"} & set(polling._FIELDS), "they change by themselves"


def test_a_fleet_takes_a_request_for_each_author_and_nothing_is_sent_twice(small_hub: SmallHub) -> None:
    fleet = [f"{author}/m{number}" for author in ("acme", "beta") for number in range(30)]
    small_hub.add(*fleet, "solo/one", "acme/not-wanted")
    made = small_hub.poll(*fleet, "solo/one")
    assert {name: state.commit for name, state in made.repos.items()} == {
        name: small_hub.commit(name) for name in (*fleet, "solo/one")
    }
    assert sorted(small_hub.asked()) == [("info", 200), ("list", 200), ("list", 200)]
    again = small_hub.poll(*fleet, "solo/one")
    assert again.repos == made.repos
    assert again.memory == made.memory, "nothing has to be written down"
    assert sorted(small_hub.asked()) == [("info", 304), ("list", 304), ("list", 304)]
    assert (made.requests, again.requests) == (3, 3)


def test_a_new_commit_is_seen_in_the_list_and_in_a_models_own_answer(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b", "solo/one")
    before = small_hub.poll("acme/a", "acme/b", "solo/one").repos
    small_hub.write("acme/b", "more")
    small_hub.write("solo/one", "more", licence="apache-2.0")
    after = small_hub.poll("acme/a", "acme/b", "solo/one").repos
    assert after["acme/a"] == before["acme/a"]
    assert after["acme/b"] == replace(before["acme/b"], commit=small_hub.commit("acme/b"))
    assert after["solo/one"].licence == "apache-2.0"
    assert sorted(small_hub.asked()) == [("info", 200), ("list", 200)]


def test_downloads_that_rise_change_no_answer(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b")
    small_hub.poll("acme/a", "acme/b")
    small_hub.server.repos.configure("acme/a", Settings(downloads=10_000, likes=7))
    small_hub.poll("acme/a", "acme/b")
    assert small_hub.asked() == [("list", 304)]


def test_a_model_that_its_authors_list_lacks_is_asked_for_once_and_then_known_to_be_gone(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b", "acme/c")
    wanted = ("acme/a", "acme/b", "acme/c")
    small_hub.poll(*wanted)
    small_hub.delete("acme/b")
    made = small_hub.poll(*wanted)
    assert made.repos["acme/b"].commit is None
    assert "no such model" in made.repos["acme/b"].gone
    assert small_hub.asked() == [("list", 200), ("info", 401)]
    assert small_hub.poll(*wanted).repos == made.repos
    assert small_hub.asked() == [("list", 304)]
    small_hub.add("acme/b")
    assert small_hub.poll(*wanted).repos["acme/b"].commit == small_hub.commit("acme/b")
    assert small_hub.asked() == [("list", 200)]


def test_a_renamed_model_is_followed_under_the_id_of_its_entry(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b")
    small_hub.poll("acme/a", "acme/b")
    small_hub.rename("acme/b", "other/b2")
    made = small_hub.poll("acme/a", "acme/b")
    assert made.repos["acme/b"].repo_id == "other/b2"
    small_hub.poll("acme/a", "acme/b")
    assert small_hub.asked() == [("info", 200), ("info", 307), ("info", 304)], "it is looked up in no list any more"
    small_hub.write("other/b2", "more")
    assert small_hub.poll("acme/a", "acme/b").repos["acme/b"].commit == small_hub.commit("other/b2")


def test_a_gate_is_seen(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b")
    small_hub.poll("acme/a", "acme/b")
    small_hub.server.repos.configure("acme/a", Settings(gated="manual"))
    repos = small_hub.poll("acme/a", "acme/b").repos
    assert [repos[name].gated for name in ("acme/a", "acme/b")] == [True, False]


def test_an_entry_of_another_revision_is_asked_for_by_itself_and_a_pinned_one_is_not(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b", "acme/c")
    old = small_hub.server.repos.keep("acme/b")
    small_hub.write("acme/b", "newer")
    small_hub.server.repos.configure("acme/b", Settings(branches={"pr/1": old}))
    pinned = Entry(repo_id="acme/c", revision=small_hub.commit("acme/c"))
    wanted = ("acme/a", Entry(repo_id="acme/b", revision="pr/1"), pinned)
    made = small_hub.poll(*wanted)
    assert made.repos["acme/b"].commit == old
    assert sorted(small_hub.asked()) == [("info", 200), ("list", 200)]
    small_hub.write("acme/c", "newer")
    assert small_hub.poll(*wanted).repos["acme/c"].commit == pinned.revision
    small_hub.poll(pinned)
    assert small_hub.asked() == [("info", 404)], "the local Hub kept no such commit"


def test_ids_are_the_hubs_own_whatever_case_and_length_an_entry_gives_them(small_hub: SmallHub) -> None:
    small_hub.add("Acme/Gpt", "Acme/b")
    small_hub.server.repos.configure("Acme/Gpt", Settings(aliases=("gpt", "acme/gpt")))
    small_hub.server.repos.configure("Acme/b", Settings(aliases=("acme/B",)))
    assert small_hub.poll("gpt").repos["gpt"].repo_id == "Acme/Gpt"
    made = small_hub.poll("acme/gpt", "acme/B")
    assert {state.repo_id for state in made.repos.values()} == {"Acme/Gpt", "Acme/b"}
    small_hub.poll("acme/gpt", "acme/B")
    assert small_hub.asked() == [("list", 200)], "the author's list, under the Hub's spelling of the author"


def test_a_search_brings_what_the_hub_says_of_its_matches(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b")
    search = Discover(author="acme", exclude=("*-gguf",))
    made = small_hub.poll(search)
    assert made.matches == (("acme/a", "acme/b"),)
    assert {name: state.commit for name, state in made.repos.items()} == {
        name: small_hub.commit(name) for name in ("acme/a", "acme/b")
    }
    assert (small_hub.asked(), small_hub.poll(search).matches) == ([("list", 200)], made.matches)
    assert small_hub.asked() == [("list", 304)]
    small_hub.add("acme/c", "acme/c-gguf")
    assert small_hub.poll(search).matches == (("acme/a", "acme/b", "acme/c"),)
    other = small_hub.poll(Discover(author="acme"))
    assert other.matches == (("acme/a", "acme/b", "acme/c", "acme/c-gguf"),), "another search has its own answer"


def test_pages_that_have_not_changed_are_not_sent_again(paged_hub: SmallHub) -> None:
    wanted = [f"acme/m{number}" for number in range(6)]
    paged_hub.add(*wanted)
    made = paged_hub.poll(*wanted)
    assert paged_hub.asked() == [("list", 200)] * 3
    paged_hub.write("acme/m2", "more")
    after = paged_hub.poll(*wanted)
    assert paged_hub.asked() == [("list", 304), ("list", 200), ("list", 304)]
    assert after.repos == {**made.repos, "acme/m2": replace(made.repos["acme/m2"], commit=paged_hub.commit("acme/m2"))}


def test_the_list_of_an_author_with_many_others_is_given_up_for_one_request_a_model(paged_hub: SmallHub) -> None:
    paged_hub.add(*(f"acme/m{number}" for number in range(20)))
    wanted = ("acme/m0", "acme/m17", "acme/m19")
    made = paged_hub.poll(*wanted)
    assert paged_hub.asked() == [("list", 200)] * 2 + [("info", 200)] * 2, "two pages of ten, and who was not on them"
    again = paged_hub.poll(*wanted)
    assert paged_hub.asked() == [("info", 200), ("info", 304), ("info", 304)]
    paged_hub.poll(*wanted)
    assert paged_hub.asked() == [("info", 304)] * 3
    assert again.repos == made.repos
    paged_hub.poll(*wanted, "acme/m1")
    assert paged_hub.asked() == [("list", 200)] * 3 + [("info", 304)] * 2, "with more models the list may pay"


def test_a_poll_with_too_few_requests_goes_on_where_the_last_one_stopped(small_hub: SmallHub) -> None:
    wanted = [f"author{number}/one" for number in range(5)]
    small_hub.add(*wanted)
    first = small_hub.poll(*wanted, max_requests=2)
    assert (first.requests, list(first.repos), len(first.memory.waiting)) == (2, wanted[:2], 3)
    second = small_hub.poll(*wanted, max_requests=2)
    assert (list(second.repos), len(second.memory.waiting)) == (wanted[:4], 3)
    third = small_hub.poll(*wanted, max_requests=2)
    assert list(third.repos) == wanted
    assert len(small_hub.asked()) == 2
    for name in wanted:
        small_hub.write(name, "more")
    for _ in range(3):
        last = small_hub.poll(*wanted, max_requests=2)
    assert {name: state.commit for name, state in last.repos.items()} == {
        name: small_hub.commit(name) for name in wanted
    }


def test_what_a_search_or_a_list_told_holds_until_it_is_asked_again(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b", "solo/one")
    wanted = (Discover(author="acme"), "acme/a", "acme/b", "solo/one")
    made = small_hub.poll(*wanted)
    small_hub.add("acme/c")
    cut = small_hub.poll(*wanted, max_requests=0)
    assert (cut.repos, cut.matches, cut.requests) == (made.repos, made.matches, 0)
    assert small_hub.poll(*wanted).matches == (("acme/a", "acme/b", "acme/c"),)


def test_a_hub_that_limits_the_rate_ends_the_poll_and_not_what_was_found(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "beta/b", "core/c")
    small_hub.server.fail(Failure(kind="rate_limited", repo_id="beta/b", retry_after_s=60))
    made = small_hub.poll("acme/a", "beta/b", "core/c")
    assert list(made.repos) == ["acme/a"]
    assert small_hub.clock.waits_s == [61.0], "it waited as the Hub asks, as long as one request may"
    small_hub.server.failures.clear()
    assert list(small_hub.poll("acme/a", "beta/b", "core/c").repos) == ["acme/a", "core/c", "beta/b"]


@pytest.mark.parametrize(
    ("failure", "error"),
    [(Failure(kind="rate_limited", retry_after_s=60), HubRateLimited), (Failure(kind="server_error"), HubUnavailable)],
)
def test_a_hub_that_does_not_answer_at_all_is_an_error(
    small_hub: SmallHub, failure: Failure, error: type[Exception]
) -> None:
    small_hub.add("acme/a")
    small_hub.server.fail(failure)
    with pytest.raises(error):
        small_hub.poll("acme/a")


def test_one_author_whose_list_fails_does_not_keep_the_others_from_being_asked(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "acme/b", "solo/one", "solo2/one")
    wanted = ("solo/one", "acme/a", "acme/b", "solo2/one")
    small_hub.server.fail(Failure(kind="server_error", route="list"))
    assert list(small_hub.poll(*wanted).repos) == ["solo/one"]
    assert list(small_hub.poll(*wanted).repos) == ["solo/one", "solo2/one"]
    small_hub.server.failures.clear()
    assert len(small_hub.poll(*wanted).repos) == 4


def test_a_token_that_is_refused_is_an_error_and_no_fleet_that_is_gone(small_hub: SmallHub) -> None:
    small_hub.add("acme/a", "beta/b")
    small_hub.server.fail(Failure(kind="unauthorized"))
    with pytest.raises(ModelGated, match="token"):
        small_hub.poll("acme/a", "beta/b")


def test_what_is_kept_in_the_store_leads_no_token_to_another_server(paged_hub: SmallHub, small_hub: SmallHub) -> None:
    wanted = ("acme/a", "acme/b", "acme/c")
    paged_hub.add(*wanted)
    paged_hub.poll(*wanted)
    assert paged_hub.memory
    ((address, listing),) = paged_hub.memory.listings.items()
    assert listing.pages[0].following
    elsewhere = listing.pages[0].following.replace(paged_hub.server.url, small_hub.server.url)
    pages = (replace(listing.pages[0], following=elsewhere), *listing.pages[1:])
    paged_hub.memory = replace(paged_hub.memory, listings={address: replace(listing, pages=pages)})
    assert set(paged_hub.poll(*wanted).repos) == set(wanted)
    assert paged_hub.asked() == [("list", 200), ("list", 200)]
    assert small_hub.asked() == []


def test_another_hub_is_asked_from_the_start(small_hub: SmallHub, tmp_path: Path) -> None:
    small_hub.add("acme/a", "acme/b")
    small_hub.poll("acme/a", "acme/b")
    (tmp_path / "other").mkdir()
    with HubServer(small_hub.server.repos.root) as server:
        small_hub.poll("acme/a", "acme/b", hub=small_hub.client(endpoint=server.url))
        assert [(asked.route, asked.status) for asked in server.log.asked] == [("list", 200)]
    assert small_hub.asked() == []
