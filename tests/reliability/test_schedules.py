"""Acts on a bucket through a network that fails, drawn from seeds: a short form of make torture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from onnx_fleet_demo.s3_server import EmbeddedS3
from reliability import actors, schedules
from reliability.schedules import Bucket

SEEDS = range(1001, 1021)
"""Not those that make torture begins with."""


def test_whatever_fails_on_the_way_an_act_is_done_as_without_faults_or_ends_with_an_error_of_ours(
    tmp_path: Path, s3_server: EmbeddedS3
) -> None:
    run = partial(schedules.run, bucket=Bucket.of(s3_server), stages=actors.make_stages(tmp_path / "stages"))
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(run, SEEDS))
    print(*outcomes, sep="\n")
    assert [f"{each}" for each in outcomes if each.wrong] == []
    assert sum(each.met.total() for each in outcomes) > len(outcomes)
