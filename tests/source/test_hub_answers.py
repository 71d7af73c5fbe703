"""How the Hub is asked, and what becomes of its answers: limits, failures, tokens and searches."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from fixtures.hub import PatientClock
from fixtures.models import RepoMaker
from onnx_fleet.entities.entry import Discover, Entry
from onnx_fleet.errors import (
    HubRateLimited,
    HubUnavailable,
    ModelGated,
)
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.source.resolve import resolve
from onnx_fleet.source.search import search
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer


def test_a_refused_token_is_named_as_such(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound()
    hub_server.fail(Failure(kind="unauthorized", times=1))
    with pytest.raises(ModelGated, match=r"HTTP 401.*check that the token"):
        resolve(Entry(repo_id=repo), hub=hub)


@pytest.mark.parametrize(("header", "waits_s"), [("ratelimit", [18.0, 18.0]), ("retry-after", [17.0, 17.0])])
def test_a_rate_limit_is_waited_out_as_the_hub_asks(
    hub: Hub, hub_server: HubServer, hub_clock: PatientClock, repo_maker: RepoMaker, header: str, waits_s: list[float]
) -> None:
    entry = Entry(repo_id=repo_maker.sound())
    failure = Failure(kind="rate_limited", retry_after_s=17, times=2)
    hub_server.fail(replace(failure, retry_header="retry-after" if header == "retry-after" else "ratelimit"))
    assert resolve(entry, hub=hub)
    assert hub_clock.waits_s == waits_s


def test_a_rate_limit_that_does_not_end_is_an_error_that_says_when_to_come_back(
    hub: Hub, hub_server: HubServer, hub_clock: PatientClock, repo_maker: RepoMaker
) -> None:
    entry = Entry(repo_id=repo_maker.sound())
    hub_server.fail(Failure(kind="rate_limited", retry_after_s=17))
    with pytest.raises(HubRateLimited, match=r"acme/sound@main.*HTTP 429.*lower the number of workers") as raised:
        resolve(entry, hub=hub)
    assert raised.value.retry_after_s == 18
    assert len(hub_clock.waits_s) == hub.settings.retry_attempts - 1


def test_nobody_waits_longer_than_the_bound(
    hub: Hub, hub_server: HubServer, hub_clock: PatientClock, repo_maker: RepoMaker
) -> None:
    entry = Entry(repo_id=repo_maker.sound())
    hub_server.fail(Failure(kind="rate_limited", retry_after_s=3600, times=1))
    with pytest.raises(HubRateLimited) as raised:
        resolve(entry, hub=hub)
    assert raised.value.retry_after_s == 3601
    with pytest.raises(HubRateLimited, match="no more api requests for 3601 s"):
        resolve(entry, hub=hub)
    assert hub_clock.waits_s == []
    assert hub_server.log.counts() == {"info": 1}


def test_a_failing_hub_is_asked_again_with_growing_pauses(
    hub: Hub, hub_server: HubServer, hub_clock: PatientClock, repo_maker: RepoMaker
) -> None:
    entry = Entry(repo_id=repo_maker.sound())
    hub_server.fail(Failure(kind="server_error", status=502, times=2))
    assert resolve(entry, hub=hub)
    assert hub_clock.waits_s == [1.0, 2.0]
    hub_server.fail(Failure(kind="server_error", status=503))
    with pytest.raises(HubUnavailable, match=r"acme/sound@main.*HTTP 503.*try again later"):
        resolve(entry, hub=hub)


def test_a_hub_that_is_not_there_is_unavailable(hub_clock: PatientClock, hub_server: HubServer) -> None:
    with HubServer(hub_server.repos.root) as gone:
        settings = HubSettings(endpoint=gone.url, retry_attempts=2)
    with pytest.raises(HubUnavailable, match=r"no answer.*check the network and HF_ENDPOINT"):
        resolve(Entry(repo_id="acme/sound"), hub=Hub(settings, sleep=hub_clock.sleep, clock=hub_clock))
    assert hub_clock.waits_s == [1.0]


def test_a_hub_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hub = Hub(HubSettings(endpoint=endpoint, retry_attempts=1, request_timeout_s=0.1))
        with pytest.raises(HubUnavailable, match="ReadTimeout"):
            resolve(Entry(repo_id="acme/sound"), hub=hub)
        with pytest.raises(HubUnavailable, match=r"search: .*ReadTimeout"):
            search(Discover(), hub=hub)


def test_an_endpoint_that_is_no_hub_is_unavailable(hub_server: HubServer) -> None:
    hub = Hub(HubSettings(endpoint=f"{hub_server.url}/_demo/requests?"))
    with pytest.raises(HubUnavailable, match=r"check HF_ENDPOINT|unusable answer"):
        resolve(Entry(repo_id="acme/sound"), hub=hub)


@pytest.fixture
def searched(hub_server: HubServer, repo_maker: RepoMaker) -> HubServer:
    """Four models: acme/a (5 downloads), acme/b (50), acme/b-gguf (60), other/c (500, mit)."""
    for repo, licence, downloads in (
        ("acme/a", "apache-2.0", 5),
        ("acme/b", "apache-2.0", 50),
        ("acme/b-gguf", "apache-2.0", 60),
        ("other/c", "mit", 500),
    ):
        repo_maker.with_licence(licence, repo_id=repo)
        hub_server.repos.configure(repo, Settings(downloads=downloads))
    return hub_server


@pytest.mark.parametrize(
    ("discover", "expected"),
    [
        (Discover(), ["other/c", "acme/b-gguf", "acme/b", "acme/a"]),
        (Discover(author="acme", exclude=("*-GGUF",)), ["acme/b", "acme/a"]),
        (Discover(exclude=("*-gguf",), limit=2), ["other/c", "acme/b"]),
        (Discover(min_downloads=50), ["other/c", "acme/b-gguf", "acme/b"]),
        (Discover(min_downloads=50, sort="last_modified"), ["acme/b", "acme/b-gguf", "other/c"]),
        (Discover(tags=("license:mit",), task="text-classification", library="transformers"), ["other/c"]),
        (Discover(library="sentence-transformers"), []),
    ],
)
def test_a_search_finds_what_the_catalogue_asks_for(
    hub: Hub, searched: HubServer, discover: Discover, expected: list[str]
) -> None:
    assert list(search(discover, hub=hub)) == expected
    assert searched.log.counts() == {"list": 1}


def test_a_search_waits_as_the_hub_asks_too(hub: Hub, searched: HubServer, hub_clock: PatientClock) -> None:
    searched.fail(Failure(kind="rate_limited", retry_after_s=3, times=1))
    assert search(Discover(limit=1), hub=hub) == ("other/c",)
    assert hub_clock.waits_s == [4.0]


def test_other_users_of_huggingface_hub_in_the_process_are_left_alone(
    hub: Hub, hub_server: HubServer, hub_clock: PatientClock, repo_maker: RepoMaker
) -> None:
    from huggingface_hub import HfApi, errors

    repo = repo_maker.sound()
    hub_server.fail(Failure(kind="server_error", times=1))
    with pytest.raises(errors.HfHubHTTPError):
        HfApi(endpoint=hub_server.url, token=False).model_info(repo)
    assert hub_clock.waits_s == []


def test_no_token_shows_in_what_is_printed() -> None:
    settings = HubSettings(token="hf_secret")
    assert "hf_secret" not in repr(settings) + repr(Hub(settings))


def test_the_hub_is_asked_without_loading_torch() -> None:
    program = "import sys, onnx_fleet.source.resolve; print({'torch', 'transformers', 'airflow'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"
