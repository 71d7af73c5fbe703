"""Claims: of two runs that are asked for one model, one makes it, and one that was killed keeps nobody waiting long."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from fixtures.faulty_stores import SteppedStore
from onnx_fleet import jsonio
from onnx_fleet.errors import ModelBusy, StoreDenied
from onnx_fleet.runs import claims
from onnx_fleet.runs.claims import Claim
from onnx_fleet.store import ObjectStore, layout

MODEL = "acme/tiny"
VERSION = "3f2a1c00-abababab"
NOW = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)


def take(store: ObjectStore, run: str, *, at: datetime = NOW, version: str = VERSION) -> bool:
    return claims.take(MODEL, version, run=run, store=store, now=at)


def publish(store: ObjectStore, version: str = VERSION) -> None:
    """Have the version stand, as far as a claim looks."""
    store.create(layout.manifest_key(MODEL, version), b"{}")


def standing(store: ObjectStore) -> Claim:
    return jsonio.parse(Claim, store.read(layout.claim_key(MODEL)))


def test_one_run_has_a_model_and_another_is_told_which(any_store: ObjectStore) -> None:
    assert take(any_store, "first")
    with pytest.raises(ModelBusy, match="the run first is making 3f2a1c00-abababab, since 2026-11-21 23:30") as busy:
        take(any_store, "second", at=NOW + timedelta(minutes=1))
    assert busy.value.retry_after_s == claims.ASK_AGAIN_S
    assert take(any_store, "first", at=NOW + timedelta(minutes=1)), "its next step, or its next try"
    assert (standing(any_store).since, standing(any_store).good_until) == (NOW, NOW + timedelta(minutes=6))


def test_of_runs_that_come_at_once_one_has_the_model(any_store: ObjectStore) -> None:
    runs = [f"run-{number}" for number in range(8)]
    together = threading.Barrier(len(runs))

    def come(run: str) -> bool:
        together.wait()
        try:
            return take(any_store, run)
        except ModelBusy:
            return False

    with ThreadPoolExecutor(len(runs)) as pool:
        taken = [run for run, is_taken in zip(runs, pool.map(come, runs), strict=True) if is_taken]
    assert taken == [standing(any_store).run]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_that_another_one_overtakes_at_any_moment_finds_it_there(local_store: ObjectStore, step: int) -> None:
    def overtake() -> None:
        assert take(local_store, "second")

    with pytest.raises(ModelBusy, match="the run second"):
        take(SteppedStore(local_store, step=step, before=overtake), "first")


def test_a_store_that_lets_nobody_claim_keeps_no_model_from_being_made(local_store: ObjectStore) -> None:
    def refuse() -> None:
        raise StoreDenied("not under claims/")

    assert take(SteppedStore(local_store, step=3, before=refuse), "first")
    assert local_store.stat(layout.claim_key(MODEL)) is None


def test_what_the_run_before_has_published_is_not_made_again(any_store: ObjectStore) -> None:
    assert take(any_store, "first")
    publish(any_store)
    claims.release(MODEL, run="first", store=any_store)
    assert not take(any_store, "second", at=datetime.now(UTC) + timedelta(seconds=1))
    assert standing(any_store).run == "first", "nothing was claimed"


def test_another_version_is_made_when_the_run_before_is_through(any_store: ObjectStore) -> None:
    assert take(any_store, "first")
    with pytest.raises(ModelBusy):
        take(any_store, "second", version="3f2a1c00-cdcdcdcd")
    publish(any_store)
    claims.release(MODEL, run="first", store=any_store)
    assert take(any_store, "second", at=datetime.now(UTC) + timedelta(seconds=1), version="3f2a1c00-cdcdcdcd")


def test_a_run_that_is_killed_keeps_the_model_for_minutes(any_store: ObjectStore) -> None:
    assert take(any_store, "killed")
    late = NOW + claims.GOOD_FOR - timedelta(seconds=2)
    with pytest.raises(ModelBusy) as busy:
        take(any_store, "second", at=late)
    assert 2 < busy.value.retry_after_s < 3, "it looks again when the claim has run out"
    assert take(any_store, "second", at=late + timedelta(seconds=busy.value.retry_after_s))
    with pytest.raises(ModelBusy):
        take(any_store, "killed", at=late + timedelta(minutes=1))


def test_a_run_goes_on_with_what_it_published_itself_when_it_was_killed(any_store: ObjectStore) -> None:
    assert take(any_store, "killed")
    publish(any_store)
    assert take(any_store, "killed", at=NOW + timedelta(days=1)), "its publication may not be through"


def test_a_claim_lasts_until_the_next_task_or_is_given_back(any_store: ObjectStore) -> None:
    assert take(any_store, "first", at=datetime.now(UTC))
    with claims.renewed(MODEL, run="first", store=any_store, left_for=timedelta(hours=1)):
        pass
    assert standing(any_store).good_until > datetime.now(UTC) + timedelta(minutes=59)
    with pytest.raises(ZeroDivisionError), claims.renewed(MODEL, run="first", store=any_store):
        raise ZeroDivisionError
    assert standing(any_store).good_until <= datetime.now(UTC), "however the work ended"


def test_a_claim_is_renewed_while_the_work_goes_on(any_store: ObjectStore) -> None:
    began = datetime.now(UTC)
    assert take(any_store, "first", at=began)
    with claims.renewed(MODEL, run="first", store=any_store, every_s=0.01):
        while standing(any_store).good_until <= began + claims.GOOD_FOR:
            pass


def test_a_claim_that_another_run_took_meanwhile_is_left_to_it(any_store: ObjectStore) -> None:
    assert take(any_store, "slow", at=NOW - timedelta(days=1))
    with claims.renewed(MODEL, run="slow", store=any_store):
        assert take(any_store, "second", at=datetime.now(UTC))
    assert standing(any_store).run == "second"
    assert standing(any_store).good_until > datetime.now(UTC)


def test_a_run_that_waits_says_why_once_and_goes_on_when_it_may(any_store: ObjectStore) -> None:
    assert take(any_store, "first", at=datetime.now(UTC))
    told: list[str] = []
    waits_s: list[float] = []

    def sleep(seconds: float) -> None:
        waits_s.append(seconds)
        if len(waits_s) == 3:
            claims.release(MODEL, run="first", store=any_store)

    assert claims.wait(MODEL, VERSION, run="second", store=any_store, on_wait=told.append, sleep=sleep)
    assert (len(waits_s), len(told)) == (3, 1)
    assert "the run first is making" in told[0]


def test_a_document_that_is_no_claim_is_replaced(any_store: ObjectStore) -> None:
    any_store.create(layout.claim_key(MODEL), b"what is this")
    assert take(any_store, "first")
    assert standing(any_store).run == "first"
