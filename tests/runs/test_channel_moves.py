"""Promotion and rollback: what they would move, by the history of a channel, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from fixtures.planned_models import COMMIT, NOW, VERSIONS, publish, resolved
from onnx_fleet.bundles import channels, feed
from onnx_fleet.entities.channel_move import Actor, MoveKind, MoveReason
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.planning import plan
from onnx_fleet.runs import channel_moves, run_report
from onnx_fleet.runs.channel_moves import Proposal
from onnx_fleet.runs.record import Record
from onnx_fleet.store import ObjectStore, layout

MODEL = "acme/tiny"
RUN = "fleet_reexport__manual__1"


def item(store: ObjectStore, number: int, model_id: str = MODEL) -> WorkItem:
    """The work item of a model at one of its commits."""
    model = resolved(model_id, commit=f"{number}" + COMMIT[1:])
    (made,) = plan.plan([model], store=store, versions=VERSIONS).items
    return made


def published(store: ObjectStore, *numbers: int, model_id: str = MODEL, run: str = "an earlier run") -> list[str]:
    """Publish versions, one after the other, each of which latest follows; returns them."""
    items = [item(store, number, model_id) for number in numbers]
    for each in items:
        publish(store, each, reason=reason("published", run))
    return [each.version for each in items]


def reason(kind: MoveKind = "set", by: str = "ada@build-7") -> MoveReason:
    made_by = Actor(kind="run" if kind in ("published", "repointed") else "person", name=by)
    return MoveReason(kind=kind, by=made_by, why="as the test wants it")


def move(store: ObjectStore, version: str, *, kind: MoveKind = "set", by: str = "ada@build-7") -> None:
    channels.move(store, MODEL, "latest", version, reason=reason(kind, by), now=NOW)


def carried(store: ObjectStore, *proposed: Proposal, kind: MoveKind = "rolled_back") -> Sequence[Proposal]:
    return channel_moves.carry_out(store, proposed, reason=reason(kind), now=NOW + timedelta(hours=1))


def roll_back(store: ObjectStore) -> tuple[str, bool]:
    (done,) = carried(store, channel_moves.back(store, MODEL, "latest"))
    assert done.after == channels.read(store, MODEL, "latest")
    assert done.after
    return done.after.version, done.after.held


def test_each_rollback_goes_one_version_further_back_and_holds_the_channel_there(any_store: ObjectStore) -> None:
    first, second, third = published(any_store, 1, 2, 3)
    assert roll_back(any_store) == (second, True)
    assert roll_back(any_store) == (first, True)
    with pytest.raises(BundleNotFound, match=f"names no version before {first}"):
        roll_back(any_store)

    move(any_store, third)
    assert roll_back(any_store) == (first, True), "what was undone does not count"


def test_a_rollback_after_a_demotion_goes_further_back_than_the_audit_went(local_store: ObjectStore) -> None:
    first, second, _third, fourth = published(local_store, 1, 2, 3, 4)
    move(local_store, second, kind="demoted")
    assert roll_back(local_store) == (first, True)
    move(local_store, fourth, kind="restored")
    assert roll_back(local_store) == (first, True)


def test_a_rollback_to_a_version_that_was_never_there_takes_the_place_of_the_one_undone(
    local_store: ObjectStore,
) -> None:
    _first, second, _third = published(local_store, 1, 2, 3)
    other = item(local_store, 4)
    publish(local_store, other, verdict="held")
    (done,) = carried(local_store, channel_moves.back(local_store, MODEL, "latest", version=other.version))
    assert (done.version, done.held, bool(done.after)) == (other.version, True, True)
    assert roll_back(local_store) == (second, True)


def test_a_rollback_passes_over_a_version_that_is_no_longer_published(any_store: ObjectStore) -> None:
    first, second, _third = published(any_store, 1, 2, 3)
    any_store.delete(layout.manifest_key(MODEL, second))
    assert roll_back(any_store) == (first, True)


def test_a_channel_without_a_history_goes_back_to_what_its_document_names(local_store: ObjectStore) -> None:
    first, second = published(local_store, 1, 2)
    key = channels.key_of(MODEL, "latest")
    for info in list(local_store.list(layout.HISTORY)):
        local_store.delete(info.key)
    old = (
        f'{{"schema_version": 1, "model_id": "{MODEL}", "channel": "latest", "version": "{second}",'
        f' "previous": "{first}", "moved_at": "2026-11-20T12:00:00Z", "held": false}}'
    )
    local_store.replace(key, old.encode(), etag=local_store.read_tagged(key)[1])
    assert roll_back(local_store) == (first, True)
    with pytest.raises(BundleNotFound, match="names no version before"):
        roll_back(local_store)


def test_a_promotion_takes_a_version_by_its_name_or_by_a_channel_and_rebuilds_the_feed_once(
    any_store: ObjectStore,
) -> None:
    first, second = published(any_store, 1, 2)
    by_channel = channel_moves.to_version(any_store, MODEL, "stable", "latest")
    assert (by_channel.before, by_channel.version) == (None, second)
    carried(any_store, by_channel, kind="promoted")
    by_name = channel_moves.to_version(any_store, MODEL, "stable", first)
    assert (by_name.before, by_name.version) == (second, first)
    carried(any_store, by_name, kind="promoted")

    (told,) = feed.read(any_store)
    assert {each.channel: each.version for each in told.channels} == {"latest": second, "stable": first}
    rows = channels.history(any_store, MODEL, "stable").rows
    assert [(row.kind, row.from_version, row.to_version) for row in rows] == [
        ("promoted", None, second),
        ("promoted", second, first),
    ]


def test_a_channel_that_was_moved_since_it_was_proposed_stays_and_says_so(local_store: ObjectStore) -> None:
    first, second, third = published(local_store, 1, 2, 3)
    proposed = channel_moves.to_version(local_store, MODEL, "latest", first)
    move(local_store, second)
    (done,) = carried(local_store, proposed)
    assert (done.failed, done.after) == (True, None)
    assert f"points to {second}, not to {third}" in done.why_not
    assert channels.read(local_store, MODEL, "latest").version == second

    made, again = (channel_moves.to_version(local_store, MODEL, "stable", name) for name in (first, second))
    assert [each.before for each in (made, again)] == [None, None]
    outcomes = [carried(local_store, each, kind="promoted")[0] for each in (made, again)]
    assert [(each.failed, bool(each.after)) for each in outcomes] == [(False, True), (True, False)]
    assert f"points to {first}, not to nothing" in outcomes[1].why_not


def _run_of_a_fleet(store: ObjectStore) -> dict[str, list[str]]:
    """Five models with a version each; the run moves all of them to a second one, and makes the channel of a sixth."""
    names = [f"acme/m{number}" for number in range(6)]
    before = {name: published(store, 1, model_id=name) for name in names[:5]}
    return {name: [*before.get(name, ()), *published(store, 2, model_id=name, run=RUN)] for name in names}


@pytest.mark.parametrize("with_report", [True, False])
def test_undoing_a_run_takes_back_what_still_stands_where_it_moved_it_and_says_why_the_rest_stays(
    any_store: ObjectStore, with_report: bool
) -> None:
    store = any_store
    versions = _run_of_a_fleet(store)
    names = list(versions)
    if with_report:
        records = [Record(model_id=name, state="published") for name in names]
        run_report.write(run_report.build(records, run_id=RUN, now=datetime.now(UTC)), store=store)
    channels.move(store, names[1], "latest", versions[names[1]][0], reason=reason(by="bob@desk"), now=NOW)
    channels.move(store, names[2], "latest", versions[names[2]][1], reason=reason(by="eve@desk"), now=NOW, held=True)
    store.delete(layout.manifest_key(names[3], versions[names[3]][0]))
    (newer,) = published(store, 3, model_id=names[4], run="later")

    proposed = channel_moves.undoing(store, RUN)
    assert [(each.model_id, each.channel) for each in proposed] == [(name, "latest") for name in names]
    whys = {each.model_id: each.why_not for each in proposed}
    assert whys[names[0]] == ""
    assert whys[names[1]].startswith(f"bob@desk moved it to {versions[names[1]][0]} since: as the test wants it")
    assert whys[names[2]].startswith("eve@desk has held it there since")
    assert whys[names[3]].startswith(f"{versions[names[3]][0]}, to which it pointed before, is no longer published")
    assert whys[names[4]].startswith(f"run later moved it to {newer} since")
    assert whys[names[5]].startswith("this run made the channel")

    standing = {name: channels.read(store, name, "latest") for name in names}
    carried(store, *proposed)
    after = {name: channels.read(store, name, "latest") for name in names}
    assert {name for name in names if after[name] != standing[name]} == {names[0]}
    assert (after[names[0]].version, after[names[0]].held) == (versions[names[0]][0], True)

    again = channel_moves.undoing(store, RUN, among={names[0]})
    assert [each.why_not[:25] for each in again] == ["ada@build-7 moved it to 1"]


def test_a_run_that_moved_nothing_is_an_error(local_store: ObjectStore) -> None:
    published(local_store, 1)
    with pytest.raises(BundleNotFound, match="no channel that the run 'nobody' moved"):
        channel_moves.undoing(local_store, "nobody")
