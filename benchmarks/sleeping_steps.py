"""The product's steps with a sleep in the place of their work, to measure what Airflow and we add around them.

An export copies a stage that was really made and validated; comparing, publishing and the record are the product's own.
``python -m benchmarks.sleeping_steps`` is the command line with such steps.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from onnx_fleet.bundles.stage import PRIVATE
from onnx_fleet.runs.steps import STEPS, Job

STAGE: Final = "ONNX_FLEET_SCALE_STAGE"
"""The variable that names the folder of the stage to copy."""
SECONDS: Final = "ONNX_FLEET_SCALE_SECONDS"
"""The variable that says how long each step sleeps."""


def install() -> None:
    """Replace the work of the steps of this process, as the variables say."""
    template, seconds = Path(os.environ[STAGE]), float(os.environ[SECONDS])
    runs: dict[str, Callable[[Job], None]] = {
        "export": partial(_copy, template=template, seconds=seconds),
        "validate": partial(_sleep, seconds=seconds),
        "measure": partial(_sleep, seconds=seconds),
    }
    for step in STEPS:
        if step.name in runs:
            object.__setattr__(step, "run", runs[step.name])  # a row of a table that is frozen everywhere else


def _copy(job: Job, *, template: Path, seconds: float) -> None:
    job.stage.begin()
    shutil.copytree(template, job.stage.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("work.json", "done"))
    for path in (job.stage.folder / "reports").glob("*.json"):
        report = json.loads(path.read_bytes()) | {
            "model_id": job.stage.item.model_id,
            "version": job.stage.item.version,
        }
        path.write_text(json.dumps(report))
    (job.stage.private / "export.json").touch()  # the newest file: nothing counts as changed since
    _sleep(job, seconds=seconds)


def _sleep(job: Job, *, seconds: float) -> None:
    assert (job.stage.folder / PRIVATE / "export.json").exists()
    time.sleep(seconds)


if __name__ == "__main__":
    from onnx_fleet.cli import main

    install()
    main()
