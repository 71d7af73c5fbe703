"""An actor that `kill -9` ends at every boundary of what it asks of a store, and what has to hold after each.

In a folder the boundaries are those between two calls of the store. In a bucket they are those between two requests of
HTTP, of which a call makes one to five: a proxy kills the process that sends the request with a number.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from fixtures import faulty_network
from fixtures.faulty_network import Request
from fixtures.faulty_stores import forked, killed, was_killed
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet_demo.s3_server import EmbeddedS3
from reliability import invariants
from reliability.actors import ACTORS, Actor, Scene
from reliability.schedules import Bucket, OnDisk


class Boundaries(Protocol):
    """A store like another one, in which an actor may be killed."""

    def filled(self, contents: dict[str, bytes]) -> ObjectStore:
        """Return a new store that has these objects."""

    def killed(self, actor: Actor, scene: Scene, *, step: int) -> bool:
        """Let an actor act in that store, killed before the boundary with this number; say whether it came there."""

    def standing(self) -> ObjectStore:
        """Return what stands in that store."""


@dataclass(slots=True, kw_only=True)
class BetweenCalls:
    """Those of a folder."""

    home: Path
    folder: Path = field(init=False)

    def filled(self, contents: dict[str, bytes]) -> ObjectStore:
        self.folder = self.home / uuid.uuid4().hex
        for key, data in contents.items():
            (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / key).write_bytes(data)
        return open_store(str(self.folder))

    def killed(self, actor: Actor, scene: Scene, *, step: int) -> bool:
        return killed(lambda: open_store(str(self.folder)), lambda store: actor.act(store, scene), step=step)

    def standing(self) -> ObjectStore:
        return open_store(str(self.folder))


@dataclass(slots=True, kw_only=True)
class BetweenRequests:
    """Those of a bucket on a real server."""

    server: EmbeddedS3
    prefix: str = field(init=False)

    def filled(self, contents: dict[str, bytes]) -> ObjectStore:
        self.prefix = f"killed-{uuid.uuid4().hex}"
        store = open_store(f"{self.server.address}/{self.prefix}", s3=self.server.settings)
        for key, data in contents.items():
            store.create(key, data)
        return store

    def killed(self, actor: Actor, scene: Scene, *, step: int) -> bool:
        began, pids = threading.Event(), list[int]()

        def fault(request: Request) -> str | None:
            began.wait()
            if request.total < step:
                return None
            os.kill(pids[0], signal.SIGKILL)
            return "time-out"

        with faulty_network.serve(self.server.endpoint_url, fault) as network:
            settings = replace(self.server.settings, endpoint_url=network.endpoint_url)
            address = f"{self.server.address}/{self.prefix}"
            pids.append(forked(lambda: actor.act(open_store(address, s3=settings), scene)))
            began.set()
            return was_killed(pids[0])

    def standing(self) -> ObjectStore:
        return OnDisk(Bucket.of(self.server).on_disk / self.prefix)


def kill_everywhere(name: str, boundaries: Boundaries, scene: Scene) -> Iterator[list[str]]:
    """Kill an actor before each boundary in turn, and last let it through; yield what is wrong after each.

    Args:
        scene: its folder is emptied for each.
    """
    actor = ACTORS[name]
    with _reference(actor, scene) as (before, after):
        for step in itertools.count(1):
            store = boundaries.filled(before)
            shutil.rmtree(scene.folder)
            scene.folder.mkdir()
            is_killed = boundaries.killed(actor, scene, step=step)
            wrong = [f"killed before {step}: {each}" for each in invariants.broken(boundaries.standing())]
            if is_killed:
                actor.act(store, scene)
            found = invariants.contents(boundaries.standing())
            yield wrong + [f"done again after {step}: {key} differs" for key in invariants.differences(found, after)]
            if not is_killed:
                return


@contextmanager
def _reference(actor: Actor, scene: Scene) -> Iterator[tuple[dict[str, bytes], dict[str, bytes]]]:
    """Act on a folder without a kill; give what stood there before and stands there afterwards."""
    home = scene.folder.with_name(f"{scene.folder.name}-reference")
    store, theirs = open_store(str(home / "store")), replace(scene, folder=home / "folder")
    theirs.folder.mkdir(parents=True)
    for minute, earlier in enumerate(actor.after, start=-len(actor.after)):
        ACTORS[earlier].act(store, replace(theirs, minute=minute))
    before = invariants.contents(store)
    actor.act(store, theirs)
    after = invariants.contents(store)
    assert (before != after) == actor.changes, "nobody is killed in the middle of nothing"
    yield before, after
