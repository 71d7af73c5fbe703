"""Start a step's process as a fork of one that has imported torch and transformers already (fork_server)."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

_FORKS: Final = sys.platform == "linux"
"""Whether anything is forked: frameworks of macOS do not survive it."""
REFUSED: Final = 3
"""The exit status of a server from which nothing can be forked safely."""

_SERVER = "onnx_fleet.processes.fork_server"
_PREPARING_TIMEOUT_S = 300
_ENDING_TIMEOUT_S = 5
_REPORT_BYTES = 1024
_TOLD_TO_NOBODY = ("PYTEST_CURRENT_TEST", "AIRFLOW_CTX_")
"""How environment variables begin that no import reads: a server serves on when they change."""


class ForkedProcess:
    """What is asked of subprocess.Popen, for a process whose parent is the server: that tells how it ended."""

    def __init__(self, pid: int, *, server: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        if self.returncode is None:
            self._server.settimeout(timeout)
            try:
                report = self._server.recv(_REPORT_BYTES)
            except TimeoutError:
                raise subprocess.TimeoutExpired("a forked step", timeout or 0) from None
            except ConnectionError:
                report = b""
            self._server.close()
            # Without a report the server is gone, and the system has killed its children.
            self.returncode = int(json.loads(report)["exit"]) if report else -signal.SIGKILL
        return self.returncode


@dataclass(frozen=True, slots=True)
class _Circumstances:
    """What a new interpreter would find: a server that found anything else does not stand in for it."""

    environment: Mapping[str, str]
    folder: str
    cores: frozenset[int]

    @classmethod
    def here(cls) -> _Circumstances:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_TOLD_TO_NOBODY)}
        return cls(environment=environment, folder=str(Path.cwd()), cores=frozenset(os.sched_getaffinity(0)))


class _Server:
    """One server's process, and the only way to it."""

    def __init__(self, circumstances: _Circumstances) -> None:
        self.circumstances = circumstances
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _SERVER, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def refused(self) -> bool:
        return self._process.poll() == REFUSED

    def order(self, arguments: Sequence[str], *, output: BinaryIO, imports: Sequence[str]) -> socket.socket:
        """Ask for a process; through the socket that is returned comes its pid, and then how it ended.

        Raises:
            OSError: the server is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                order = json.dumps({"arguments": arguments, "imports": imports}).encode()
                socket.send_fds(self._orders, [order], [output.fileno(), theirs.fileno()])
        except OSError:
            ours.close()
            raise
        return ours

    def close(self) -> None:
        """Let it end once its last child has."""
        self._orders.close()

    def kill(self) -> None:
        """End it, and with it everything that it forked."""
        self._process.kill()

    def end(self) -> None:
        """Wait until it has ended by itself; make it, where it does not."""
        try:
            self._process.wait(_ENDING_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_lock = threading.Lock()
_server: _Server | None = None
_former: list[_Server] = []


def prepare() -> None:
    """Have a server begin with its imports, for steps that are about to be started; it imports beside this process."""
    if _FORKS:
        with _lock, suppress(OSError):
            _serving(_Circumstances.here())


def start(arguments: Sequence[str], *, output: BinaryIO, imports: Sequence[str] = ()) -> ForkedProcess | None:
    """Call ``isolation.answer(*arguments)`` in a process that is as good as new, but for its imports.

    Args:
        imports: modules that it has imported beside torch and transformers.
    Returns:
        None where nothing can be forked safely: the caller then starts an interpreter.
    """
    if not _FORKS:
        return None
    try:
        with _lock:
            server = _serving(_Circumstances.here())
            answers = server.order(arguments, output=output, imports=imports)
    except OSError:
        return None
    try:
        answers.settimeout(_PREPARING_TIMEOUT_S)
        report = answers.recv(_REPORT_BYTES)
    except TimeoutError:
        server.kill()
        report = b""
    except ConnectionError:
        report = b""
    except BaseException:
        server.kill()  # nobody knows the pid of what it forks now
        raise
    told = json.loads(report) if report else {}
    if "pid" in told:
        return ForkedProcess(told["pid"], server=answers)
    answers.close()
    return None


def _serving(circumstances: _Circumstances) -> _Server:
    """Return a server of these circumstances; another one is let go."""
    global _server
    fits = _server and _server.circumstances == circumstances
    if _server and fits and (_server.refused or not _server.ended):
        return _server
    if _server:
        _server.close()
        _former.append(_server)
    _former[:] = [server for server in _former if not server.ended]
    _server = _Server(circumstances)
    return _server


def _close() -> None:
    if _server:
        _server.close()
        _server.end()


def _forget() -> None:
    """A fork of this process leaves the server to the original, and may make its own."""
    global _lock, _server
    _lock = threading.Lock()
    if _server:
        _server.close()
        _former.append(_server)
        _server = None


atexit.register(_close)
if _FORKS:
    os.register_at_fork(after_in_child=_forget)
