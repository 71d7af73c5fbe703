"""A registry's pointer ends where the channel points, also when that moves while the pointer is set."""

from __future__ import annotations

from pathlib import Path

from fixtures.told_events import moved, published
from onnx_fleet.sinks import channel_following
from onnx_fleet.store import ObjectStore


def test_a_channel_that_moves_meanwhile_is_followed(tmp_path: Path, any_store: ObjectStore) -> None:
    old, new = (published(tmp_path, any_store, digit=digit).version for digit in "ab")
    moved(any_store, "stable", old)
    pointed: list[str] = []

    def point(version: str) -> None:
        pointed.append(version)
        if version == old:
            moved(any_store, "stable", new)

    assert channel_following.follow(any_store, "acme/tiny", "stable", point=point) == new
    assert pointed == [old, new]
    assert channel_following.follow(any_store, "acme/tiny", "nobody", point=point) is None
