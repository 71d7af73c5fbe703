"""A process that answers questions, one JSON line each: what it imports is imported once. Standard library only."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable

Question = dict[str, object]


def serve(handle: Callable[[Question], None]) -> None:
    """Answer until stdin ends: ``{"error": null}``, or the traceback. What the libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        error = None
        try:
            handle(json.loads(line))
        except Exception:  # noqa: BLE001 - whatever it is, the test that asked shows it
            error = traceback.format_exc()
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()
