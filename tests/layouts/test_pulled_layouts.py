"""A folder in a server's layout: it appears whole or not at all, has every byte once, and is verified like a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.killed_updates import holds
from fixtures.signers import policy, signer
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.watched_store import WatchedStore
from onnx_fleet.bundles import bundle, signatures
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.pull import pull as pull_plainly
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, BundleUntrusted, FolderOccupied, LayoutUnsupported
from onnx_fleet.layouts import pulled
from onnx_fleet.layouts.arrangement import Choice
from onnx_fleet.layouts.pulled import LayoutName
from onnx_fleet.store import ObjectStore

MODEL = "acme/tiny"
OLD, NEW = f"{MODEL}@01234567-aaaaaaaa", f"{MODEL}@01234567-bbbbbbbb"
PLACED = "models/tiny/1/model.onnx"
FP32 = Choice(variant="fp32")


def two_versions(folder: Path, store: ObjectStore) -> ObjectStore:
    """The store with two versions of a model, whose graphs differ, and whose weights are equal."""
    for digit in "ab":
        stage = tiny_stage(folder / digit, item=work_item(fingerprint=digit * 64), scale=ord(digit))
        publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW)
    return store


@pytest.fixture
def store(tmp_path: Path, any_store: ObjectStore) -> ObjectStore:
    """A store with two versions of a model."""
    return two_versions(tmp_path, any_store)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder to pull into."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def pull(ref: str, *, store: ObjectStore, to: Path, update: bool = False, layout: LayoutName = "triton") -> str:
    return ref_of(pulled.pull(ref, store=store, to=to, layout=layout, choice=FP32, update=update).bundle)


def test_a_layout_holds_each_file_of_the_bundle_once_with_its_bytes(store: ObjectStore, home: Path) -> None:
    pull(NEW, store=store, to=home / "tiny")
    pull_plainly(NEW, store=store, to=home / "plain")

    record = json.loads((home / "tiny/layout.json").read_bytes())
    placed = {file["bundle_path"]: file["path"] for file in record["files"] if file["bundle_path"]}
    plain = [path.relative_to(home / "plain").as_posix() for path in (home / "plain").rglob("*") if path.is_file()]
    assert placed.keys() == set(plain) - {"manifest.json"}
    for name in plain:
        assert (home / "tiny" / placed.get(name, name)).read_bytes() == (home / "plain" / name).read_bytes()
    assert placed["onnx/model.onnx_data"] == f"{PLACED}/model.onnx_data"
    assert {path.stat().st_nlink for path in (home / "tiny").rglob("*") if path.is_file()} == {1}
    assert sorted(entry.name for entry in home.iterdir()) == ["plain", "tiny"]


def test_sha256sum_verifies_a_layout_by_its_record(store: ObjectStore, home: Path) -> None:
    pull(NEW, store=store, to=home / "tiny")
    check = """jq -r '.files[] | "\\(.sha256)  \\(.path)"' layout.json | sha256sum --check --strict --quiet"""
    subprocess.run(["bash", "-o", "pipefail", "-c", check], cwd=home / "tiny", check=True)

    (home / "tiny" / PLACED / "model.onnx").write_bytes(b"other")
    assert subprocess.run(["bash", "-c", check], cwd=home / "tiny", check=False, capture_output=True).returncode == 1


def test_a_layout_that_was_broken_off_anywhere_shows_nothing_and_goes_on(local_store: ObjectStore, home: Path) -> None:
    store = two_versions(home.parent, local_store)
    counted = SteppedStore(store, step=0, before=lambda: None)
    pull(NEW, store=counted, to=home / "counted")
    for step in range(1, counted.steps + 1):
        target = home / f"tiny-{step}"
        with pytest.raises(Interrupted):
            pull(NEW, store=interrupted(store, step=step), to=target)
        assert not target.exists()
        pull(NEW, store=store, to=target)
        assert holds(target) == NEW
    assert not [entry.name for entry in home.iterdir() if entry.name.startswith(".")]


def test_an_update_that_is_killed_anywhere_leaves_one_version_whole(tmp_path: Path, local_store: ObjectStore) -> None:
    two_versions(tmp_path, local_store)
    command = [sys.executable, "-m", "fixtures.killed_updates", local_store.address, str(tmp_path / "home"), OLD, NEW]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, "triton"], env=environment, capture_output=True, text=True, check=True)
    *killed, through = map(json.loads, done.stdout.splitlines())

    assert through == {"before": None, "holds": NEW, "afterwards": NEW, "left": ["tiny"]}
    assert [each["holds"] for each in killed] == sorted(each["holds"] for each in killed), "it changes once"
    assert {each["holds"] for each in killed} == {OLD, NEW}
    assert all((each["afterwards"], each["left"]) == (NEW, ["tiny"]) for each in killed), "the next one finishes"


def test_an_update_fetches_only_what_differs(store: ObjectStore, home: Path) -> None:
    pull(OLD, store=store, to=home / "tiny")
    watched = WatchedStore(store)
    assert pull(NEW, store=watched, to=home / "tiny", update=True) == NEW

    fetched = {key.partition("01234567-bbbbbbbb/")[2] for key in watched.fetched}
    assert "onnx/model.onnx" in fetched
    assert "onnx/model.onnx_data" not in fetched
    assert holds(home / "tiny") == NEW


def _changed(folder: Path) -> None:
    (folder / "models/tiny/config.pbtxt").write_text("name: 'other'")


def _damaged(folder: Path) -> None:
    (folder / PLACED / "model.onnx_data").write_bytes(b"other")


@pytest.mark.parametrize("harm", [_changed, _damaged])
def test_pulling_again_verifies_what_is_there_and_an_update_mends_it(
    harm: Callable[[Path], None], store: ObjectStore, home: Path
) -> None:
    pull(NEW, store=store, to=home / "tiny")
    pull(NEW, store=store, to=home / "tiny")

    harm(home / "tiny")
    with pytest.raises(BundleCorrupt, match="missing or changed files"):
        pull(NEW, store=store, to=home / "tiny")
    pull(NEW, store=store, to=home / "tiny", update=True)
    assert holds(home / "tiny") == NEW


def test_a_folder_that_holds_something_else_is_refused(store: ObjectStore, home: Path) -> None:
    pull(OLD, store=store, to=home / "tiny")
    pull_plainly(OLD, store=store, to=home / "plain")

    with pytest.raises(FolderOccupied, match=r"arranged in another way; .* --update"):
        pull(NEW, store=store, to=home / "tiny")
    with pytest.raises(FolderOccupied, match=r"has no layout\.json"):
        pull(NEW, store=store, to=home / "plain", update=True)
    (home / "tiny/models/tiny/labels.txt").write_text("mine")
    with pytest.raises(FolderOccupied, match=r"would be lost \(models/tiny/labels\.txt\)"):
        pull(NEW, store=store, to=home / "tiny", update=True)
    assert (home / "tiny/models/tiny/labels.txt").read_text() == "mine"


def test_a_small_file_that_a_layout_reads_is_verified(store: ObjectStore, home: Path) -> None:
    key = bundle.find(NEW, store=store).key("config.json")
    store.replace(key, b'{"max_position_embeddings": 1}', etag=store.read_tagged(key)[1])
    with pytest.raises(BundleCorrupt, match="has other bytes"):
        pull(NEW, store=store, to=home / "tiny")
    assert list(home.iterdir()) == [] or not (home / "tiny").exists()


@pytest.mark.parametrize(
    ("layout", "choice", "why"),
    [
        ("triton", Choice(variant="int8"), "has no int8; it has fp32: choose one of these with --variant"),
        ("kserve", FP32, "name the one that this folder will have, with --storage-uri"),
        ("genai", FP32, "is of the family encoder, with model; this layout is for decoders of one graph"),
    ],
)
def test_a_bundle_that_a_layout_does_not_take_is_refused_before_anything_is_downloaded(
    layout: LayoutName, choice: Choice, why: str, store: ObjectStore, home: Path
) -> None:
    watched = WatchedStore(store)
    with pytest.raises(LayoutUnsupported, match=why):
        pulled.pull(NEW, store=watched, to=home / "tiny", layout=layout, choice=choice)
    assert watched.fetched == []
    assert list(home.iterdir()) == []


def test_a_trust_policy_is_asked_before_anything_is_downloaded_and_where_the_folder_stands(
    store: ObjectStore, home: Path, tmp_path: Path
) -> None:
    ci = signer(tmp_path / "keys", "ci")
    wanted = policy(
        ci.folder,
        {"signers": {"ci": {"public_key": ci.public.name}}, "rules": [{"models": ["*"], "signers": ["ci"]}]},
    )
    watched = WatchedStore(store)

    def trusted() -> str:
        made = pulled.pull(NEW, store=watched, to=home / "tiny", layout="triton", choice=FP32, policy=wanted)
        return ref_of(made.bundle)

    with pytest.raises(BundleUntrusted, match="asks for signatures of 1 of ci"):
        trusted()
    assert watched.fetched == []
    assert list(home.iterdir()) == []
    pull(NEW, store=store, to=home / "tiny")
    with pytest.raises(BundleUntrusted, match="asks for signatures of 1 of ci"):
        trusted()
    signatures.add(bundle.find(NEW, store=store), key=ci.signing_key, store=store)
    assert trusted() == NEW
