"""The settings of a model's image or sound preprocessor: its preprocessor_config.json. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def settings(folder: Path) -> Mapping[str, Any]:
    """Return a source's or a stage's preprocessor_config.json; empty where it has none."""
    path = folder / "preprocessor_config.json"
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
