"""Run schedules of faults: python -m reliability --schedules 1000 --seed 1 --jobs 4 (make torture).

Each schedule is drawn from a seed of its own, the first of which is --seed; a schedule that went wrong is printed with
its seed, which makes the same faults again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from onnx_fleet_demo.s3_server import EmbeddedS3
from reliability import actors, schedules


def main() -> int:
    """Run the schedules; returns 1 where one went wrong."""
    parser = argparse.ArgumentParser(prog="python -m reliability", description="Schedules of faults on a store.")
    parser.add_argument("--schedules", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the first one; each next one has the next")
    parser.add_argument("--jobs", type=int, default=4, help="how many processes run them")
    options = parser.parse_args()
    began, met, errors, requests, wrong = time.monotonic(), Counter[str](), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="onnx-fleet-torture-") as folder:
        stages = actors.make_stages(Path(folder) / "stages")
        with (
            EmbeddedS3(Path(folder) / "s3") as server,
            ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("fork")) as pool,
        ):
            run = partial(schedules.run, bucket=schedules.Bucket.of(server), stages=stages)
            for number, outcome in enumerate(
                pool.map(run, range(options.seed, options.seed + options.schedules)), start=1
            ):
                met, errors, requests = met + outcome.met, errors + outcome.errors, requests + outcome.requests
                wrong += bool(outcome.wrong)
                if outcome.wrong:
                    print(outcome, flush=True)
                if number % 50 == 0:
                    print(f"{number} schedules, {wrong} wrong, {time.monotonic() - began:.0f} s", flush=True)
    print(
        f"seeds {options.seed} to {options.seed + options.schedules - 1}: {wrong} went wrong; {requests} requests,"
        f" {met.total()} faults, {errors.total()} acts that ended with an error and were done again,"
        f" {time.monotonic() - began:.0f} s"
    )
    for name, count in sorted(met.items()):
        print(f"  {count:6} {name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
