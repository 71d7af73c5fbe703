"""Those who write to a store or read from it, each as one act that may be broken off anywhere and done again.

A new actor is one line of ACTORS: the kills of test_kills.py, and the faults of schedules.py, take it from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from fixtures.killed_updates import holds
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import feed, publish, pull, verify
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.channel_move import Actor as Mover
from onnx_fleet.entities.channel_move import MoveKind, MoveReason
from onnx_fleet.entities.retention import Retention
from onnx_fleet.runs import channel_moves, garbage
from onnx_fleet.runs.channel_moves import Proposal
from onnx_fleet.store import ObjectStore

MODEL: Final = "acme/tiny"
VERSIONS: Final[Mapping[str, str]] = {name: work_item(fingerprint=name * 64).version for name in "abc"}
"""The versions that can be published, by the names of their stages."""


class NotDone(Exception):
    """An act that says itself that it did not do all of what it was to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What actors have to hand."""

    stages: Path
    """The folder of the stages, which several processes may have: a publication writes into a copy of its stage."""
    folder: Path
    """An empty folder of their own."""
    minute: int = 0
    """When they act: each act of a sequence comes a minute behind the one before."""

    def publish(self, store: ObjectStore, stage: str) -> None:
        own = shutil.copytree(self.stages / stage, self.folder / "stages" / stage, dirs_exist_ok=True)
        publish.publish(
            Stage.open(own),
            store=store,
            provenance=PROVENANCE,
            created_at=NOW + timedelta(minutes=self.minute),
            by=Mover(kind="run", name=f"the run of {stage}"),
        )

    def carry_out(self, store: ObjectStore, kind: MoveKind, *proposed: Proposal) -> None:
        reason = MoveReason(kind=kind, by=Mover(kind="person", name="ada@build-7"), why="it is the better one")
        now = NOW + timedelta(minutes=self.minute)
        done = channel_moves.carry_out(store, proposed, reason=reason, now=now)
        if failed := [each.why_not for each in done if each.failed]:
            raise NotDone("; ".join(failed))


def _promote(store: ObjectStore, scene: Scene) -> None:
    scene.carry_out(store, "promoted", channel_moves.to_version(store, MODEL, "stable", "latest"))


def _roll_back(store: ObjectStore, scene: Scene) -> None:
    """Go back to a version by its name: whoever does it again comes to the same."""
    scene.carry_out(store, "rolled_back", channel_moves.back(store, MODEL, "latest", version=VERSIONS["a"]))


def _undo_a_run(store: ObjectStore, scene: Scene) -> None:
    scene.carry_out(store, "rolled_back", *channel_moves.undoing(store, "the run of b"))


def _rebuild_the_feed(store: ObjectStore, scene: Scene) -> None:
    feed.rebuild(store, now=NOW + timedelta(minutes=scene.minute))


def _pull(store: ObjectStore, scene: Scene) -> None:
    sealed = pull.pull(f"{MODEL}@latest", store=store, to=scene.folder / "served", update=True)
    if (held := holds(scene.folder / "served")) != f"{MODEL}@{sealed.bundle.version}":
        raise AssertionError(f"the folder that was pulled holds {held}")


def _verify(store: ObjectStore, _scene: Scene) -> None:
    report = verify.verify(f"{MODEL}@latest", store=store)
    assert report.passed, f"a bundle that is intact was found damaged: {report.faults}"


def _collect_garbage(store: ObjectStore, scene: Scene) -> None:
    """Remove the version that no channel points to, and that none would go back to."""
    garbage.collect(
        store,
        policy=lambda _model_id: Retention(keep_last=1, history_days=0, grace_days=0),
        run_id="gc",
        by=Mover(kind="person", name="the janitor"),
        now=NOW + timedelta(days=200, minutes=scene.minute),
        delete=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Someone who uses a store."""

    act: Callable[[ObjectStore, Scene], None]
    after: tuple[str, ...] = ()
    """The names of the actors that have to have been there before."""
    changes: bool = True
    """Whether the store is another one afterwards."""


def _publisher(stage: str) -> Callable[[ObjectStore, Scene], None]:
    return lambda store, scene: scene.publish(store, stage)


_ONE: Final = ("publishes the first version",)
_TWO: Final = (*_ONE, "publishes another version")
_THREE: Final = (*_TWO, "publishes a version with large files")

ACTORS: Final[Mapping[str, Actor]] = {
    "publishes the first version": Actor(act=_publisher("a")),
    "publishes another version": Actor(act=_publisher("b"), after=_ONE),
    "publishes a version with large files": Actor(act=_publisher("c"), after=_ONE),
    "publishes the first version again": Actor(act=_publisher("a again"), after=_ONE, changes=False),
    "promotes": Actor(act=_promote, after=_TWO),
    "rolls back": Actor(act=_roll_back, after=_TWO),
    "undoes a run": Actor(act=_undo_a_run, after=_TWO),
    "rebuilds the feed": Actor(act=_rebuild_the_feed, after=_ONE),
    "collects garbage": Actor(act=_collect_garbage, after=_THREE),
    "pulls": Actor(act=_pull, after=_ONE, changes=False),
    "verifies": Actor(act=_verify, after=_ONE, changes=False),
}
"""What each does, and who has to have been there before; whoever needs nobody begins with an empty store."""


def make_stages(folder: Path) -> Path:
    """Make the stages that are published, in a folder."""
    for number, name in enumerate("ab"):
        tiny_stage(folder / name, item=work_item(fingerprint=name * 64), scale=2.0 + number)
    tiny_stage(folder / "a again", item=work_item(fingerprint="a" * 64), latency_ms=7.0)
    tiny_stage(folder / "c", item=work_item(fingerprint="c" * 64), scale=9.0, weight_bytes=6 << 20)
    return folder
