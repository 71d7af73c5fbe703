"""What moves a rollout: the end of a run, and the decisions of people.

Each step first writes what it decided, then moves channels and writes the page, and may be repeated at any point.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from onnx_fleet.errors import RolloutConflict, VersionConflict
from onnx_fleet.runs import rollout, rollout_channels, rollout_report, rollout_verdict
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.rollout import Decision, Rollout, RolloutState
from onnx_fleet.store import ObjectStore

log = logging.getLogger(__name__)


def conclude(rollout_id: str, records: Collection[Record], *, store: ObjectStore, now: datetime) -> Rollout:
    """Judge the wave that is under way by the records of a run, and do what follows; returns the rollout then.

    A wave that is not good stops the rollout: its channels go back and are held there, and a page says what broke. A
    rollout that does not run stays as it is.

    Raises:
        BundleNotFound: there is no such rollout.
        VersionConflict: other writers keep coming between.
    """

    def judged(standing: Rollout) -> Rollout:
        if standing.state != "running":
            return standing
        made = rollout_verdict.judged(standing, records)
        return _stopped(made, store=store) if made.state == "stopped" else made

    rollout_channels.settle(rollout.read(store, rollout_id), store=store, now=now)
    return _settled(rollout.update(store, rollout_id, judged), store=store, now=now)


def go_on(rollout_id: str, *, by: str, reason: str, store: ObjectStore, now: datetime) -> Rollout:
    """Let a stopped rollout go on with its next wave: the channels that went back point at the new versions again.

    Args:
        by: who decides it.
        reason: why, for those who read it later.
    Raises:
        RolloutConflict: it has not stopped.
        BundleNotFound: there is no such rollout.
    """

    def continued(standing: Rollout) -> Rollout:
        _require(standing, "stopped", rule="only one that has stopped can be continued")
        is_last = standing.current + 1 == len(standing.waves)
        return replace(
            standing,
            state="done" if is_last else "running",
            current=standing.current if is_last else standing.current + 1,
            decisions=(*standing.decisions, _decision("continued", standing, by=by, reason=reason, now=now)),
            channels_moved=not standing.taken_back,
        )

    return _settled(rollout.update(store, rollout_id, continued), store=store, now=now)


def stop(rollout_id: str, *, by: str, reason: str, store: ObjectStore, now: datetime) -> Rollout:
    """Stop a rollout that runs, as a wave that is not good does.

    Raises:
        RolloutConflict: it does not run.
        BundleNotFound: there is no such rollout.
    """

    def stopped(standing: Rollout) -> Rollout:
        _require(standing, "running", rule="only one that runs can be stopped")
        return _stopped(
            replace(
                standing.with_wave(replace(standing.wave, reason=f"{by} stopped it: {reason}")),
                state="stopped",
                decisions=(*standing.decisions, _decision("stopped", standing, by=by, reason=reason, now=now)),
            ),
            store=store,
        )

    rollout_channels.settle(rollout.read(store, rollout_id), store=store, now=now)
    return _settled(rollout.update(store, rollout_id, stopped), store=store, now=now)


def _require(standing: Rollout, state: RolloutState, *, rule: str) -> None:
    """Refuse a decision for which a rollout is not in the state that it needs.

    Raises:
        RolloutConflict: it is in another one.
    """
    if standing.state != state:
        raise RolloutConflict(
            f"the rollout {standing.rollout_id} is {standing.state}, and {rule};"
            f" `onnx-fleet rollout show {standing.rollout_id}` shows where it stands"
        )


def _stopped(made: Rollout, *, store: ObjectStore) -> Rollout:
    """Write down which channels go back, before any does."""
    back = rollout_channels.to_take_back(made, store=store)
    return replace(made, taken_back=back, channels_moved=not back)


def _settled(found: Rollout, *, store: ObjectStore, now: datetime) -> Rollout:
    settled = rollout_channels.settle(found, store=store, now=now)
    if settled.state == "stopped":
        with suppress(VersionConflict):  # another process writes the same page
            rollout_report.write(settled, store=store)
    log.info("%s", rollout_report.statement(settled))
    return settled


def _decision(
    what: Literal["continued", "stopped"], standing: Rollout, *, by: str, reason: str, now: datetime
) -> Decision:
    return Decision(
        what=what,
        by=by,
        reason=reason,
        at=now.astimezone(UTC).replace(microsecond=0),
        wave=standing.current + 1,
    )
