"""A rollout: which models follow a change when, what stops it, what goes back, and that it survives any kill."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.moved import REASON
from fixtures.planned_models import NEXT_COMMIT, VERSIONS
from fixtures.rolled_out import ARCHITECTURES, NEW, Fleet
from onnx_fleet.bundles import channels
from onnx_fleet.entities.work_item import Refusal
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, LicenceRefused, RolloutConflict
from onnx_fleet.runs import record, rollout, rollout_report, rollout_steps
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.rollout import Rollout
from onnx_fleet.store import ObjectStore, layout, open_store


@pytest.fixture
def fleet(local_store: ObjectStore) -> Fleet:
    made = Fleet(store=local_store)
    made.publish_all()
    return made


def stopped(fleet: Fleet) -> tuple[str, str, Rollout]:
    """A rollout whose first wave is not good: the model that follows it, the one that fails, and the rollout."""
    good, bad = sorted(each.model_id for each in fleet.divide(dry_run=True).plan.to_export)
    return good, bad, fleet.run(failing={bad: "ValidationFailed"}).stands


def test_models_follow_a_new_toolchain_wave_by_wave(any_store: ObjectStore) -> None:
    fleet = Fleet(store=any_store)
    fleet.publish_all()
    first = fleet.run()
    assert len(first.taken) == 2
    assert {fleet.names.index(name) % 2 for name in first.taken} == {0, 1}, "one of each architecture"
    assert sorted((*first.taken, *first.waiting)) == sorted(fleet.names)
    waiting = [each for each in first.records if each.state == "waiting"]
    assert len(waiting) == 6
    assert all(f"it waits for the rollout {first.stands.rollout_id}" in each.reason for each in waiting)
    assert (first.stands.state, first.stands.current) == ("running", 1)
    assert rollout_report.statement(first.stands).startswith(
        f"the rollout {first.stands.rollout_id}: wave 1 is good (2 of 2 models are published and pass their gates);"
    )
    second = fleet.run()
    assert (len(second.taken), len(second.waiting), second.stands.current) == (2, 4, 2)
    third = fleet.run()
    assert (len(third.taken), third.waiting, third.stands.state) == (4, (), "done")
    assert set(fleet.toolchains().values()) == {"another"}
    again = fleet.run()
    assert (again.taken, again.waiting, again.rollout) == ((), (), None)


def test_few_models_and_a_catalogue_that_wants_no_canary_are_taken_at_once(local_store: ObjectStore) -> None:
    for canary in ("{min_models: 9}", "{shares: [100], min_models: 4}"):
        fleet = Fleet(store=local_store, canary=canary)
        fleet.publish_all()
        division = fleet.divide()
        assert (len(division.plan.to_export), division.waiting, division.rollout) == (8, (), None)
    assert rollout.listed(local_store) == ()


def test_a_change_of_the_defaults_is_rolled_out_too(fleet: Fleet) -> None:
    fleet.defaults = "{opset: 21}"
    fleet.settings["acme/m3"] = ", opset: 22"
    took = fleet.run(versions=VERSIONS)
    assert "acme/m3" in took.taken, "its own entry has changed"
    assert (len(took.taken), len(took.waiting)) == (3, 5)
    assert took.stands.changes == {"opset 20 -> 21": 7}


def test_what_is_new_or_changed_by_itself_or_named_never_waits(fleet: Fleet) -> None:
    _, bad, _ = stopped(fleet)
    fleet.names = (*fleet.names, "acme/m8")
    others = [name for name in fleet.names[:8] if name != bad]
    fleet.commits[others[0]] = NEXT_COMMIT
    fleet.settings[others[1]] = ", opset: 21"
    took = fleet.run()
    assert set(took.taken) == {"acme/m8", others[0], others[1]}
    named = fleet.run(others[2].upper(), "acme/m?")
    assert named.taken == (others[2],), "a pattern is no name"


@pytest.mark.parametrize("error", ["ValidationFailed", "StepCrashed", "RuntimeError"])
def test_a_wave_that_is_not_good_stops_the_rollout_and_its_channels_go_back(fleet: Fleet, error: str) -> None:
    good, bad = sorted(each.model_id for each in fleet.divide(dry_run=True).plan.to_export)
    before = fleet.pointer(good).version
    took = fleet.run(failing={bad: error})
    stands = took.stands
    assert (stands.state, stands.current) == ("stopped", 0)
    assert stands.wave.reason == f"1 of 2 models ({bad}) failed"
    pointer = fleet.pointer(good)
    assert (pointer.version, pointer.held, pointer.previous) == (before, True, stands.taken_back[good].version)
    assert _moves_by(fleet, stands, good) == [("taken_back", None, stands.wave.reason)]
    after = fleet.run()
    assert (after.taken, set(after.waiting)) == ((), set(fleet.names)), "also the one that went back"
    assert fleet.pointer(good) == pointer, "nothing moves it forward again"


def _moves_by(fleet: Fleet, found: Rollout, model_id: str) -> list[tuple[str, str | None, str]]:
    """What a rollout did to a channel, by its history: what it did, who decided, and why."""
    past = channels.history(fleet.store, model_id, "latest").rows
    mine = [row for row in past if (row.by.kind, row.by.name) == ("rollout", found.rollout_id)]
    return [(row.kind, row.by.asked_by, row.why) for row in mine]


def test_the_page_of_a_stopped_wave_says_what_broke_where_and_which_package_changed(fleet: Fleet) -> None:
    good, bad, stands = stopped(fleet)
    key = rollout_report.page_key(stands)
    page = fleet.store.read(key.replace(".json", ".md")).decode()
    html = fleet.store.read(key.replace(".json", ".html")).decode()
    broken, fine = (ARCHITECTURES[int(name[-1]) % 2] for name in (bad, good))
    assert f"| {broken} | 1 | 0 | 1 | 0 | 0 |\n| {fine} | 1 | 1 | 0 | 0 | 0 |" in page
    assert "- torch 2.13.0 -> 2.14.0 (8 models)" in page
    assert (
        f"- **{bad}**: failed at validate ValidationFailed: {bad}@3f2a1c00: torch refuses onnx/model.onnx; look" in page
    )
    assert f"| {good} | {stands.taken_back[good].version} | {stands.taken_back[good].to} |" in page
    assert f"onnx-fleet rollout continue {stands.rollout_id} --reason WHY" in page
    assert f"{key.replace('.json', '.html')} says what broke" in page
    assert all(text in html for text in (broken, bad, "torch 2.13.0 -&gt; 2.14.0"))


def test_of_several_packages_the_page_names_first_what_the_messages_name(fleet: Fleet) -> None:
    versions = {**NEW, "transformers": "5.24.0", "onnx": "1.23.2"}
    bad = fleet.divide(versions=versions, dry_run=True).plan.to_export[0].model_id
    stands = fleet.run(versions=versions, failing={bad: "ValidationFailed"}).stands
    torch = "torch 2.13.0 -> 2.14.0 (8 models)"
    assert rollout_report.changed(stands) == (
        "onnx none -> 1.23.2 (8 models)",
        torch,
        "transformers 5.23.0 -> 5.24.0 (8 models)",
    )
    assert rollout_report.suspects(stands) == (torch,)
    assert f"## What to look at first\n\n- {torch}\n\n## By" in rollout_report.markdown(stands)


def test_a_failure_that_many_models_share_is_one_line_of_the_page(local_store: ObjectStore) -> None:
    fleet = Fleet(store=local_store, canary="{shares: [50], min_models: 4}")
    fleet.publish_all()
    bad = sorted(each.model_id for each in fleet.divide(dry_run=True).plan.to_export)
    stands = fleet.run(failing=dict.fromkeys(bad, "ValidationFailed")).stands
    told = [line for line in rollout_report.markdown(stands).splitlines() if "torch refuses" in line]
    assert len(told) == 1
    assert told[0].startswith("- **4 models (")
    assert all(name in told[0] for name in bad)


def test_a_person_lets_it_go_on_and_channels_go_forward_with_the_next_wave(fleet: Fleet) -> None:
    good, bad, stands = stopped(fleet)
    version = stands.taken_back[good].version
    went_on = fleet.go_on()
    assert (went_on.state, went_on.current, went_on.taken_back) == ("running", 1, {})
    assert [(each.what, each.by, each.reason, each.wave) for each in went_on.decisions] == [
        ("continued", "ada", "known and harmless", 1)
    ]
    pointer = fleet.pointer(good)
    assert (pointer.version, pointer.held) == (version, False)
    assert _moves_by(fleet, stands, good)[1:] == [("restored", "ada", "known and harmless")]
    took = fleet.run(failing={bad: "ValidationFailed"})
    assert bad in took.taken, "it is tried again"
    assert (len(took.taken), took.stands.state, took.stands.current) == (3, "running", 2), "its failure is known"
    with pytest.raises(RolloutConflict, match="is running, and only one that has stopped can be continued"):
        fleet.go_on()
    last = fleet.run(failing=dict.fromkeys(fleet.names, "ValidationFailed"))
    assert last.stands.state == "stopped"
    done = fleet.go_on()
    assert (done.state, rollout_report.statement(done)) == (
        "done",
        f"the rollout {done.rollout_id} is through all of its 3 waves",
    )
    assert len(fleet.run().taken) == 5, "what failed is tried as any model is"


def test_a_person_stops_a_rollout_that_runs(fleet: Fleet) -> None:
    first = fleet.run()
    assert first.stands.current == 1
    halted = rollout_steps.stop(
        first.stands.rollout_id, by="ada", reason="users complain", store=fleet.store, now=fleet.now
    )
    assert (halted.state, halted.wave.reason) == ("stopped", "ada stopped it: users complain")
    assert set(fleet.run().waiting) == {*fleet.names} - {*first.taken}, "the wave before was good, and stays"
    with pytest.raises(RolloutConflict, match="only one that runs can be stopped"):
        rollout_steps.stop(halted.rollout_id, by="ada", reason="again", store=fleet.store, now=fleet.now)
    with pytest.raises(BundleNotFound, match="has no rollout 'nobody'"):
        rollout_steps.stop("nobody", by="ada", reason="x", store=fleet.store, now=fleet.now)


@pytest.mark.parametrize("error", ["HubUnavailable", "StoreDenied", "WorkerLost", "WorkerOutOfResources"])
def test_a_hub_store_or_worker_that_failed_decides_nothing_until_it_has_failed_too_often(
    fleet: Fleet, error: str
) -> None:
    bad = fleet.divide(dry_run=True).plan.to_export[0].model_id
    for attempt in (1, 2):
        took = fleet.run(failing={bad: error})
        assert (took.stands.state, took.stands.current, took.stands.wave.attempts) == ("running", 0, attempt)
        assert bad in took.taken, "the wave is repeated for it"
        assert len(took.waiting) == 6
    ended = fleet.run(failing={bad: error}).stands
    assert (ended.state, ended.wave.reason) == (
        "stopped",
        f"after 3 runs 1 of 2 models ({bad}) could not be exported or published",
    )


def test_a_model_that_its_gates_hold_back_stops_the_rollout(fleet: Fleet) -> None:
    bad = fleet.divide(dry_run=True).plan.to_export[0].model_id
    stands = fleet.run(held=(bad,)).stands
    assert (stands.state, stands.wave.reason) == ("stopped", f"1 of 2 models ({bad}) held back by the gates")
    assert bad not in stands.taken_back


def test_gates_that_only_warn_stop_a_rollout_where_several_models_are_worse(local_store: ObjectStore) -> None:
    for slower, state in ((1, "running"), (2, "stopped")):
        store = open_store(f"{local_store.address}-{slower}")
        fleet = Fleet(store=store, canary="{shares: [50], min_models: 4}")
        fleet.publish_all()
        wave = [each.model_id for each in fleet.divide(dry_run=True).plan.to_export]
        stands = fleet.run(slower=tuple(wave[:slower])).stands
        assert stands.state == state, "one that is measured slower may be noise"
        assert ("worse than before by the gate latency" in stands.wave.reason) == (state == "stopped")
        assert len(stands.taken_back) == (4 if state == "stopped" else 0)


def test_a_model_that_says_nothing_about_the_change_leaves_the_wave(fleet: Fleet) -> None:
    gone, moved = (each.model_id for each in fleet.divide(dry_run=True).plan.to_export)
    assert fleet.run(failing={gone: "HubUnavailable", moved: "HubUnavailable"}).stands.current == 0
    fleet.gone[gone] = Refusal.of(gone, LicenceRefused("its licence is another"), step="resolve")
    fleet.commits[moved] = NEXT_COMMIT
    stands = fleet.run(failing={moved: "ValidationFailed"}).stands
    assert stands.current == 1, "a new commit is judged by itself"
    assert stands.waves[0].reason.endswith("2 say nothing about the change")
    assert stands.waves[0].outcomes[gone].message == "its licence is another"


def test_what_a_partial_run_does_not_see_is_not_gone_and_what_a_whole_one_does_not_see_is(fleet: Fleet) -> None:
    one, other = (each.model_id for each in fleet.divide(dry_run=True).plan.to_export)
    fleet.run(failing={one: "HubUnavailable", other: "HubUnavailable"})
    part = fleet.run(f"{one[:-1]}[{one[-1]}]")
    assert (part.taken, part.stands.wave.undecided) == ((one,), (other,))
    fleet.names = tuple(name for name in fleet.names if name != other)
    stands = fleet.run().stands
    assert stands.waves[0].outcomes[other].message == "it is no longer in the catalogue"
    assert stands.current == 1


def test_another_toolchain_supersedes_a_rollout_and_lets_its_channels_go(fleet: Fleet) -> None:
    good, _, first = stopped(fleet)
    second = fleet.run(versions={**VERSIONS, "torch": "2.15.0"})
    assert second.stands.rollout_id != first.rollout_id
    assert (len(second.taken), rollout.read(fleet.store, first.rollout_id).state) == (2, "superseded")
    assert fleet.pointer(good).held is False
    assert _moves_by(fleet, first, good)[1:] == [("restored", None, "the toolchain or the defaults have changed again")]
    back = fleet.run(versions=VERSIONS)
    assert (back.taken, back.waiting, back.rollout) == ((), (), None)
    assert {*fleet.toolchains().values()} == {"2.13.0"}, "the toolchain before: everything is there already"
    third = fleet.run()
    assert (third.stands.rollout_id, third.stands.state) == (first.rollout_id, "running"), "and it begins anew"
    assert third.stands.label_of(1) != first.label_of(1)


def test_a_model_that_went_back_follows_its_next_commit(fleet: Fleet) -> None:
    good, bad, stands = stopped(fleet)
    fleet.commits[good] = NEXT_COMMIT
    took = fleet.run()
    assert took.taken == (good,)
    pointer = fleet.pointer(good)
    assert (pointer.version[:8], pointer.held) == (NEXT_COMMIT[:8], False)
    assert good not in took.stands.taken_back
    why = "the model is taken for a reason of its own, so that the rollout no longer holds it"
    assert _moves_by(fleet, stands, good)[1:] == [("restored", None, why)]
    assert bad in took.waiting


def test_a_channel_that_a_person_moved_is_left_where_it_is(fleet: Fleet) -> None:
    good, _, stands = stopped(fleet)
    version = stands.taken_back[good].version
    channels.move(fleet.store, good, "latest", version, reason=REASON, now=fleet.now)
    assert good in fleet.run().waiting
    assert (fleet.pointer(good).version, fleet.pointer(good).held) == (version, False)
    channels.move(fleet.store, good, "latest", stands.taken_back[good].to, reason=REASON, now=fleet.now, held=False)
    fleet.go_on()
    assert fleet.pointer(good).version == stands.taken_back[good].to


def test_a_dry_run_says_what_would_wait_and_writes_nothing(fleet: Fleet) -> None:
    before = {info.key: info.etag for info in fleet.store.list("")}
    division = fleet.divide(dry_run=True)
    assert (len(division.plan.to_export), len(division.waiting)) == (2, 6)
    assert {info.key: info.etag for info in fleet.store.list("")} == before


def test_a_document_that_is_no_rollout_is_named(fleet: Fleet) -> None:
    begun = fleet.run().stands
    key = layout.rollout_key(begun.rollout_id)
    fleet.store.delete(key)
    fleet.store.create(key, b"{}")
    with pytest.raises(BundleCorrupt, match="is not a rollout's document; delete it"):
        fleet.divide()


def _records(fleet: Fleet, stands: Rollout, *, bad: str) -> list[Record]:
    """The records of a first wave in which all but one model are good."""
    items = {item.model_id: item for item in fleet.plan().items}
    return [
        record.of_failure(items[name], step="export", error="StepCrashed", message=f"{name}: torch is gone")
        if name == bad
        else Record(model_id=name, state="published", version=items[name].version)
        for name in (each.model_id for each in stands.waves[0].members)
    ]


def _published(folder: Path) -> tuple[Fleet, Rollout, str, str, list[Record]]:
    """A fleet whose first wave is published but for one model, and that no verdict has been given on."""
    fleet = Fleet(store=open_store(str(folder)))
    fleet.publish_all()
    good, bad = sorted(each.model_id for each in fleet.divide(dry_run=True).plan.to_export)
    begun = fleet.run(failing={good: "HubUnavailable", bad: "HubUnavailable"}).stands
    fleet.run(good)
    return fleet, begun, good, bad, _records(fleet, begun, bad=bad)


def _copied(fleet: Fleet, before: Path, folder: Path) -> Fleet:
    """The same fleet with a copy of a store as it was before."""
    shutil.copytree(before, folder)
    return replace(fleet, store=open_store(str(folder)))


def test_a_verdict_that_is_killed_anywhere_is_carried_out_by_whoever_comes_next(tmp_path: Path) -> None:
    fleet, begun, good, _, records = _published(tmp_path / "counted")
    counted = SteppedStore(fleet.store, step=0, before=lambda: None)
    whole = fleet.conclude(begun.rollout_id, records, store=counted)
    assert (whole.state, set(whole.taken_back), fleet.pointer(good).held) == ("stopped", {good}, True)
    assert counted.steps > 10
    fleet, begun, good, _, records = _published(tmp_path / "before")
    for step in range(1, counted.steps + 1):
        fleet = _copied(fleet, tmp_path / "before", tmp_path / f"store-{step}")
        with pytest.raises(Interrupted):
            fleet.conclude(begun.rollout_id, records, store=interrupted(fleet.store, step=step))
        again = fleet.conclude(begun.rollout_id, records)
        where = f"before operation {step} of {counted.steps}"
        assert (again.state, again.taken_back, again.wave) == (whole.state, whole.taken_back, whole.wave), where
        assert fleet.pointer(good).held, where
        assert _moves_by(fleet, begun, good) == [("taken_back", None, whole.wave.reason)], where
        assert fleet.store.stat(rollout_report.page_key(again).replace(".json", ".html")), where
        assert set(fleet.run().waiting) == set(fleet.names), where


def test_a_decision_that_is_killed_anywhere_is_carried_out_by_the_next_run(tmp_path: Path) -> None:
    fleet, begun, good, _, records = _published(tmp_path / "before")
    version = fleet.conclude(begun.rollout_id, records).taken_back[good].version
    fleet = _copied(fleet, tmp_path / "before", tmp_path / "counted")
    counted = SteppedStore(fleet.store, step=0, before=lambda: None)
    fleet.go_on(store=counted)
    assert counted.steps > 5
    for step in range(1, counted.steps + 1):
        fleet = _copied(fleet, tmp_path / "before", tmp_path / f"store-{step}")
        with pytest.raises(Interrupted):
            fleet.go_on(store=interrupted(fleet.store, step=step))
        if rollout.read(fleet.store, begun.rollout_id).state == "stopped":
            fleet.go_on()
        fleet.divide()
        assert (fleet.pointer(good).version, fleet.pointer(good).held) == (version, False), f"before operation {step}"
        assert rollout.read(fleet.store, begun.rollout_id).taken_back == {}, f"before operation {step}"
        told = _moves_by(fleet, begun, good)
        assert told[1:] == [("restored", "ada", "known and harmless")], f"before operation {step}"


def test_two_runs_at_once_are_part_of_one_rollout_and_come_to_one_verdict(tmp_path: Path) -> None:
    fleet = Fleet(store=open_store(str(tmp_path / "first")))
    fleet.publish_all()
    shutil.copytree(tmp_path / "first", tmp_path / "before")
    counted = SteppedStore(fleet.store, step=0, before=lambda: None)
    expected = fleet.divide(store=counted)
    for step in range(1, counted.steps + 1):
        fleet = _copied(fleet, tmp_path / "before", tmp_path / f"store-{step}")
        other: list[tuple[str, ...]] = []
        overtaken = SteppedStore(fleet.store, step=step, before=lambda: other.append(_taken(fleet)))  # noqa: B023
        mine = fleet.divide(store=overtaken)
        assert [tuple(item.model_id for item in mine.plan.to_export)] == other, f"at operation {step}"
        assert len(rollout.listed(fleet.store)) == 1
        assert mine.rollout
        assert expected.rollout
        assert mine.rollout.waves == expected.rollout.waves


def _taken(fleet: Fleet) -> tuple[str, ...]:
    return tuple(item.model_id for item in fleet.divide().plan.to_export)


def test_a_run_whose_wave_another_run_has_judged_changes_nothing(tmp_path: Path) -> None:
    fleet, begun, _, bad, records = _published(tmp_path / "store")
    late: list[Rollout] = []
    overtaken = SteppedStore(fleet.store, step=2, before=lambda: late.append(fleet.conclude(begun.rollout_id, records)))
    mine = fleet.conclude(begun.rollout_id, records, store=overtaken)
    assert (mine.state, mine.wave, mine.taken_back) == (late[0].state, late[0].wave, late[0].taken_back)
    fleet.go_on()
    after = fleet.conclude(begun.rollout_id, records)
    assert (after.state, after.current, after.wave.outcomes) == ("running", 1, {}), "its records are of wave 1"
    assert fleet.divide(versions=NEW).rollout == after
    assert bad in {item.model_id for item in fleet.divide().plan.to_export}
