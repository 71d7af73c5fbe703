"""Whoever uses a store may be killed anywhere: nothing half done shows, and it can be done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_fleet_demo.s3_server import EmbeddedS3
from reliability import actors
from reliability.actors import ACTORS, Scene
from reliability.kill_points import BetweenCalls, BetweenRequests, Boundaries, kill_everywhere

IN_A_FOLDER = [name for name in ACTORS if name != "publishes a version with large files"]
"""Whom CI kills between two calls of a folder, in which a large file is a file like any other."""
IN_A_BUCKET = ["rebuilds the feed"]
"""Whom CI kills between two requests to a bucket; make torture does it to all, in a folder too."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Kill those for whom there is the time."""
    named = {"in_a_folder": IN_A_FOLDER, "in_a_bucket": IN_A_BUCKET}
    for argument in named.keys() & {*metafunc.fixturenames}:
        everybody = metafunc.config.getoption("--torture")
        metafunc.parametrize(argument, list(ACTORS) if everybody else named[argument])


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return actors.make_stages(tmp_path_factory.mktemp("stages"))


def _kill(name: str, boundaries: Boundaries, scene: Scene) -> None:
    scene.folder.mkdir()
    wrong = list(kill_everywhere(name, boundaries, scene))
    print(f"{name}: killed at {len(wrong) - 1} boundaries")
    assert [each for each in wrong if each] == []
    assert len(wrong) > 3


def test_wherever_an_actor_is_killed_nothing_half_done_shows_and_it_is_done_again_to_the_byte(
    tmp_path: Path, stages: Path, in_a_folder: str
) -> None:
    _kill(in_a_folder, BetweenCalls(home=tmp_path), Scene(stages=stages, folder=tmp_path / "own"))


def test_wherever_an_actor_is_killed_between_two_requests_to_a_bucket_the_same_holds(
    tmp_path: Path, stages: Path, s3_server: EmbeddedS3, in_a_bucket: str
) -> None:
    _kill(in_a_bucket, BetweenRequests(server=s3_server), Scene(stages=stages, folder=tmp_path / "own"))
