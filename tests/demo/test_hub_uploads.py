"""What the local Hub holds uploads to, asked by huggingface_hub's own client: digests, parents, rights."""

from __future__ import annotations

import hashlib
import json

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.hub_uploads import Account

REPO = "corp/tiny"


@pytest.fixture
def api(hub_server: HubServer) -> HfApi:
    hub_server.uploads.accounts |= {"hf_corp": Account(name="ada", orgs=("corp",)), "hf_guest": Account(name="guest")}
    api = HfApi(endpoint=hub_server.url, token="hf_corp")
    api.create_repo(REPO)
    return api


def note(text: str) -> list[CommitOperationAdd]:
    return [CommitOperationAdd("note.txt", text.encode())]


def test_an_object_has_the_digest_that_it_is_sent_under(hub_server: HubServer, api: HfApi) -> None:
    oid = hashlib.sha256(b"these").hexdigest()
    assert httpx2.put(f"{hub_server.url}/_lfs/{REPO}/{oid}", content=b"those").status_code == 400
    assert hub_server.uploads.received == []
    verify = f"{hub_server.url}/{REPO}.git/info/lfs/objects/verify"
    signed = {"Authorization": f"Bearer {api.token}"}
    assert httpx2.post(verify, json={"oid": oid, "size": 5}, headers=signed).status_code == 404


def test_a_commit_names_objects_that_are_there(hub_server: HubServer, api: HfApi) -> None:
    before = api.model_info(REPO).sha
    lines = [
        {"key": "header", "value": {"summary": "Add", "description": ""}},
        {"key": "lfsFile", "value": {"path": "a.onnx", "algo": "sha256", "oid": "a" * 64, "size": 1}},
    ]
    answer = httpx2.post(
        f"{hub_server.url}/api/models/{REPO}/commit/main",
        content="\n".join(map(json.dumps, lines)).encode(),
        headers={"Authorization": f"Bearer {api.token}"},
    )
    assert answer.status_code == 400
    with pytest.raises(EntryNotFoundError):
        api.create_commit(
            REPO, [*note("a"), CommitOperationDelete("nothing.txt", is_folder=False)], commit_message="Remove"
        )
    assert api.model_info(REPO).sha == before


def test_a_commit_on_an_older_parent_is_refused(api: HfApi) -> None:
    before = api.model_info(REPO).sha
    api.create_commit(REPO, note("a"), commit_message="Add", parent_commit=before)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit(REPO, note("b"), commit_message="Add", parent_commit=before)
    assert caught.value.response.status_code == 412


def test_who_may_not_write_may_propose_and_change_that(hub_server: HubServer, api: HfApi) -> None:
    guest = HfApi(endpoint=hub_server.url, token="hf_guest")
    with pytest.raises(HfHubHTTPError) as caught:
        guest.create_commit(REPO, note("a"), commit_message="Add")
    assert caught.value.response.status_code == 403
    opened = guest.create_commit(REPO, note("a"), commit_message="Add", create_pr=True)
    assert opened.pr_num == 1
    guest.create_commit(REPO, note("b"), commit_message="Correct", revision="refs/pr/1")
    assert not api.file_exists(REPO, "note.txt")
    hub_server.uploads.merge(REPO, 1)
    (listed,) = api.get_repo_discussions(REPO, author="guest")
    assert (listed.title, listed.status) == ("Add", "merged")
    assert (hub_server.repos.root / REPO / "note.txt").read_text() == "b"
