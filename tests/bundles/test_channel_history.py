"""The history of a channel: a row for every swap, none for a swap that did not take place, whoever dies or races."""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted, killed
from fixtures.moved import BY, REASON
from fixtures.stages import NOW
from onnx_fleet.bundles import channel_history, channels
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectInfo, ObjectStore, S3Settings, layout, open_store
from onnx_fleet.store.forwarding import ForwardingStore
from onnx_fleet_demo.s3_server import EmbeddedS3

MODEL = "acme/tiny"
A, B, C = "01234567-aaaaaaaa", "01234567-bbbbbbbb", "01234567-cccccccc"
GOLDEN = Path(__file__).parents[1] / "golden"
WRITERS = 16

Writer = Callable[[ObjectStore], object]


def made(store: ObjectStore) -> ObjectStore:
    """A store that has what a channel asks of a version: its manifest."""
    for version in (A, B, C):
        store.create(layout.manifest_key(MODEL, version), b"{}")
    return store


def move(store: ObjectStore, version: str, *, by: str = "ada@build-7", held: bool = False) -> channels.Channel:
    reason = MoveReason(kind="set", by=Actor(kind="person", name=by), why=f"{by} wants {version}")
    return channels.move(store, MODEL, "latest", version, reason=reason, now=NOW, held=held)


def rows(store: ObjectStore) -> list[channel_history.Row]:
    return list(channels.history(store, MODEL, "latest").rows)


def moves(store: ObjectStore) -> list[tuple[str | None, str]]:
    """From where to where the channel has moved, by its history; each move goes on from the one before."""
    found = [row for row in rows(store) if row.kind != "held_back"]
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    assert [row.before for row in found] == [None, *(row.name for row in found)][:-1]
    return [(row.from_version, row.to_version) for row in found]


def test_a_move_leaves_a_row_that_says_who_when_why_from_and_to(any_store: ObjectStore) -> None:
    store = made(any_store)
    move(store, A)
    moved = channels.move(store, MODEL, "latest", B, reason=REASON, now=NOW + timedelta(days=1), held=True)

    last = rows(store)[-1]
    assert (last.kind, last.by, last.why) == (REASON.kind, REASON.by, REASON.why)
    assert (last.from_version, last.to_version, last.held, last.at) == (A, B, True, NOW + timedelta(days=1))
    assert moved.row == last.name
    assert moves(store) == [(None, A), (A, B)]


def test_a_move_that_changes_nothing_leaves_no_row(local_store: ObjectStore) -> None:
    store = made(local_store)
    for _ in range(2):
        move(store, A)
        channels.ensure(store, MODEL, "latest", A, reason=REASON, now=NOW)
    assert moves(store) == [(None, A)]
    move(store, A, held=True)
    assert moves(store) == [(None, A), (A, A)], "to hold it is a move"


def test_a_move_takes_one_store_call_for_its_row(local_store: ObjectStore) -> None:
    store = made(local_store)
    calls = []
    for version in (A, B, C):
        counted = SteppedStore(store, step=0, before=lambda: None)
        move(counted, version)
        calls.append(counted.steps)
    assert calls == [6, 5, 5], (
        "read, look for the manifest, row, look for a tombstone, swap; the first also asks whether there were rows"
    )


def _as_first(store: ObjectStore) -> None:
    """Nothing was moved before."""


def _as_next(store: ObjectStore) -> None:
    move(store, A)


def _behind_an_old_document(store: ObjectStore) -> None:
    store.create(channels.key_of(MODEL, "latest"), (GOLDEN / "channel-v1.json").read_bytes())


SITUATIONS = (_as_first, _as_next, _behind_an_old_document)


@pytest.fixture(params=["folder", "s3"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, s3_server: EmbeddedS3) -> Callable[[str], ObjectStore]:
    """Opens a store of either kind by a name, in this process or another one."""
    if request.param == "folder":
        return lambda name: open_store(str(tmp_path / name))
    address = f"{s3_server.address}/test-{uuid.uuid4().hex}"
    return lambda name: open_store(f"{address}/{name}", s3=s3_server.settings)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_wherever_a_writer_is_killed_the_history_says_what_took_place_and_the_next_writer_goes_on(
    opened: Callable[[str], ObjectStore], situation: Writer
) -> None:
    """The row of a writer that was killed before its swap is there, and no reader takes it for a move."""
    outcomes = []
    for step in range(1, 8):
        store = made(opened(f"{step}"))
        situation(store)
        before = channels.find(store, MODEL, "latest")
        told = moves(store) if before else []
        ours = partial(move, version=C, by="killed")
        is_killed = killed(partial(opened, f"{step}"), ours, step=step)

        after = channels.find(store, MODEL, "latest")
        outcomes.append((is_killed, after != before))
        swapped = [(before.version if before else None, C)] if after != before else []
        assert (moves(store) if after else []) == [*told, *swapped], f"before operation {step}"

        move(store, A, by="next", held=True)
        stands = C if swapped else before.version if before else None
        assert moves(store) == [*told, *swapped, (stands, A)], f"before operation {step}"
        assert channels.history(store, MODEL, "latest").problems == ()
    calls = 5 if situation is _as_next else 6
    assert outcomes == [*[(True, False)] * calls, *[(False, True)] * (7 - calls)], "the swap is the last operation"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_whenever_another_writer_comes_between_each_has_one_outcome_and_every_swap_its_row(
    tmp_path: Path, situation: Writer
) -> None:
    for step in range(1, 6):
        store = made(open_store(str(tmp_path / f"{step}")))
        situation(store)
        told = len(moves(store)) if channels.find(store, MODEL, "latest") else 0
        racing = SteppedStore(store, step=step, before=lambda s=store: move(s, A, by="other", held=True))  # type: ignore[misc]
        outcome = "won"
        try:
            move(racing, C, by="ours")
        except VersionConflict:
            outcome = "lost"
        moved_by = [row.by.name for row in rows(store)[told:]]
        if racing.steps < step:
            assert moved_by == ["ours"]
        else:
            assert moved_by == (["other", "ours"] if outcome == "won" else ["other"]), f"before operation {step}"
        assert len(moves(store)) == told + len(moved_by)


def _one_of_many(number: int, *, address: str, s3: S3Settings | None) -> str | None:
    """One writer; returns the row of its move, or None where another one came first."""
    store = open_store(address, s3=s3) if s3 else open_store(address)
    try:
        return move(store, (A, B)[number % 2], by=f"writer {number}", held=number % 3 == 0).row
    except VersionConflict:
        return None


@pytest.mark.parametrize("many", ["threads", "processes"])
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_of_sixteen_writers_at_once_each_has_one_outcome_and_no_row_is_lost(
    tmp_path: Path, s3_server: EmbeddedS3, s3_store: ObjectStore, kind: str, many: str
) -> None:
    store = made(s3_store if kind == "s3" else open_store(str(tmp_path / "store")))
    write = partial(_one_of_many, address=store.address, s3=s3_server.settings if kind == "s3" else None)
    pool: Executor = (
        ThreadPoolExecutor(WRITERS)
        if many == "threads"
        else ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("fork"))
    )
    with pool:
        outcomes = list(pool.map(write, range(WRITERS)))

    told = moves(store)
    names = [row.name for row in rows(store)]
    assert told
    assert set(outcomes) - {None} <= {*names}
    assert {row.by.name for row in rows(store)} <= {
        f"writer {number}" for number, outcome in enumerate(outcomes) if outcome
    }
    assert channels.read(store, MODEL, "latest").row == names[-1]
    written = {info.key for info in store.list(layout.HISTORY)}
    assert {layout.history_key(MODEL, "latest", name) for name in names} <= written


def test_of_sixteen_runs_at_once_that_insist_every_one_gets_through(any_store: ObjectStore) -> None:
    """A run asks again where another one came between, so that the channel is where some run wants it."""
    store = made(any_store)

    def publish(number: int) -> channels.Channel:
        reason = MoveReason(kind="published", by=Actor(kind="run", name=f"run {number}"), why="published")
        return channels.ensure(store, MODEL, "latest", (A, B, C)[number % 3], reason=reason, now=NOW)

    with ThreadPoolExecutor(WRITERS) as pool:
        ended = list(pool.map(publish, range(WRITERS)))
    told = moves(store)
    assert all(before != after for before, after in told)
    assert {each.version for each in ended} == {A, B, C}
    assert channels.read(store, MODEL, "latest").version == told[-1][1]


class AnswersLate(ForwardingStore):
    """A store whose answer to a swap is lost; before it is asked again, another writer swaps."""

    def replace(self, key: str, data: bytes, *, etag: str | None) -> None:
        super().replace(key, data, etag=etag)
        move(self.store, C, by="other")
        raise VersionConflict("something else stands there")


def test_a_swap_whose_answer_was_lost_is_known_by_the_history(any_store: ObjectStore) -> None:
    store = made(any_store)
    move(store, A)
    assert move(AnswersLate(store), B, by="ours").version == B
    assert [row.by.name for row in rows(store)][1:] == ["ours", "other"]


def test_a_document_from_before_there_were_histories_is_read_and_its_channel_has_one_from_now_on(
    any_store: ObjectStore,
) -> None:
    store = made(any_store)
    _behind_an_old_document(store)
    old = channels.read(store, MODEL, "latest")
    assert (old.version, old.previous, old.held, old.row) == (B, A, True, None)
    assert rows(store) == []

    assert move(store, C).schema_version == 2
    assert moves(store) == [(B, C)]


def test_the_order_is_that_of_the_swaps_also_where_clocks_go_backwards(any_store: ObjectStore) -> None:
    store = made(any_store)
    for days, version in enumerate((A, B, C, A)):
        channels.move(store, MODEL, "latest", version, reason=REASON, now=NOW - timedelta(days=days))
        if days == 1:
            standing = channels.read(store, MODEL, "latest")
            channels.keep_back(store, standing, C, by=BY, why="it is slower", now=NOW + timedelta(days=9))
    told = [(row.kind, row.to_version) for row in rows(store)]
    assert told == [("set", A), ("set", B), ("held_back", C), ("set", C), ("set", A)]


def test_a_version_that_is_held_back_has_one_row_whoever_says_it_again(any_store: ObjectStore) -> None:
    store = made(any_store)
    standing = move(store, A)
    for why in ("it is slower", "it is slower, says a second run"):
        channels.keep_back(store, standing, B, by=BY, why=why, now=NOW)
        standing = move(store, C)
    held = [row for row in rows(store) if row.kind == "held_back"]
    assert [(row.from_version, row.to_version, row.why, row.by) for row in held] == [(A, B, "it is slower", BY)]


def test_a_channel_whose_document_was_removed_keeps_its_history_and_says_what_nobody_knows(
    any_store: ObjectStore,
) -> None:
    store = made(any_store)
    for version in (A, B, C):
        last = move(store, version)
    store.delete(channels.key_of(MODEL, "latest"))

    for _ in range(2):
        past = channels.history(store, MODEL, "latest")
        assert [row.to_version for row in past.rows][:2] == [A, B]
        assert len(past.problems) == 1
        assert past.problems[0].startswith(f"{last.row}: nobody can say whether this move to {C} took place")
        move(store, A)
    assert [(row.number, row.to_version) for row in past.rows] == [(1, A), (2, B), (4, A)]


def test_a_row_that_was_changed_or_removed_is_told(any_store: ObjectStore) -> None:
    store = made(any_store)
    names = [str(move(store, version).row) for version in (A, B, C)]
    first, second = (layout.history_key(MODEL, "latest", name) for name in names[:2])
    data, etag = store.read_tagged(first)
    store.replace(first, data.replace(b"ada", b"eve"), etag=etag)
    store.delete(second)

    past = channels.history(store, MODEL, "latest")
    assert [row.to_version for row in past.rows] == [C]
    assert any("is not the row of a channel's history that was written there" in each for each in past.problems)
    assert any(each.startswith(f"{names[1]}: this row is missing") for each in past.problems)
    with pytest.raises(BundleCorrupt, match="restore it from a copy"):
        channel_history.read_row(store, MODEL, "latest", names[0])


def test_the_history_of_a_channel_that_never_was_is_an_error(local_store: ObjectStore) -> None:
    store = made(local_store)
    with suppress(Interrupted):
        move(interrupted(store, step=5), A)
    assert list(store.list(layout.HISTORY)), "its writer was killed before the swap"
    with pytest.raises(BundleNotFound, match="has no such channel"):
        channels.history(store, MODEL, "latest")


class ListsLess(ForwardingStore):
    """A store whose listing was begun before the rows that it lacks were written, as one of many pages may be."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix, after=after) if "/00000002-" not in info.key)


def test_a_row_that_a_listing_lacks_is_found_by_the_one_behind_it(local_store: ObjectStore) -> None:
    store = made(local_store)
    for version in (A, B, C):
        move(store, version)
    assert channels.history(ListsLess(store), MODEL, "latest") == channels.history(store, MODEL, "latest")
