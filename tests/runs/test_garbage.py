"""Garbage: what goes and what stays, and that nothing goes which anybody needs, whoever works at the same time."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from fixtures import planned_models
from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted, killed
from fixtures.moved import BY, REASON
from fixtures.quirky_s3 import serve
from fixtures.stages import PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import channels, events, feed, removal, retention, tombstones
from onnx_fleet.bundles.listing import list_models
from onnx_fleet.bundles.publish import Publication, publish
from onnx_fleet.bundles.pull import pull
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.verify import verify
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.retention import Retention
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleDeleted, OnnxFleetError
from onnx_fleet.planning import plan
from onnx_fleet.runs import channel_moves, garbage
from onnx_fleet.runs.garbage import Garbage
from onnx_fleet.store import ObjectStore, layout, open_store, swaps
from onnx_fleet.store.address import parse_s3
from onnx_fleet.store.s3_client import S3Place
from onnx_fleet_demo.s3_server import EmbeddedS3

MODEL = "acme/tiny"
OLD, NEXT, NEW = (f"01234567-{digit * 8}" for digit in "abc")
LATER = datetime.now(UTC) + timedelta(days=1000)
"""A time at which everything that a test has made is old."""
KEEP_ONE = Retention(keep_last=1, history_days=1, grace_days=1)
JANITOR = Actor(kind="person", name="ada@build-7")

Writer = Callable[[ObjectStore], object]


def collect(
    store: ObjectStore,
    *,
    now: datetime = LATER,
    delete: bool = True,
    holds: Retention = KEEP_ONE,
    only: tuple[str, ...] = (),
) -> Garbage:
    return garbage.collect(store, policy=lambda _id: holds, run_id="gc", by=JANITOR, now=now, only=only, delete=delete)


def move(store: ObjectStore, version: str, *, channel: str = "stable") -> channels.Channel:
    return channels.move(store, MODEL, channel, version, reason=REASON, now=datetime.now(UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Stages of three versions of a model, which publish it as often as a test wants."""

    folders: dict[str, Path]

    def publish(self, store: ObjectStore, version: str) -> Publication:
        age = timedelta(days="cba".index(version[-1]))
        return publish(
            Stage.open(self.folders[version]),
            store=store,
            provenance=PROVENANCE,
            created_at=datetime.now(UTC) - age,
            by=BY,
        )

    def publish_all(self, store: ObjectStore) -> ObjectStore:
        for version in self.folders:
            self.publish(store, version)
        return store


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    home = tmp_path_factory.mktemp("stages")
    items = {version: work_item(fingerprint=version[-1] * 64) for version in (OLD, NEXT, NEW)}
    return Stages(folders={name: tiny_stage(home / name, item=item) for name, item in items.items()})


def require_sound(store: ObjectStore, where: object = "") -> None:
    """No channel names a version that is missing, every bundle has all its files, and tombstones have the manifests."""
    shown = {model.model_id: model.versions for model in list_models(store)}.get(MODEL, ())
    for info in store.list(f"models/{MODEL}/channels/"):
        pointer = channels.parse(store.read(info.key), where=info.key)
        assert pointer.version in shown, f"{info.key} names {pointer.version}, {where}"
    for version in shown:
        assert verify(f"{MODEL}@{version}", store=store).passed, f"{version}, {where}"
    for _model_id, version in tombstones.noted(store):
        if found := tombstones.find(store, MODEL, version):
            assert version not in shown
            if found.manifest_sha256:
                assert found.manifest is not None
                assert found.manifest["bundle"]["version"] == version


def remains(store: ObjectStore, version: str) -> list[str]:
    return [info.key for place in ("models", "unfinished") for info in store.list(f"{place}/{MODEL}/{version}/")]


def test_what_nothing_keeps_goes_and_its_manifest_stays_in_a_tombstone(any_store: ObjectStore, stages: Stages) -> None:
    stages.publish_all(any_store)
    manifest = any_store.read(layout.manifest_key(MODEL, OLD))
    before = [info.key for info in any_store.list("")]

    shown = collect(any_store, delete=False)
    assert [(each.version, each.why_not) for each in shown.gone] == [(OLD, "")]
    assert shown.size_bytes == shown.gone[0].size_bytes > 1000
    assert shown.kept == {"channel": 2}, "latest, and the version that a rollback would go to"
    assert [info.key for info in any_store.list("")] == before, "a dry run writes nothing"

    done = collect(any_store)
    assert [each.version for each in done.gone] == [OLD]
    assert done.size_bytes == shown.size_bytes
    assert remains(any_store, OLD) == []
    stone = tombstones.find(any_store, MODEL, OLD)
    assert stone is not None
    assert (stone.by, stone.manifest) == (JANITOR, json.loads(manifest))
    assert "newest 1" in stone.why
    [told] = [event for _at, event in events.since(any_store) if event.kind == "deleted"]
    assert (told.model_id, told.version, told.by, told.why) == (MODEL, OLD, JANITOR, stone.why)
    require_sound(any_store)
    assert [each.version for each in feed.read(any_store)[0].versions] == [NEW, NEXT]
    assert collect(any_store).versions == ()


def test_whoever_asks_for_a_deleted_version_learns_when_by_whom_why_and_where_its_manifest_is(
    local_store: ObjectStore, stages: Stages, tmp_path: Path
) -> None:
    stages.publish_all(local_store)
    collect(local_store)
    told = rf"{OLD}: was deleted at 20.* by ada@build-7: it was not among .* kept in .*/deleted/{MODEL}/{OLD}\.json"
    with pytest.raises(BundleDeleted, match=told):
        pull(f"{MODEL}@{OLD}", store=local_store, to=tmp_path / "pulled")
    with pytest.raises(BundleDeleted, match=told):
        verify(f"{MODEL}@{OLD}", store=local_store)
    with pytest.raises(BundleDeleted, match=told):
        channel_moves.to_version(local_store, MODEL, "stable", OLD)
    with pytest.raises(BundleDeleted, match=told):
        stages.publish(local_store, OLD)
    assert remains(local_store, OLD) == []


def test_what_channels_histories_signatures_and_age_name_stays(local_store: ObjectStore, stages: Stages) -> None:
    stages.publish_all(local_store)

    def kept(now: datetime = LATER, holds: Retention = KEEP_ONE) -> dict[str, int]:
        return dict(collect(local_store, now=now, holds=holds, delete=False).kept)

    assert kept(now=datetime.now(UTC)) == {"young": 3}
    assert kept(holds=Retention(keep_last=3, history_days=1, grace_days=1)) == {"newest": 3}
    assert kept(holds=Retention(keep_last=1, history_days=2000, grace_days=1)) == {"channel": 2, "history": 1}
    local_store.create(f"signatures/{MODEL}/{OLD}/model.sig", b"signed")
    assert kept() == {"channel": 2, "signed": 1}
    assert kept(holds=replace(KEEP_ONE, release_keys=("model",))) == {"channel": 2, "signed": 1}
    assert kept(holds=replace(KEEP_ONE, release_keys=("another",))) == {"channel": 2}
    local_store.delete(f"signatures/{MODEL}/{OLD}/model.sig")
    move(local_store, OLD, channel="release-1")
    assert kept() == {"channel": 3}
    swaps.put(local_store, channels.key_of(MODEL, "release-1"), b"{")
    assert kept() == {"unreadable": 3}, "nothing goes where a document that decides cannot be read"


def test_a_row_whose_move_may_still_take_place_keeps_its_version_whatever_its_age(
    local_store: ObjectStore, stages: Stages
) -> None:
    stages.publish_all(local_store)
    with pytest.raises(Interrupted):
        move(interrupted(local_store, step=6), OLD)
    assert collect(local_store, delete=False).kept == {"channel": 2, "moving": 1}
    move(local_store, NEXT)
    move(local_store, NEW)
    assert [each.version for each in collect(local_store).gone] == [OLD], "the channel has gone on without it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """A store with three versions of a model, of which nothing keeps the oldest; as many copies as a test wants."""

    made: Path
    folder: Path

    def store(self) -> ObjectStore:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.made, self.folder)
        return open_store(str(self.folder))


@pytest.fixture(scope="module")
def published(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "store"
    stages.publish_all(open_store(str(folder)))
    return folder


@pytest.fixture
def copies(published: Path, tmp_path: Path) -> Iterator[Copies]:
    """In memory where the machine has such a folder: a store syncs all that it writes, and these tests write much."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Copies(made=published, folder=Path(folder) / "store")


def unfinished(copies: Copies) -> ObjectStore:
    """The publication of the newest version was killed before its manifest."""
    store = copies.store()
    store.delete(f"models/{MODEL}/{NEW}/manifest.json")
    move(store, NEXT, channel="latest")
    store.create(
        f"unfinished/{MODEL}/{NEW}/decision.json", (copies.made / f"models/{MODEL}/{NEW}/manifest.json").read_bytes()
    )
    return store


def steps_of(store: ObjectStore, writer: Writer) -> int:
    counted = SteppedStore(store, step=0, before=lambda: None)
    with suppress(OnnxFleetError):
        writer(counted)
    return counted.steps


def test_wherever_gc_is_killed_nothing_is_half_gone_and_the_next_one_goes_on(copies: Copies) -> None:
    steps = steps_of(copies.store(), collect)
    assert steps > 30
    outcomes = set()
    for step in range(1, steps + 1):
        store = copies.store()
        killed(partial(open_store, store.address), collect, step=step)
        require_sound(store, f"killed before operation {step}")
        outcomes.add((tombstones.find(store, MODEL, OLD) is not None, bool(remains(store, OLD))))
        collect(store)
        require_sound(store, f"after operation {step}")
        assert remains(store, OLD) == []
        assert tombstones.find(store, MODEL, OLD)
        assert "deleted" in {event.kind for _at, event in events.since(store)}
        assert [each.version for each in feed.read(store)[0].versions] == [NEW, NEXT]
    assert outcomes == {(False, True), (True, True), (True, False)}


WRITERS: dict[str, Callable[[Stages], Writer]] = {
    "promotes": lambda stages: lambda store: move(store, OLD),
    "rolls back": lambda stages: (
        lambda store: channel_moves.carry_out(
            store, [channel_moves.back(store, MODEL, "latest", version=OLD)], reason=REASON, now=datetime.now(UTC)
        )
    ),
    "publishes it again": lambda stages: lambda store: stages.publish(store, OLD),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_and_gc_may_come_between_all_operations_of_each_other(
    copies: Copies, stages: Stages, writer: str
) -> None:
    """Whoever needs the version has it, or is told that it is gone; no channel ever names one that is missing."""
    write = WRITERS[writer](stages)
    gone = set()
    for first, second in ((write, collect), (collect, write)):
        for step in range(1, steps_of(copies.store(), first) + 1):
            store = copies.store()
            where = f"{'gc' if second is collect else 'it'} comes before operation {step}"
            told = _both(first, second, store, step=step)
            require_sound(store, where)
            is_gone = tombstones.find(store, MODEL, OLD) is not None
            gone.add(is_gone)
            assert all(isinstance(err, BundleDeleted) or "was deleted" in str(err) for err in told), (where, told)
            assert not told or is_gone, where
            collect(store)
            require_sound(store, f"{where}; and gc once more")
            assert not is_gone or remains(store, OLD) == []
    assert gone == {True, False}, "each of the two comes first once"


def _both(first: Writer, second: Writer, store: ObjectStore, *, step: int) -> list[OnnxFleetError]:
    """Let a second writer do all of its work before an operation of the first one; returns what they were refused."""
    told: list[OnnxFleetError] = []

    def attempt(writer: Writer, target: ObjectStore) -> None:
        try:
            done = writer(target)
        except OnnxFleetError as err:
            told.append(err)
        else:
            if isinstance(done, tuple) and done and done[0].failed:
                told.append(OnnxFleetError(done[0].why_not))

    attempt(first, SteppedStore(store, step=step, before=lambda: attempt(second, store)))
    return told


def test_a_move_and_a_removal_that_stop_amid_each_other_never_leave_a_pointer_to_nothing(copies: Copies) -> None:
    """Every pair of places: one does so many operations, then the other so many, then each does the rest."""
    moves = steps_of(copies.store(), move_it)
    removals = steps_of(copies.store(), remove_it) - len(remains(copies.store(), OLD))  # what is decided is decided
    ends = set()
    for at_move, at_removal in itertools.product(range(1, moves + 1), range(1, removals + 1)):
        for move_ends_first in (True, False):
            store = copies.store()
            mover, remover = Paused(store, move_it, before=at_move), Paused(store, remove_it, before=at_removal)
            for each in (mover, remover) if move_ends_first else (remover, mover):
                each.go_on()
            where = f"the move waits before {at_move}, the removal before {at_removal}; {move_ends_first=}"
            require_sound(store, where)
            pointer, gone = channels.find(store, MODEL, "stable"), tombstones.find(store, MODEL, OLD)
            assert (pointer is None) or (gone is None), where
            ends.add((pointer is not None, gone is not None))
    assert ends >= {(True, False), (False, True)}


def move_it(store: ObjectStore) -> None:
    move(store, OLD)


def remove_it(store: ObjectStore) -> None:
    def keeper() -> str | None:
        return retention.named(store, MODEL, [OLD], retention=KEEP_ONE, now=LATER).get(OLD)

    removal.remove(store, MODEL, OLD, keeper=keeper, by=JANITOR, why="nothing keeps it", now=LATER)


class Paused:
    """A writer in a thread of its own, which waits before one of its operations until it may go on."""

    def __init__(self, store: ObjectStore, writer: Writer, *, before: int) -> None:
        """Begin, and return when the writer waits, or has ended without coming to that operation."""
        self._waits, self._may_go_on = threading.Event(), threading.Event()
        stepped = SteppedStore(store, step=before, before=self._pause)

        def write() -> None:
            try:
                with suppress(BundleDeleted):
                    writer(stepped)
            finally:
                self._waits.set()

        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(write)
        assert self._waits.wait(30)

    def _pause(self) -> None:
        self._waits.set()
        assert self._may_go_on.wait(30)

    def go_on(self) -> None:
        self._may_go_on.set()
        self._done.result(30)
        self._pool.shutdown()


def test_what_a_killed_publication_left_goes_and_its_version_is_never_published(copies: Copies, stages: Stages) -> None:
    store = unfinished(copies)
    assert collect(store, now=datetime.now(UTC)).versions == (), "a writer may go on with what is young"
    done = collect(store)
    assert [(each.version, each.kind) for each in done.gone] == [(OLD, "version"), (NEW, "unfinished")]
    assert remains(store, NEW) == []
    stone = tombstones.find(store, MODEL, NEW)
    assert stone is not None
    assert stone.manifest is None
    with pytest.raises(BundleDeleted, match="begun and never finished"):
        stages.publish(store, NEW)


def test_a_publication_that_goes_on_and_gc_may_come_between_all_operations_of_each_other(
    copies: Copies, stages: Stages
) -> None:
    def write(store: ObjectStore) -> Publication:
        return stages.publish(store, NEW)

    ends = set()
    for first, second in ((write, collect), (collect, write)):
        for step in range(1, steps_of(unfinished(copies), first) + 1):
            store = unfinished(copies)
            where = f"{'gc' if second is collect else 'publishing'} comes before operation {step}"
            told = _both(first, second, store, step=step)
            require_sound(store, where)
            is_gone = tombstones.find(store, MODEL, NEW) is not None
            ends.add(is_gone)
            assert bool(told) == is_gone, (where, told)
            if is_gone:
                collect(store)
                require_sound(store, f"{where}; and gc once more")
                assert remains(store, NEW) == [], where
    assert ends == {True, False}


def test_a_reader_that_has_found_a_version_gets_it_whole_or_is_told_that_it_is_gone(
    copies: Copies, tmp_path: Path
) -> None:

    def pulled(store: ObjectStore, name: str) -> object:
        shutil.rmtree(tmp_path / "pulled", ignore_errors=True)
        return pull(f"{MODEL}@{name}", store=store, to=tmp_path / "pulled")

    for name, version in (("latest", NEW), (OLD, OLD)):
        read = partial(pulled, name=name)
        refused = []
        for step in range(1, steps_of(copies.store(), read) + 1):
            store = copies.store()
            told = _both(read, collect, store, step=step)
            assert all(isinstance(err, BundleDeleted) for err in told), (name, step, told)
            refused += told
        assert bool(refused) == (version == OLD), "what a channel points to stays while it is read"


def test_what_nobody_needs_any_more_is_swept_by_its_age(local_store: ObjectStore, stages: Stages) -> None:
    stages.publish_all(local_store)
    with pytest.raises(Interrupted):
        move(interrupted(local_store, step=6), NEW)
    (lost,) = (info.key for info in local_store.list(f"history/{MODEL}/stable/"))
    for version in (OLD, NEXT):
        move(local_store, version)
    again = channels.read(local_store, MODEL, "stable")
    for key in (
        "scratch/run-1/acme/tiny/model.onnx",
        "reports/fleet_reexport__1.json",
        f"audits/{MODEL}/{NEW}/20260101T000000.000000Z.json",
        f"audits/{MODEL}/{NEW}/20260201T000000.000000Z.json",
        f"unfinished/{MODEL}/{NEW}/decision.json",
        f"unfinished/{MODEL}/{NEW}/through",
    ):
        local_store.create(key, b"{}")
    wide = Retention(keep_last=3, history_days=30, grace_days=1)
    before = channels.history(local_store, MODEL, "stable").rows

    assert collect(local_store, now=datetime.now(UTC), holds=wide).swept == ()
    shown = collect(local_store, holds=wide, delete=False)
    done = collect(local_store, holds=wide)
    assert {each.kind: each.objects for each in done.swept} == {
        "publications": 2,
        "rows": 1,
        "scratch": 1,
        "reports": 2,
    }
    assert done.swept == shown.swept
    left = [info.key for place in ("scratch", "reports", "audits", "unfinished") for info in local_store.list(place)]
    assert left == [f"audits/{MODEL}/{NEW}/20260201T000000.000000Z.json"], "the last audit of a version stays"
    assert lost not in {info.key for info in local_store.list("history/")}
    assert channels.history(local_store, MODEL, "stable").rows == before
    assert channels.read(local_store, MODEL, "stable") == again


def test_a_versioned_bucket_keeps_the_bytes_and_gc_says_so_until_a_rule_expires_them(
    s3_server: EmbeddedS3, stages: Stages
) -> None:
    place = S3Place(address=parse_s3(f"s3://{uuid.uuid4().hex}/fleet"), settings=s3_server.settings)
    client, bucket = place.client(), place.address.bucket
    client.create_bucket(Bucket=bucket)
    store = open_store(str(place.address), s3=s3_server.settings)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    stages.publish_all(store)

    done = collect(store)
    assert [each.version for each in done.gone] == [OLD]
    require_sound(store)
    assert [note.partition(": ")[2] for note in done.notes] == [
        "removed objects stay behind delete markers; no lifecycle rule that we may read expires what is noncurrent, so"
        " that no room becomes free"
    ]
    kept = client.list_object_versions(Bucket=bucket, Prefix=f"fleet/models/{MODEL}/{OLD}/")
    assert len(kept["DeleteMarkers"]) == len(kept["Versions"]) == 10

    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (rule,) = (block for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if "NoncurrentVersion" in block)
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration=json.loads(rule.replace("PREFIX", "fleet"))
    )
    assert "a lifecycle rule of the bucket expires what is noncurrent" in collect(store).notes[0]


def test_what_a_store_refuses_to_remove_is_told_and_the_rest_goes_on(stages: Stages) -> None:
    with serve() as server:
        store = open_store(server.address, s3=server.settings())
        stages.publish_all(store)
        server.quirks.answers = [("DELETE", 403, "AccessDenied")] * 2
        done = collect(store, only=(MODEL,))
        assert len(done.refused) == 2
        assert [each.version for each in done.gone] == [OLD]
        assert len(remains(store, OLD)) == 2
        require_sound(store)
        again = collect(store, only=(MODEL,))
        assert [(each.kind, each.objects, each.refused) for each in again.versions] == [("remains", 2, ())]
        assert remains(store, OLD) == []


def test_a_model_whose_version_was_deleted_is_made_again_under_another_name(local_store: ObjectStore) -> None:
    old_tools, new_tools = {"torch": "2.13.0"}, {"torch": "2.14.0"}

    def planned(tools: dict[str, str]) -> WorkItem:
        (item,) = plan.plan([planned_models.resolved(MODEL)], store=local_store, versions=tools).items
        return item

    first = planned(old_tools)
    planned_models.publish(local_store, first)
    planned_models.publish(local_store, planned(new_tools))
    planned_models.publish(local_store, planned({"torch": "2.15.0"}))
    collect(local_store)
    assert tombstones.find(local_store, MODEL, first.version)

    again = planned(old_tools)
    assert again.version != first.version
    assert (again.state, again.cause) == ("changed", "toolchain")
    assert again.reason.endswith(f"; {first.version} was deleted, and is made again as a new version")
    planned_models.publish(local_store, again)
    assert (planned(old_tools).state, planned(old_tools).version) == ("unchanged", again.version)
