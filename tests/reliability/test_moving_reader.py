"""Readers that pull while others publish, move channels and collect garbage at full speed: each pull is one bundle."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from fixtures.killed_updates import holds
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.pull import pull
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.channel_move import Actor, MoveKind, MoveReason
from onnx_fleet.entities.retention import Retention
from onnx_fleet.errors import BundleDeleted, BundleNotFound
from onnx_fleet.runs import channel_moves, garbage
from onnx_fleet.runs.channel_moves import Proposal
from onnx_fleet.store import ObjectStore, S3Settings, open_store
from onnx_fleet_demo.s3_server import EmbeddedS3
from reliability import invariants

MODEL = "acme/tiny"
DAYS_A_SECOND = 10
KEPT_DAYS = 60
"""How long a version stays that channels have left: six seconds, longer than any pull takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A clock that all processes share, on which days go by."""

    began: float
    seconds: float

    @property
    def runs(self) -> bool:
        return time.monotonic() < self.began + self.seconds

    @property
    def now(self) -> datetime:
        return NOW + timedelta(days=(time.monotonic() - self.began) * DAYS_A_SECOND)


Work = Callable[[ObjectStore, Path, Clock], Counter[str]]


def _publishes(store: ObjectStore, home: Path, clock: Clock) -> Counter[str]:
    """Publish one version after the other; each has its graph, and latest follows it.

    Whoever collects may take one that is not finished for one that was given up: nothing is young here, see _collects.
    """
    done = Counter[str]()
    while clock.runs:
        number = done.total()
        item = work_item(fingerprint=f"{number:08x}".ljust(64, "0"))
        stage = tiny_stage(home / item.version, item=item, scale=2.0 + number)
        try:
            publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=clock.now, move=True)
        except BundleDeleted:
            done["publications that were removed"] += 1
        else:
            done["publications"] += 1
    return done


def _moves(store: ObjectStore, _home: Path, clock: Clock) -> Counter[str]:
    """Roll latest back, promote stable to it, and give latest free again."""
    done = Counter[str]()

    def carried(kind: MoveKind, propose: Callable[[], Proposal]) -> None:
        try:
            proposed = propose()
        except BundleNotFound:
            return  # nothing is before it yet
        reason = MoveReason(kind=kind, by=Actor(kind="person", name="ada@build-7"), why="it is the better one")
        (after,) = channel_moves.carry_out(store, [proposed], reason=reason, now=clock.now)
        done["moves that another writer was before" if after.failed else f"moves, {kind}"] += 1

    while clock.runs:
        carried("rolled_back", lambda: channel_moves.back(store, MODEL, "latest"))
        carried("promoted", lambda: channel_moves.to_version(store, MODEL, "stable", "latest"))
        carried("set", lambda: channel_moves.to_version(store, MODEL, "latest", "latest"))
    return done


def _collects(store: ObjectStore, _home: Path, clock: Clock) -> Counter[str]:
    """Remove what channels have left for longer than a pull takes.

    Files have their age by the machine's own clock, so that none is young here: only the history keeps versions. What
    belongs to no model, such as files that are being written, would be swept by that age too, and is left alone.
    """
    done = Counter[str]()
    while clock.runs:
        found = garbage.collect(
            store,
            policy=lambda _model_id: Retention(keep_last=1, history_days=KEPT_DAYS, grace_days=KEPT_DAYS),
            run_id="gc",
            by=Actor(kind="person", name="the janitor"),
            now=clock.now,
            only=(MODEL,),
            delete=True,
        )
        done["collections"] += 1
        done["versions removed"] += len(found.versions)
    return done


def _reads(store: ObjectStore, home: Path, clock: Clock, *, channel: str) -> Counter[str]:
    """Pull what a channel points to into a folder that is served, and into a new one."""
    seen = Counter[str]()
    while clock.runs:
        for folder, update in ((home / channel, True), (home / f"{channel} {seen.total()}", False)):
            sealed = pull(f"{MODEL}@{channel}", store=store, to=folder, update=update)
            assert holds(folder) == f"{MODEL}@{sealed.bundle.version}"
            seen[sealed.bundle.version] += 1
    return Counter({"pulls": seen.total(), f"versions of {channel}": len(seen)})


def _in_a_process(work: Work, *, address: str, s3: S3Settings, home: Path, clock: Clock) -> Counter[str]:
    return work(open_store(address, s3=s3), home, clock)


def test_a_reader_never_fails_or_mixes_versions_while_channels_move_at_full_speed(
    tmp_path: Path, any_store: ObjectStore, s3_server: EmbeddedS3, torture: bool
) -> None:
    for digit in "de":
        stage = tiny_stage(tmp_path / digit, item=work_item(fingerprint=digit * 64), scale=float(ord(digit)))
        publish(Stage.open(stage), store=any_store, provenance=PROVENANCE, created_at=NOW)
    proposed = channel_moves.to_version(any_store, MODEL, "stable", "latest")
    reason = MoveReason(kind="promoted", by=Actor(kind="person", name="ada@build-7"), why="it is the first one")
    channel_moves.carry_out(any_store, [proposed], reason=reason, now=NOW)

    works: list[Work] = [
        _publishes,
        _moves,
        _collects,
        *(partial(_reads, channel=name) for name in ("latest", "stable")),
    ]
    clock = Clock(began=time.monotonic(), seconds=60 if torture else 3)
    one = partial(_in_a_process, address=any_store.address, s3=s3_server.settings, home=tmp_path, clock=clock)
    with ProcessPoolExecutor(len(works), mp_context=multiprocessing.get_context("fork")) as pool:
        done = sum(pool.map(one, works), Counter[str]())

    print(dict(done))
    assert invariants.broken(any_store) == []
    assert done["pulls"] >= 4
    assert done["publications"]
    assert done["moves, rolled_back"]
    assert done["moves, promoted"]
    assert done["collections"]
    assert done["versions removed"] or not torture, "in three seconds nothing grows old"
