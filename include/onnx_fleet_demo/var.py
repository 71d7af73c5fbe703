"""Where the demo keeps what it makes: everything under ``var/``, which ``make clean`` removes."""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path:
    """``var/`` in the project's folder; ONNX_FLEET_VAR names another one."""
    named = os.environ.get("ONNX_FLEET_VAR")
    return Path(named).absolute() if named else Path(__file__).resolve().parents[2] / "var"


def s3_dir() -> Path:
    """What the embedded S3 server keeps."""
    return root() / "s3"
