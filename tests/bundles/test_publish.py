"""Publishing: whole or not at all, once, whoever else publishes and wherever it breaks off."""

from __future__ import annotations

import itertools
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.moved import REASON
from fixtures.quirky_s3 import serve
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.watched_store import WatchedStore
from onnx_fleet.bundles import bundle, channels, events, manifest
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.bundles.listing import list_models
from onnx_fleet.bundles.publish import Publication, publish, unfinished
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.verify import verify
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.entry import Gates
from onnx_fleet.entities.regression_report import Differences, Finding, RegressionReport
from onnx_fleet.errors import BundleNotFound, StoreDenied, ValidationFailed, VersionConflict, WorkerOutOfResources
from onnx_fleet.store import ObjectStore, open_store

MODEL = "acme/tiny"


def _publish(stage: Path, store: ObjectStore) -> Publication:
    return publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW)


def _keys(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list("")]


def _events(store: ObjectStore) -> list[FleetEvent]:
    return [event for _, event in events.since(store)]


def test_a_published_bundle_is_found_by_its_channel_and_is_intact(tmp_path: Path, any_store: ObjectStore) -> None:
    done = _publish(tiny_stage(tmp_path / "stage"), any_store)

    found = bundle.find(MODEL, store=any_store)
    assert (done.state, done.version, done.location) == (
        "published",
        found.version,
        f"{any_store.address}/models/{MODEL}/{found.version}",
    )
    assert done.manifest_sha256 == found.manifest_sha256
    assert verify(MODEL, store=any_store).passed


def test_the_store_holds_the_bundle_the_channel_its_history_and_the_event_and_nothing_else(
    tmp_path: Path, any_store: ObjectStore
) -> None:
    version = _publish(tiny_stage(tmp_path / "stage"), any_store).version

    [(position, event)] = events.since(any_store)
    assert (event.version, event.channel, event.kind) == (version, "latest", "published")
    row = channels.read(any_store, MODEL, "latest").row
    assert _keys(any_store) == [
        f"feed/events/{position}.json",
        f"history/{MODEL}/latest/{row}.json",
        *(
            f"models/{MODEL}/{version}/{path}"
            for path in (
                "LICENSE",
                "bom.json",
                "config.json",
                "manifest.json",
                "onnx/model.onnx",
                "onnx/model.onnx_data",
                "provenance.json",
                "reports/latency.json",
                "reports/validation.json",
                "tokenizer.json",
            )
        ),
        f"models/{MODEL}/channels/latest.json",
    ]


def test_publishing_the_same_bundle_twice_changes_nothing(tmp_path: Path, any_store: ObjectStore) -> None:
    first = _publish(tiny_stage(tmp_path / "one"), any_store)
    again = _publish(tiny_stage(tmp_path / "two", latency_ms=7.0), any_store)

    assert again.state == "unchanged"
    assert again.manifest_sha256 == first.manifest_sha256


def test_other_graphs_under_the_same_version_are_a_conflict(tmp_path: Path, any_store: ObjectStore) -> None:
    first = _publish(tiny_stage(tmp_path / "one"), any_store)

    with pytest.raises(VersionConflict, match=r"onnx/model\.onnx"):
        _publish(tiny_stage(tmp_path / "two", scale=3.0), any_store)

    assert bundle.find(MODEL, store=any_store).manifest_sha256 == first.manifest_sha256
    assert verify(MODEL, store=any_store).passed


def test_a_new_version_with_the_same_weights_sends_the_rest(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tiny_stage(tmp_path / "one", weight_bytes=2 << 20), any_store)
    watched = WatchedStore(any_store)
    item = work_item(fingerprint="e" * 64)
    done = _publish(tiny_stage(tmp_path / "two", item=item, weight_bytes=2 << 20, scale=3.0), watched)
    assert [key.rpartition("/")[2] for key in watched.copied] == ["model.onnx_data"]
    assert "model.onnx_data" not in {key.rpartition("/")[2] for key in watched.sent}
    assert verify(f"{MODEL}@{done.version}", store=any_store).passed


def test_progress_ends_at_the_size_of_the_bundle(tmp_path: Path, any_store: ObjectStore) -> None:
    told: list[tuple[int, int]] = []
    stage = tiny_stage(tmp_path / "stage")
    done = publish(
        Stage.open(stage),
        store=any_store,
        provenance=PROVENANCE,
        created_at=NOW,
        progress=lambda done, total: told.append((done, total)),
    )

    assert told[-1] == (done.size_bytes, done.size_bytes)
    assert told == sorted(told)


def test_a_stage_without_a_validation_report_is_not_published(tmp_path: Path, local_store: ObjectStore) -> None:
    stage = tiny_stage(tmp_path / "stage")
    (stage / "reports" / "validation.json").unlink()

    with pytest.raises(ValidationFailed, match="onnx-fleet validate"):
        _publish(stage, local_store)

    assert _keys(local_store) == []


@pytest.mark.parametrize("allowed_writes", range(11))
def test_a_denied_write_publishes_nothing(tmp_path: Path, allowed_writes: int) -> None:
    stage = tiny_stage(tmp_path / "stage")
    with serve() as server:
        store = open_store(server.address, s3=server.settings())
        server.quirks.denies_writes_after = allowed_writes
        with pytest.raises(StoreDenied, match="credentials that may read, list and write"):
            _publish(stage, store)
        _require_whole_or_absent(store)

        server.quirks.denies_writes_after = None
        assert _publish(stage, store).state == "published"
        assert verify(MODEL, store=store).passed


def test_a_publisher_that_may_not_delete_publishes_all_the_same(tmp_path: Path) -> None:
    with serve() as server:
        store = open_store(server.address, s3=server.settings())
        server.quirks.answers = [("DELETE", 403, "AccessDenied")] * 10
        assert _publish(tiny_stage(tmp_path / "stage"), store).state == "published"
        assert verify(MODEL, store=store).passed
        assert [key for key in _keys(store) if key.startswith("unfinished/")]
        assert unfinished(store) == frozenset()


def test_a_full_disk_publishes_nothing_and_the_next_run_heals(tmp_path: Path, local_store: ObjectStore) -> None:
    stage = tiny_stage(tmp_path / "stage", weight_bytes=100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(WorkerOutOfResources, match="free some space"):
            _publish(stage, local_store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _require_whole_or_absent(local_store)

    assert _publish(stage, local_store).state == "published"
    assert verify(MODEL, store=local_store).passed


def _count_steps(stage: Path, folder: Path) -> int:
    store = SteppedStore(open_store(str(folder)), step=0, before=lambda: None)
    _publish(stage, store)
    return store.steps


@pytest.mark.parametrize("rerun", [{"latency_ms": 7.0}, {"scale": 3.0}], ids=["other reports", "other graphs"])
def test_wherever_publishing_breaks_off_the_next_run_heals_it_also_with_other_bytes(
    tmp_path: Path, rerun: dict[str, float]
) -> None:
    first, again = tiny_stage(tmp_path / "first"), tiny_stage(tmp_path / "again", **rerun)
    for step in range(1, _count_steps(first, tmp_path / "counted") + 1):
        store = open_store(str(tmp_path / f"store-{step}"))
        with pytest.raises(Interrupted):
            _publish(first, interrupted(store, step=step))
        _require_whole_or_absent(store)

        try:
            _publish(again, store)
        except VersionConflict:
            # the first attempt had decided before it broke off, and its bundle was finished instead of this one
            assert "scale" in rerun
            _publish(first, store)

        assert verify(MODEL, store=store).passed, f"after operation {step}"
        assert [event.version for event in _events(store)] == [work_item().version], f"after operation {step}"
        assert _moves(store) == [("published", None, work_item().version)], f"after operation {step}"
        assert not [key for key in _keys(store) if key.startswith("unfinished/")]


def test_an_attempt_that_breaks_off_while_it_heals_another_one_is_healed_too(tmp_path: Path) -> None:
    first, second = tiny_stage(tmp_path / "first"), tiny_stage(tmp_path / "second", scale=3.0, latency_ms=7.0)
    third = tiny_stage(tmp_path / "third", scale=4.0, latency_ms=9.0)
    steps = _count_steps(first, tmp_path / "counted")
    for stop_first, stop_second in itertools.product(range(2, steps, 3), range(2, steps + 12, 3)):
        store = open_store(str(tmp_path / f"store-{stop_first}-{stop_second}"))
        with pytest.raises(Interrupted):
            _publish(first, interrupted(store, step=stop_first))
        with suppress(Interrupted, VersionConflict):
            _publish(second, interrupted(store, step=stop_second))
        _require_whole_or_absent(store)
        with suppress(VersionConflict):
            _publish(third, store)

        assert verify(f"{MODEL}@{work_item().version}", store=store).passed, f"{stop_first}, {stop_second}"


@pytest.mark.parametrize("other", [{"latency_ms": 7.0}, {"scale": 3.0}], ids=["other reports", "other graphs"])
def test_a_second_writer_at_any_moment_leaves_one_whole_bundle(tmp_path: Path, other: dict[str, float]) -> None:
    ours, theirs = tiny_stage(tmp_path / "ours"), tiny_stage(tmp_path / "theirs", **other)
    for step in range(1, _count_steps(ours, tmp_path / "counted") + 1):
        store = open_store(str(tmp_path / f"store-{step}"))
        outcomes: list[str] = []
        racing = SteppedStore(store, step=step, before=lambda s=store, o=outcomes: o.append(_outcome(theirs, s)))  # type: ignore[misc]
        outcomes.append(_outcome(ours, racing))

        assert verify(MODEL, store=store).passed, f"before operation {step}"
        assert "published" in outcomes
        if "scale" in other:
            assert "conflict" in outcomes
        assert not [key for key in _keys(store) if key.startswith("unfinished/")]


@pytest.mark.parametrize("leftover_step", [6, 11])
def test_two_writers_over_the_leftovers_of_a_third_leave_one_whole_bundle(tmp_path: Path, leftover_step: int) -> None:
    dead = tiny_stage(tmp_path / "dead", scale=9.0)
    ours, theirs = tiny_stage(tmp_path / "ours"), tiny_stage(tmp_path / "theirs", scale=3.0)
    for step in range(1, 60):
        store = open_store(str(tmp_path / f"store-{step}"))
        with pytest.raises(Interrupted):
            _publish(dead, interrupted(store, step=leftover_step))
        racing = SteppedStore(store, step=step, before=lambda s=store: _outcome(theirs, s))  # type: ignore[misc]
        _outcome(ours, racing)

        assert verify(MODEL, store=store).passed, f"before operation {step}"
        if racing.steps < step:
            break


def test_many_writers_at_once_leave_one_whole_bundle(tmp_path: Path, any_store: ObjectStore) -> None:
    stages = [tiny_stage(tmp_path / f"{number}", scale=float(number + 2)) for number in range(4)]
    with ThreadPoolExecutor(len(stages)) as pool:
        outcomes = list(pool.map(lambda stage: _outcome(stage, any_store), stages))

    assert "published" in outcomes
    assert verify(MODEL, store=any_store).passed
    assert not [key for key in _keys(any_store) if key.startswith("unfinished/")]


def _outcome(stage: Path, store: ObjectStore) -> str:
    try:
        return _publish(stage, store).state
    except VersionConflict:
        return "conflict"


def _require_whole_or_absent(store: ObjectStore) -> None:
    version = work_item().version
    try:
        assert verify(f"{MODEL}@{version}", store=store).passed
    except BundleNotFound:
        assert list_models(store) == ()
        with pytest.raises(BundleNotFound):
            channels.read(store, MODEL, "latest")


def _moves(store: ObjectStore) -> list[tuple[str, str | None, str]]:
    past = channels.history(store, MODEL, "latest")
    assert past.problems == ()
    return [(row.kind, row.from_version, row.to_version) for row in past.rows]


def _worse(folder: Path, version_in_use: str) -> Path:
    """A stage of another version, which its gates found slower than the one in use."""
    item = work_item(fingerprint="b" * 64)
    folder = tiny_stage(folder, item=item, scale=3.0)
    report = RegressionReport(
        model_id=item.model_id,
        version=item.version,
        channel="latest",
        compared_with=version_in_use,
        status="compared",
        reason="",
        verdict="held",
        findings=(Finding(gate="latency", message="it takes 2.00 times as long", holds=True),),
        gates=Gates(),
        alike=False,
        contract=(),
        measured=Differences(),
        hardware={},
        runtime={},
        duration_s=1.0,
    )
    Stage.open(folder).write_report("regression", report)
    return folder


def test_a_version_that_is_held_back_is_in_the_history_once_with_what_its_gates_found(tmp_path: Path) -> None:
    """However often its publication is killed and finished, and whoever asks again later."""
    folder, item = tmp_path / "counted", work_item(fingerprint="b" * 64)
    steps = 0
    for step in itertools.count(0):
        store = open_store(str(tmp_path / f"store-{step}" if step else folder))
        in_use = _publish(tiny_stage(tmp_path / f"first-{step}"), store).version
        worse = _worse(tmp_path / f"worse-{step}", in_use)
        stepped = interrupted(store, step=step)
        with suppress(Interrupted):
            assert _publish(worse, stepped).held
        assert _publish(worse, store).held
        steps = steps or stepped.steps

        past = channels.history(store, MODEL, "latest").rows
        assert [(row.kind, row.from_version, row.to_version) for row in past] == [
            ("published", None, in_use),
            ("held_back", in_use, item.version),
        ], f"before operation {step}"
        assert past[1].why == f"held back by its gates; it is worse than {in_use}: latency: it takes 2.00 times as long"
        assert channels.read(store, MODEL, "latest").version == in_use
        if step == steps:
            break


def test_a_publication_that_leaves_a_held_channel_alone_says_so_in_the_history(
    tmp_path: Path, any_store: ObjectStore
) -> None:
    in_use = _publish(tiny_stage(tmp_path / "first"), any_store).version
    channels.move(any_store, MODEL, "latest", in_use, reason=REASON, now=NOW, held=True)
    item = work_item(fingerprint="b" * 64)
    by = Actor(kind="run", name="fleet_reexport__scheduled__2", asked_by="ada")
    stage = Stage.open(tiny_stage(tmp_path / "second", item=item, scale=3.0))
    publish(stage, store=any_store, provenance=PROVENANCE, created_at=NOW, by=by)

    last = channels.history(any_store, MODEL, "latest").rows[-1]
    assert (last.kind, last.from_version, last.to_version, last.by) == ("held_back", in_use, item.version, by)
    assert last.why == "the channel is held where it is"


def test_publishing_what_stands_moves_no_channel_unless_asked_to(tmp_path: Path, any_store: ObjectStore) -> None:
    older, newer = (
        tiny_stage(tmp_path / digit, item=work_item(fingerprint=digit * 64), scale=float(number + 2))
        for number, digit in enumerate("ab")
    )
    first, second = _publish(older, any_store), _publish(newer, any_store)

    assert _publish(older, any_store).state == "unchanged"
    assert channels.read(any_store, MODEL, "latest").version == second.version
    publish(Stage.open(older), store=any_store, provenance=PROVENANCE, created_at=NOW, move=True)
    assert channels.read(any_store, MODEL, "latest").version == first.version
    assert [kind for kind, _before, _after in _moves(any_store)] == ["published", "published", "repointed"]


def test_models_are_listed_with_versions_and_channels(tmp_path: Path, any_store: ObjectStore) -> None:
    for name, digit in (("acme/tiny", "a"), ("acme/tiny", "b"), ("other/model", "c")):
        item = work_item(model_id=name, fingerprint=digit * 64)
        _publish(tiny_stage(tmp_path / f"{digit}", item=item), any_store)

    assert [(model.model_id, len(model.versions), model.channels) for model in list_models(any_store)] == [
        ("acme/tiny", 2, ("latest",)),
        ("other/model", 1, ("latest",)),
    ]


def test_a_gpu_report_that_was_not_run_is_said_plainly_in_the_manifest(
    tmp_path: Path, local_store: ObjectStore
) -> None:
    stage = tiny_stage(tmp_path / "stage")
    item = work_item()
    Stage.open(stage).write_report(
        "validation_cuda",
        {
            "model_id": item.model_id,
            "version": item.version,
            "provider": "cuda",
            "status": "not_run",
            "reason": "no GPU worker",
            "rows": [],
            "nodes_by_provider": {},
            "duration_s": 0.0,
        },
    )
    _publish(stage, local_store)

    sealed = bundle.find(MODEL, store=local_store).manifest
    assert sealed.validation.gpu == "not validated on GPU: no GPU worker"
    assert manifest.read(manifest.write(sealed)) == sealed
