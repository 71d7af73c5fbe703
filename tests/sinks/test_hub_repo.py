"""Bundles in repos of a Hub: pulled back byte for byte, committed once, each repo where its channel is."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download

from fixtures.moved import AUDIT
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.told_events import moved, published
from onnx_fleet.bundles import bundle, feed, removal
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import SinksInvalid
from onnx_fleet.sinks import configuration, delivery, hub_card, sink_state
from onnx_fleet.sinks.configuration import ConfiguredSink
from onnx_fleet.sinks.delivery import Delivery, Patience
from onnx_fleet.store import ObjectStore
from onnx_fleet.store.forwarding import ForwardingStore
from onnx_fleet.store.objects import ObjectInfo, Progress
from onnx_fleet_demo.hub_failures import Failure, Route
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.hub_uploads import Account

# huggingface_hub sends an LFS object by a parameter that httpx2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

TOKEN = "hf_robot"
AT_ONCE = Patience(tries=1)
CARD = b"---\r\nlicense: mit\r\n---\r\n# Tiny\r\n\r\nWritten by its author, caf\xc3\xa9.\r\n"


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    """A Hub on which a robot may write for the organisation ``corp``."""
    hub_server.uploads.accounts[TOKEN] = Account(name="robot", orgs=("corp",))
    return hub_server


def hub_sink(server: HubServer, *, repo: str = "corp/{name}", token: str = TOKEN, more: str = "") -> ConfiguredSink:
    text = f"sinks:\n- {{name: hub, kind: huggingface, url: '{server.url}', repo: '{repo}', secret: hub-token{more}}}\n"
    (made,) = configuration.parse(text, source="sinks.yaml", secrets=lambda _name: token)
    return made


def run(sink: ConfiguredSink, store: ObjectStore) -> Delivery:
    return delivery.run(sink, store=store, patience=AT_ONCE)


def pulled(server: HubServer, repo_id: str, folder: Path, *, revision: str = "main") -> dict[str, bytes]:
    """Every file of a repo, as any client gets it."""
    snapshot = Path(
        snapshot_download(
            repo_id, revision=revision, endpoint=server.url, token=TOKEN, local_dir=folder, etag_timeout=30
        )
    )
    files = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    return {path: file.read_bytes() for path, file in files.items() if not path.startswith((".cache/", ".git"))}


def expected(store: ObjectStore, ref: str) -> dict[str, bytes]:
    found = bundle.find(ref, store=store)
    wanted = [file.path for file in found.manifest.files if file.role not in ("readme", "report")]
    return {**{path: store.read(found.key(path)) for path in wanted}, "onnx/manifest.json": found.manifest_json}


def source_repo(server: HubServer, repo_id: str = "acme/tiny") -> Path:
    folder = server.repos.root / repo_id
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD)
    (folder / "config.json").write_text('{"of": "its author"}')
    return folder


def test_a_bundle_comes_back_byte_for_byte(tmp_path: Path, any_store: ObjectStore, server: HubServer) -> None:
    version = published(tmp_path, any_store).version
    done = run(hub_sink(server), any_store)

    assert (done.delivered, done.error) == (1, None)
    files = pulled(server, "corp/tiny", tmp_path / "pulled")
    card = files.pop("README.md").decode()
    assert files == expected(any_store, "acme/tiny")
    assert server.repos.settings("corp/tiny").private
    info = HfApi(endpoint=server.url, token=TOKEN).model_info("corp/tiny")
    assert info.card_data is not None
    assert (info.card_data.license, info.card_data.base_model) == ("apache-2.0", "acme/tiny")
    assert f"`acme/tiny@{version}`" in card
    assert "at commit `0123456789abcdef0123456789abcdef01234567`" in card
    assert "2 of 2 cases passed; the largest absolute difference is 3.0e-06" in card
    assert "| batch 1 × 16 tokens | fp32 | cpu | 1.00 | 2.00 |" in card


def test_the_same_bundle_is_committed_once(tmp_path: Path, local_store: ObjectStore, server: HubServer) -> None:
    published(tmp_path, local_store)
    run(hub_sink(server), local_store)
    assert delivery.replay(hub_sink(server), store=local_store, since=NOW)
    assert run(hub_sink(server), local_store).delivered == 1
    assert len(server.uploads.commits) == 1

    published(tmp_path, local_store, digit="b")  # the same graphs and weights, under another version
    assert run(hub_sink(server), local_store).delivered == 1
    assert len(server.uploads.commits) == 2
    assert sorted(server.uploads.commits[1].paths) == ["README.md", "onnx/manifest.json"]
    assert len(server.uploads.received) == len(set(server.uploads.received)) == 1


def test_a_file_that_somebody_removed_is_brought_again(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    published(tmp_path, local_store)
    run(hub_sink(server), local_store)
    HfApi(endpoint=server.url, token=TOKEN).delete_file("onnx/model.onnx", "corp/tiny")
    assert delivery.replay(hub_sink(server), store=local_store, since=NOW)
    run(hub_sink(server), local_store)
    assert server.uploads.commits[-1].paths == ("onnx/model.onnx",)
    assert len(server.uploads.received) == 1  # the Hub still had its bytes


def test_a_repo_follows_its_channel_forth_and_back(tmp_path: Path, local_store: ObjectStore, server: HubServer) -> None:
    sink = hub_sink(server, more=", channel: stable")
    old = published(tmp_path, local_store).version
    assert run(sink, local_store).delivered == 1
    assert server.repos.canonical("corp/tiny") is None  # stable points nowhere yet

    stage = tiny_stage(tmp_path / "new", item=work_item(fingerprint="b" * 64), scale=3.0)
    (stage / "vocab.txt").write_text("a file that only this version has")
    new = publish(Stage.open(stage), store=local_store, provenance=PROVENANCE, created_at=NOW).version
    for at, version in enumerate((old, new, old)):
        moved(local_store, "stable", version)
        assert run(sink, local_store).error is None
        files = pulled(server, "corp/tiny", tmp_path / f"pulled-{at}")
        assert f"@{version}`" in files.pop("README.md").decode()
        assert files == expected(local_store, f"acme/tiny@{version}")
    assert len(server.uploads.commits) == 3


def test_the_rest_of_a_card_is_never_touched(tmp_path: Path, local_store: ObjectStore, server: HubServer) -> None:
    folder = source_repo(server, "corp/tiny")
    published(tmp_path, local_store)
    run(hub_sink(server), local_store)
    first = (folder / "README.md").read_bytes()
    assert first.startswith(CARD)
    (folder / "README.md").write_bytes(first + b"\r\nA note behind it.\r\n")
    version = published(tmp_path, local_store, digit="b").version
    run(hub_sink(server), local_store)

    before, _, rest = (folder / "README.md").read_bytes().partition(hub_card.BEGIN.encode())
    ours, _, after = rest.partition(hub_card.END.encode())
    assert before == CARD + b"\n"
    assert version.encode() in ours
    assert after == b"\n\r\nA note behind it.\r\n"


def test_a_card_whose_markers_are_no_pair_sets_the_event_aside(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    folder = source_repo(server, "corp/tiny")
    (folder / "README.md").write_bytes(CARD + hub_card.END.encode())
    published(tmp_path, local_store)
    assert run(hub_sink(server), local_store).set_aside == 1
    assert "has not one pair" in sink_state.read(local_store, "hub").state.set_aside[0].message
    assert server.uploads.commits == []


def test_a_source_gets_one_pull_request_that_follows_the_channel(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    folder = source_repo(server)
    sink = hub_sink(server, repo="{org}/{name}")
    for digit in "ab":
        version = published(tmp_path, local_store, digit=digit).version
        for _ in range(2):
            assert run(sink, local_store).error is None
            delivery.replay(sink, store=local_store, since=NOW)

    (proposed,) = server.uploads.pull_requests
    assert (proposed.author, proposed.status) == ("robot", "open")
    assert "acme/tiny@" in proposed.description
    assert [each.revision for each in server.uploads.commits] == ["refs/pr/1", "refs/pr/1"]
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "onnx"}  # main is as it was
    assert (folder / "README.md").read_bytes() == CARD
    files = pulled(server, "acme/tiny", tmp_path / "pulled", revision="refs/pr/1")
    assert f"@{version}`" in files.pop("README.md").decode()
    assert files.pop("config.json") == b'{"of": "its author"}'
    assert files == {path: data for path, data in expected(local_store, "acme/tiny").items() if "onnx/" in path}

    server.uploads.merge("acme/tiny", 1)
    assert run(sink, local_store).delivered == 2
    assert len(server.uploads.commits) == 2
    published(tmp_path, local_store, digit="c")
    run(sink, local_store)
    assert [each.status for each in server.uploads.pull_requests] == ["merged", "open"]
    server.uploads.close("acme/tiny", 2)
    published(tmp_path, local_store, digit="d")
    run(sink, local_store)
    assert [each.status for each in server.uploads.pull_requests] == ["merged", "closed"]


def test_a_source_that_was_renamed_is_still_a_source(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    server.uploads.accounts[TOKEN] = Account(name="robot", orgs=("acme", "corp"))
    source_repo(server)
    server.repos.configure("acme/tiny", Settings(aliases=("corp/tiny",)))
    published(tmp_path, local_store)
    assert run(hub_sink(server), local_store).error is None
    assert [each.revision for each in server.uploads.commits] == ["refs/pr/1"]


def test_a_repo_of_ones_own_gets_a_pull_request_where_that_is_asked_for(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    published(tmp_path, local_store)
    assert run(hub_sink(server, more=", pull_request: true"), local_store).error is None
    (proposed,) = server.uploads.pull_requests
    assert pulled(server, "corp/tiny", tmp_path / "main") == {}
    files = pulled(server, "corp/tiny", tmp_path / "proposed", revision=proposed.branch)
    del files["README.md"]
    assert files == expected(local_store, "acme/tiny")


def test_a_repo_that_holds_another_model_stays(tmp_path: Path, local_store: ObjectStore, server: HubServer) -> None:
    published(tmp_path, local_store)
    published(tmp_path, local_store, model_id="other/tiny")
    assert run(hub_sink(server), local_store).set_aside == 1
    (aside,) = sink_state.read(local_store, "hub").state.set_aside
    assert aside.event.model_id == "other/tiny"
    assert "corp/tiny holds acme/tiny@" in aside.message
    assert len(server.uploads.commits) == 1


def test_what_comes_from_a_gated_repo_goes_into_no_public_one(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    item = work_item()
    stage = tiny_stage(tmp_path / "gated", item=replace(item, model=replace(item.model, gated=True)))
    publish(Stage.open(stage), store=local_store, provenance=PROVENANCE, created_at=NOW)
    assert run(hub_sink(server, more=", private: false"), local_store).set_aside == 1
    assert server.uploads.commits == []
    server.repos.configure("corp/tiny", Settings(private=True, tokens=(TOKEN,)))
    assert delivery.replay(hub_sink(server), store=local_store, since=NOW)
    assert run(hub_sink(server), local_store).delivered == 1
    assert len(server.uploads.commits) == 1


def test_what_somebody_else_commits_meanwhile_stays(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    published(tmp_path, local_store)
    sink = hub_sink(server)
    assert run(sink, local_store).error is None
    note = server.repos.root / "corp/tiny/NOTES.md"

    class Busy(ForwardingStore):
        """A store from which a file is read while somebody else commits to the repo."""

        def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
            note.write_text("somebody else's")
            return self.store.download(key, path, progress=progress)

    version = published(tmp_path, local_store, digit="b").version
    done = run(sink, Busy(local_store))
    assert (done.delivered, done.error) == (0, "SinkUnavailable")
    assert "HTTP 412" in done.message
    assert run(sink, local_store).delivered == 1
    files = pulled(server, "corp/tiny", tmp_path / "pulled")
    assert files["NOTES.md"] == b"somebody else's"
    assert version.encode() in files["README.md"]


def test_a_deleted_version_leaves_the_repo_at_its_channel(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    old, new = (published(tmp_path, local_store, digit=digit).version for digit in "ab")
    removal.remove(local_store, "acme/tiny", old, keeper=lambda: None, by=AUDIT, why="nothing keeps it", now=NOW)
    feed.rebuild(local_store, now=NOW)
    done = run(hub_sink(server), local_store)
    assert (done.delivered, done.set_aside) == (3, 0)
    assert [each.summary for each in server.uploads.commits] == [f"Add the ONNX files of acme/tiny@{new}"]


def test_a_large_file_is_not_held_in_memory(tmp_path: Path, local_store: ObjectStore, server: HubServer) -> None:
    weight_bytes = 24 * 1024 * 1024
    stage = tiny_stage(tmp_path / "large", item=work_item(), weight_bytes=weight_bytes)
    publish(Stage.open(stage), store=local_store, provenance=PROVENANCE, created_at=NOW)
    tracemalloc.start()
    try:
        done = run(hub_sink(server), local_store)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.error is None
    assert len(server.uploads.received) == 2
    assert peak_bytes < weight_bytes / 3


def test_what_fails_on_the_way_is_tried_again_and_leaves_no_half_repo(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    published(tmp_path, local_store)
    routes: tuple[Route, ...] = ("info", "create", "tree", "preupload", "lfs-batch", "lfs-put", "lfs-verify", "commit")
    for route in routes:
        server.fail(Failure(kind="server_error", route=route))
        done = run(hub_sink(server), local_store)
        assert (route, done.delivered, done.error) == (route, 0, "SinkUnavailable")
        assert server.uploads.commits == []
        server.failures.clear()
    assert run(hub_sink(server), local_store).delivered == 1
    files = pulled(server, "corp/tiny", tmp_path / "pulled")
    del files["README.md"]
    assert files == expected(local_store, "acme/tiny")


@pytest.mark.parametrize("more", ["", ", pull_request: true"])
def test_a_commit_whose_answer_was_lost_is_not_made_again(
    tmp_path: Path, local_store: ObjectStore, server: HubServer, more: str
) -> None:
    published(tmp_path, local_store)
    sink = hub_sink(server, more=more)
    server.fail(Failure(kind="answer_lost", route="commit", times=1))
    assert run(sink, local_store).error == "SinkUnavailable"
    assert run(sink, local_store).delivered == 1
    assert len(server.uploads.commits) == 1
    assert len(server.uploads.pull_requests) == bool(more)


def test_the_hub_says_how_long_to_wait(tmp_path: Path, local_store: ObjectStore, server: HubServer) -> None:
    published(tmp_path, local_store)
    server.fail(Failure(kind="rate_limited", route="preupload", times=1, retry_header="retry-after"))
    patience = Patience(tries=2, first_pause_s=300, longest_pause_s=600)
    assert delivery.run(hub_sink(server), store=local_store, patience=patience).delivered == 1


@pytest.mark.parametrize("token", ["hf_nobody", "hf_stranger"])
def test_a_token_that_may_not_write_holds_the_sink(
    tmp_path: Path, local_store: ObjectStore, server: HubServer, token: str
) -> None:
    server.uploads.accounts["hf_stranger"] = Account(name="stranger")
    published(tmp_path, local_store)
    sink = hub_sink(server, token=token)
    done = run(sink, local_store)
    assert (done.delivered, done.error) == (0, "SinkDenied")
    assert "'hub-token'" in done.message
    assert token not in done.message
    assert delivery.waiting(sink, store=local_store) == 1


def test_a_source_that_takes_no_pull_requests_holds_nothing_up(
    tmp_path: Path, local_store: ObjectStore, server: HubServer
) -> None:
    source_repo(server)
    source_repo(server, "other/tiny")
    for model_id in ("acme/tiny", "other/tiny"):
        published(tmp_path, local_store, model_id=model_id)
    server.fail(Failure(kind="gated", repo_id="acme/tiny", route="discussions"))
    done = run(hub_sink(server, repo="{org}/{name}"), local_store)
    assert (done.delivered, done.set_aside, done.error) == (1, 1, None)
    assert [each.repo_id for each in server.uploads.pull_requests] == ["other/tiny"]


@pytest.mark.parametrize("repo", ["corp/onnx", "corp/{name}-{task}", "{name}", "corp/{org}--{name}"])
def test_a_template_that_names_no_repo_of_each_model_is_a_fault(server: HubServer, repo: str) -> None:
    with pytest.raises(SinksInvalid, match=r"sinks\.yaml:2: repo: "):
        hub_sink(server, repo=repo)
