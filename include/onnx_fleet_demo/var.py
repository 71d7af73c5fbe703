"""The folder in which the demo keeps what it makes: everything under ``var/``, which ``make clean`` removes."""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path:
    """Return ``var/`` in the project's folder, or the folder that ONNX_FLEET_VAR names."""
    named = os.environ.get("ONNX_FLEET_VAR")
    return Path(named).absolute() if named else Path(__file__).resolve().parents[2] / "var"


def s3_dir() -> Path:
    """Return the folder of the embedded S3 server's data."""
    return root() / "s3"
