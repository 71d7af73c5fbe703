"""The local Hub, asked by huggingface_hub's own client."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, errors

from fixtures.models import RepoMaker
from onnx_fleet_demo import models
from onnx_fleet_demo.hub_failures import Failure, Kind
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer


@pytest.fixture
def api(hub_server: HubServer) -> HfApi:
    return HfApi(endpoint=hub_server.url, token=False)


def _get(url: str, **headers: str) -> httpx2.Response:
    return httpx2.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_model_info_tells_what_the_hub_tells(demo_hub_server: HubServer) -> None:
    info = HfApi(endpoint=demo_hub_server.url, token=False).model_info(models.MINILM, files_metadata=True)
    assert (info.id, info.pipeline_tag, info.library_name) == (
        models.MINILM,
        "sentence-similarity",
        "sentence-transformers",
    )
    assert info.card_data is not None
    assert info.card_data.license == "apache-2.0"
    assert info.gated is False
    assert info.config is not None
    assert info.config["architectures"] == ["BertModel"]
    assert {"license:apache-2.0", "safetensors", "bert", "en"} <= set(info.tags or ())
    files = {file.rfilename: file for file in info.siblings or ()}
    weights, config = files["model.safetensors"], files["config.json"]
    assert weights.lfs is not None
    assert (weights.lfs.size, len(weights.lfs.sha256)) == (90_868_376, 64)
    assert config.lfs is None
    assert (config.size, len(config.blob_id or "")) == (612, 40)


def test_equal_files_give_equal_commits_and_changed_ones_another(
    hub_server: HubServer, repo_maker: RepoMaker, api: HfApi
) -> None:
    repo = repo_maker.sound()
    first = api.model_info(repo).sha
    assert api.model_info(repo).sha == first
    (repo_maker.root / repo / "README.md").write_text("changed")
    assert api.model_info(repo).sha != first


def test_branches_tags_and_commits_are_revisions(
    hub_server: HubServer, repo_maker: RepoMaker, api: HfApi, tmp_path: Path
) -> None:
    repo = repo_maker.sound()
    old = hub_server.repos.keep(repo)
    (repo_maker.root / repo / "README.md").write_text("newer")
    hub_server.repos.configure(repo, Settings(branches={"pr/1": old}, tags={"v1.0": old}))
    new = api.model_info(repo, revision="main").sha
    assert new != old
    assert [api.model_info(repo, revision=name).sha for name in ("pr/1", "v1.0", old)] == [old] * 3
    refs = api.list_repo_refs(repo)
    assert {branch.name: branch.target_commit for branch in refs.branches} == {"main": new, "pr/1": old}
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1.0", old)]
    assert [commit.commit_id for commit in api.list_repo_commits(repo)] == [new]
    card = api.hf_hub_download(repo, "README.md", revision="v1.0", cache_dir=tmp_path / "cache")
    assert "newer" not in Path(card).read_text()


def test_the_tree_lists_files_and_folders(repo_maker: RepoMaker, api: HfApi) -> None:
    repo = repo_maker.with_files({"onnx/deep/model.onnx": b"graph"}, repo_id="acme/tree")
    paths = {entry.path for entry in api.list_repo_tree(repo, recursive=True)}
    assert {"onnx", "onnx/deep", "onnx/deep/model.onnx", "config.json"} <= paths
    top = {entry.path for entry in api.list_repo_tree(repo)}
    assert "onnx" in top
    assert "onnx/deep" not in top
    assert [entry.path for entry in api.list_repo_tree(repo, "onnx/deep")] == ["onnx/deep/model.onnx"]


def test_a_snapshot_holds_the_very_bytes(repo_maker: RepoMaker, api: HfApi, tmp_path: Path) -> None:
    repo = repo_maker.with_files({"folder with space/a+b%.txt": b"odd name", "empty.txt": b""}, repo_id="acme/bytes")
    snapshot = Path(api.snapshot_download(repo, cache_dir=tmp_path / "cache"))
    for path in ("model.safetensors", "config.json", "folder with space/a+b%.txt", "empty.txt"):
        assert (snapshot / path).read_bytes() == (repo_maker.root / repo / path).read_bytes()


def test_a_download_carries_the_hubs_headers(hub_server: HubServer, repo_maker: RepoMaker, api: HfApi) -> None:
    repo = repo_maker.sound()
    metadata = api.get_hf_file_metadata(url=f"{hub_server.url}/{repo}/resolve/main/model.safetensors")
    listed = {file.rfilename: file for file in api.model_info(repo, files_metadata=True).siblings or ()}
    weights = listed["model.safetensors"].lfs
    assert weights is not None
    assert (metadata.commit_hash, metadata.etag, metadata.size) == (
        api.model_info(repo).sha,
        weights.sha256,
        weights.size,
    )


def test_ranges_are_served(hub_server: HubServer, repo_maker: RepoMaker) -> None:
    repo = repo_maker.with_files({"digits.bin": b"0123456789"}, repo_id="acme/ranges")
    url = f"{hub_server.url}/{repo}/resolve/main/digits.bin"
    middle = _get(url, Range="bytes=2-4")
    assert (middle.status_code, middle.content, middle.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert _get(url, Range="bytes=7-").content == b"789"
    assert _get(url, Range="bytes=10-").status_code == 416
    assert _get(url).content == b"0123456789"


def test_a_one_part_id_leads_to_the_canonical_one(
    hub_server: HubServer, repo_maker: RepoMaker, api: HfApi, tmp_path: Path
) -> None:
    repo = repo_maker.sound("acme/gpt-tiny")
    hub_server.repos.configure(repo, Settings(aliases=("gpt-tiny",)))
    assert api.model_info("gpt-tiny").id == repo
    assert api.model_info("gpt-tiny", revision="main").id == repo
    assert Path(api.hf_hub_download("gpt-tiny", "config.json", cache_dir=tmp_path / "cache")).is_file()


@pytest.fixture
def three_repos(tmp_path: Path, repo_maker: RepoMaker) -> Iterator[HubServer]:
    """acme/a and acme/b are apache-2.0, other/c is mit; pages hold one model."""
    repo_maker.with_licence("apache-2.0", repo_id="acme/a")
    repo_maker.with_licence("apache-2.0", repo_id="acme/b")
    repo_maker.with_licence("mit", repo_id="other/c")
    with HubServer(repo_maker.root, page_size=1) as server:
        for downloads, repo in ((5, "acme/a"), (50, "acme/b"), (500, "other/c")):
            server.repos.configure(repo, Settings(downloads=downloads))
        yield server


def test_models_are_listed_by_filters_in_order_and_over_pages(three_repos: HubServer) -> None:
    api = HfApi(endpoint=three_repos.url, token=False)

    def ids(**query: object) -> list[str]:
        return [info.id for info in api.list_models(**query)]  # type: ignore[arg-type]

    assert ids(sort="downloads") == ["other/c", "acme/b", "acme/a"]
    assert ids(sort="downloads", limit=2) == ["other/c", "acme/b"]
    assert ids(author="acme", sort="likes") == ["acme/a", "acme/b"]
    assert ids(filter=["license:mit", "bert"]) == ["other/c"]
    assert ids(search="C") == ["acme/a", "acme/b", "other/c"]
    assert ids(pipeline_tag="fill-mask") == []
    assert [info.downloads for info in api.list_models(author="other")] == [500]
    assert three_repos.log.counts()["list"] == 3 + 2 + 2 + 1 + 3 + 1 + 1


def test_an_answer_has_the_fields_that_are_asked_for_and_is_not_sent_again(three_repos: HubServer) -> None:
    api = HfApi(endpoint=three_repos.url, token=False)
    fields = [(info.id, bool(info.sha), info.downloads, info.tags) for info in api.list_models(expand=["sha"])]
    assert fields == [(repo, True, None, None) for repo in ("acme/a", "acme/b", "other/c")]
    assert api.model_info("acme/b", expand=["downloads"]).downloads == 50
    url = f"{three_repos.url}/api/models?expand=sha&author=acme"
    first = _get(url)
    again = _get(url, If_None_Match=first.headers["ETag"])
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    three_repos.repos.configure("acme/a", Settings(downloads=6))
    assert _get(url, If_None_Match=first.headers["ETag"]).status_code == 304
    (three_repos.repos.root / "acme/a/README.md").write_text("changed")
    assert _get(url, If_None_Match=first.headers["ETag"]).status_code == 200


def test_private_repos_seem_absent_without_a_token(hub_server: HubServer, repo_maker: RepoMaker, api: HfApi) -> None:
    repo = repo_maker.sound()
    hub_server.repos.configure(repo, Settings(private=True, tokens=("hf_in",)))
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info(repo)
    assert list(api.list_models()) == []
    assert HfApi(endpoint=hub_server.url, token="hf_in").model_info(repo).private


def test_gated_repos_show_their_listing_and_keep_their_files(
    hub_server: HubServer, repo_maker: RepoMaker, api: HfApi, tmp_path: Path
) -> None:
    repo = repo_maker.sound()
    hub_server.repos.configure(repo, Settings(gated="manual", tokens=("hf_in",)))
    assert api.model_info(repo).gated == "manual"
    for token in (False, "hf_out"):
        with pytest.raises(errors.GatedRepoError):
            HfApi(endpoint=hub_server.url, token=token).auth_check(repo)
        with pytest.raises(errors.GatedRepoError):
            api.hf_hub_download(repo, "config.json", token=token, cache_dir=tmp_path / "cache")
    HfApi(endpoint=hub_server.url, token="hf_in").auth_check(repo)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("repo_not_found", errors.RepositoryNotFoundError),
        ("revision_not_found", errors.RevisionNotFoundError),
        ("entry_not_found", errors.RemoteEntryNotFoundError),
        ("gated", errors.GatedRepoError),
        ("unauthorized", errors.HfHubHTTPError),
        ("rate_limited", errors.HfHubHTTPError),
        ("server_error", errors.HfHubHTTPError),
    ],
)
def test_failures_come_as_the_clients_own_exceptions(
    hub_server: HubServer, repo_maker: RepoMaker, api: HfApi, kind: Kind, expected: type[Exception]
) -> None:
    repo = repo_maker.sound()
    hub_server.fail(Failure(kind=kind, route="info", times=1))
    with pytest.raises(expected) as raised:
        api.model_info(repo)
    assert raised.type is expected
    assert api.model_info(repo).id == repo


def test_missing_things_have_their_error_codes(hub_server: HubServer, repo_maker: RepoMaker, api: HfApi) -> None:
    repo = repo_maker.sound()
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("acme/nowhere")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info(repo, revision="nowhere")
    assert not api.file_exists(repo, "nowhere.json")
    assert _get(f"{hub_server.url}/nowhere").status_code == 404


def test_a_rate_limit_says_when_to_come_back(hub_server: HubServer, repo_maker: RepoMaker) -> None:
    url = f"{hub_server.url}/api/models/{repo_maker.sound()}"
    hub_server.fail(Failure(kind="rate_limited", retry_after_s=55, times=1))
    hub_server.fail(Failure(kind="rate_limited", retry_after_s=7, retry_header="retry-after", times=1))
    assert _get(url).headers["RateLimit"] == '"api";r=0;t=55'
    assert _get(url).headers["Retry-After"] == "7"
    assert _get(url).headers["RateLimit-Policy"] == '"fixed window";"api";q=500;w=300'


def test_files_come_cut_short_or_changed_when_told_to(hub_server: HubServer, repo_maker: RepoMaker) -> None:
    content = bytes(range(200))
    repo = repo_maker.with_files({"file.bin": content}, repo_id="acme/ruined")
    url = f"{hub_server.url}/{repo}/resolve/main/file.bin"
    hub_server.fail(Failure(kind="cut", after_bytes=50, times=1))
    with pytest.raises(httpx2.RemoteProtocolError):
        _get(url)
    hub_server.fail(Failure(kind="wrong_size", path="file.bin", times=1))
    assert _get(url).content == content[:-7]
    hub_server.fail(Failure(kind="corrupt", path="file.bin", times=1))
    changed = _get(url).content
    assert (len(changed), changed != content) == (200, True)
    assert _get(url).content == content


def test_another_process_orders_failures_and_reads_counts(hub_server: HubServer, repo_maker: RepoMaker) -> None:
    url = f"{hub_server.url}/api/models/{repo_maker.sound()}"
    failures = f"{hub_server.url}/_demo/failures"
    assert httpx2.post(failures, json={"kind": "server_error", "status": 502}).status_code == 200
    assert _get(url).status_code == 502
    assert httpx2.post(failures, json={"kind": "meteor"}).status_code == 400
    assert httpx2.delete(failures).status_code == 200
    assert _get(url).status_code == 200
    assert _get(f"{hub_server.url}/_demo/requests").json() == {"info": 2}
    httpx2.delete(f"{hub_server.url}/_demo/requests")
    assert _get(f"{hub_server.url}/_demo/requests").json() == {}


def test_it_runs_as_a_program_and_ends_when_told_to(tmp_path: Path, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound()
    command = [sys.executable, "-m", "onnx_fleet_demo.hub_server", "--root", str(repo_maker.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        url = program.stdout.readline().strip().removeprefix("Hub at ")
        with urllib.request.urlopen(f"{url}/api/models/{repo}") as answer:
            assert json.load(answer)["id"] == repo
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=10) == 0
