"""The waves of a rollout on the command line: one in each run, or all in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from onnx_fleet.entities.work_item import Plan, WorkItem
from onnx_fleet.runs import rollout_plan, rollout_steps
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.rollout import Rollout
from onnx_fleet.runs.rollout_plan import Division, Scope
from onnx_fleet.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """What a run took, and where the rollout stands behind it."""

    records: tuple[Record, ...]
    """The records of what was taken, and of what still waits."""
    rollout: Rollout | None
    goes_on: bool
    """Whether the next run takes another wave."""


def divided(made: Plan, scope: Scope | None, *, store: ObjectStore, channel: str, dry_run: bool = False) -> Division:
    """What a run takes of a plan now."""
    return rollout_plan.divide(made, scope=scope, store=store, channel=channel, now=datetime.now(UTC), dry_run=dry_run)


def walk(
    first: Division,
    take: Callable[[Sequence[WorkItem]], Iterable[Record]],
    *,
    others: Iterable[Record],
    again: Callable[[], Division],
    store: ObjectStore,
    all_waves: bool,
) -> Walked:
    """Take what a division takes, and judge the wave by it; with ``all_waves``, go on as long as waves are good.

    Args:
        take: takes models through their steps; returns their records in the same order.
        others: the records of the models that need no steps.
        again: divides the same plan anew.
    """
    taken: dict[str, Record] = {}
    division, known = first, list(others)
    while True:
        left = [item for item in division.plan.to_export if item.model_id not in taken]
        taken |= {record.model_id: record for record in take(left)}
        if division.rollout is None:
            return Walked(records=(*taken.values(), *division.waiting), rollout=None, goes_on=False)
        ended = rollout_steps.conclude(
            division.rollout.rollout_id, [*known, *taken.values()], store=store, now=datetime.now(UTC)
        )
        goes_on = ended.state == "running" and ended.current > division.rollout.current
        if not (goes_on and all_waves):
            return Walked(records=(*taken.values(), *division.waiting), rollout=ended, goes_on=goes_on)
        division = again()
