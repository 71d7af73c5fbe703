"""The folder in which runs work: each run has a subfolder of its own, so that two at once never share a stage."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from onnx_fleet.store import layout

KEPT_DAYS: Final = 14
"""The number of days that a run's subfolder is kept by default: it holds the stages of models that failed."""


def of_run(root: Path, label: str) -> Path:
    """Return the subfolder of one run.

    Args:
        label: names the run among all runs that work in the same folder.
    """
    return root / "runs" / layout.run_name(label)


def prune(root: Path, *, days: int = KEPT_DAYS) -> None:
    """Remove the subfolders of runs that began this many days ago, or earlier."""
    oldest = time.time() - days * 86_400
    for folder in (root / "runs").glob("*"):
        with suppress(FileNotFoundError):  # another run removes it at this moment
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
