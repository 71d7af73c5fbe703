"""The channels of a rollout: back where a wave was not good, forward again where a person lets it go on.

What is to move is written into the rollout before anything moves, so that a killed process leaves nothing undone: the
next one that finds it goes on. A channel that somebody has moved meanwhile is left where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from onnx_fleet.bundles import channels, feed
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import VersionConflict
from onnx_fleet.runs import rollout
from onnx_fleet.runs.rollout import Rollout, TakenBack
from onnx_fleet.store import ObjectStore

log = logging.getLogger(__name__)


def to_take_back(found: Rollout, *, store: ObjectStore) -> dict[str, TakenBack]:
    """Return the channels that have followed the wave that is under way, and where they were before."""
    back: dict[str, TakenBack] = {}
    for model_id in found.wave.ended("passed"):
        version = found.wave.outcomes[model_id].version
        pointer = channels.find(store, model_id, found.channel)
        if version and pointer and pointer.version == version and not pointer.held and pointer.previous:
            back[model_id] = TakenBack(version=version, to=pointer.previous)
    return back


def settle(found: Rollout, *, store: ObjectStore, now: datetime) -> Rollout:
    """Move the channels to where the rollout's state wants them, if that has not been done; returns the rollout then.

    Of a rollout that stopped they go back, and are held there. Otherwise they are released, and point at the version of
    their wave again, unless the rollout is superseded: then the run that superseded it decides.
    """
    if found.channels_moved:
        return found
    reason = _reason(found)
    for model_id, back in found.taken_back.items():
        if found.state == "stopped":
            place = (back.version, False)
            _move(store, found, model_id, back.to, reason=reason, held=True, only_from=place, now=now)
        else:
            version, place = back.to if found.state == "superseded" else back.version, (back.to, True)
            _move(store, found, model_id, version, reason=reason, held=False, only_from=place, now=now)
    if found.taken_back:
        feed.rebuild(store, now=now)

    def moved(standing: Rollout) -> Rollout:
        if (standing.state, standing.taken_back) != (found.state, found.taken_back):
            return standing  # somebody decided otherwise meanwhile, and settles that
        kept = standing.taken_back if standing.state == "stopped" else {}
        return replace(standing, channels_moved=True, taken_back=kept)

    return rollout.update(store, found.rollout_id, moved)


def release(found: Rollout, model_ids: Collection[str], *, store: ObjectStore, now: datetime) -> Rollout:
    """Let runs move the channels of these models again: they are taken for a reason of their own."""
    going = {name: back for name, back in found.taken_back.items() if name in model_ids}
    if not going:
        return found
    why = "the model is taken for a reason of its own, so that the rollout no longer holds it"
    reason = MoveReason(kind="restored", by=Actor(kind="rollout", name=found.rollout_id), why=why)
    for model_id, back in going.items():
        _move(store, found, model_id, back.to, reason=reason, held=False, only_from=(back.to, True), now=now)

    def released(standing: Rollout) -> Rollout:
        kept = {name: back for name, back in standing.taken_back.items() if name not in going}
        return replace(standing, taken_back=kept)

    return rollout.update(store, found.rollout_id, released)


def _move(
    store: ObjectStore,
    found: Rollout,
    model_id: str,
    version: str,
    *,
    reason: MoveReason,
    held: bool,
    only_from: tuple[str, bool],
    now: datetime,
) -> None:
    """Move a model's channel, if it is where the rollout left it.

    Args:
        only_from: the version that the channel points at, and whether it is held there.
    """
    pointer = channels.find(store, model_id, found.channel)
    if pointer is None or _place(pointer) != only_from:
        return
    with suppress(VersionConflict):  # another writer has moved it meanwhile
        channels.move(store, model_id, found.channel, version, reason=reason, now=now, expected=only_from[0], held=held)
        log.info("%s@%s: moved to %s for the rollout %s", model_id, found.channel, version, found.rollout_id)


def _reason(found: Rollout) -> MoveReason:
    """Return who moves the channels and why: what the document says, whichever process moves them."""
    stopped = found.state == "stopped"
    wanted = "stopped" if stopped else "continued"
    decision = found.decisions[-1] if found.decisions and found.decisions[-1].what == wanted else None
    if found.state == "superseded":
        decision, why = None, "the toolchain or the defaults have changed again"
    elif stopped:
        why = found.wave.reason
    else:
        why = decision.reason if decision else "the rollout goes on"
    by = Actor(kind="rollout", name=found.rollout_id, asked_by=decision.by if decision else None)
    return MoveReason(kind="taken_back" if stopped else "restored", by=by, why=why)


def _place(pointer: Channel) -> tuple[str, bool]:
    return pointer.version, pointer.held
