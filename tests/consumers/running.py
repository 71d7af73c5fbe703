"""The processes of a test session: makers of bundles, and one for each consumer."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path


class Server:
    """A process that answers one JSON line with another (see serving.py)."""

    def __init__(self, command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._lock = threading.Lock()
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=dict(environment)
            )

    def ask(self, question: Mapping[str, object]) -> None:
        """Have it done.

        Raises:
            AssertionError: with the other side's traceback, or its log where it died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ""
        assert line, f"the process ended\n{self._log.read_text()[-4000:]}"
        error = json.loads(line)["error"]
        assert error is None, error

    def close(self) -> None:
        """End it; it has nothing to keep."""
        self._process.kill()
        self._process.communicate()
