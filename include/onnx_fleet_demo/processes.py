"""Processes that belong together: what one of them starts, however deep, ends when they are stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 5.0
"""The seconds that a service has to end by itself. The triggerer often takes longer, and may be killed."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identity of a process, by which it differs from a later one with the same number."""

    pid: int
    created: float

    @classmethod
    def of(cls, process: psutil.Process) -> Identity:
        return cls(pid=process.pid, created=process.create_time())

    def find(self) -> psutil.Process | None:
        """Return the process, while it runs; else None."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 0.01
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that ``descendants`` finds all of them."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(command: list[str], *, environment: Mapping[str, str], log: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """Start a service in a session of its own; it is told to end when the process that calls dies.

    Call it from the main thread: the kernel ties the service to the calling thread.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def asked_to_end() -> threading.Event:
    """Return an event that is set when this process gets SIGINT or SIGTERM, which then do nothing else."""
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    return done


def descendants() -> list[psutil.Process]:
    """Return every process below this one."""
    return psutil.Process().children(recursive=True)


def stop(services: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask services to end, wait for them, then kill whatever is left below this process."""
    services = list(services)
    for service in services:
        if service.poll() is None:
            service.terminate()
    psutil.wait_procs([psutil.Process(service.pid) for service in services if _runs(service)], timeout=STOP_TIMEOUT_S)
    end(Identity.of(process) for process in descendants())
    for service in services:
        service.wait()


def kill_tree(root: psutil.Process, *, spare_root: bool = False) -> None:
    """Kill a process and everything below it at one moment, as the end of a container does.

    All of them are halted first, so that none can start another one, notice the end of the others, or lose its parent.

    Args:
        spare_root: kill only what is below.
    """
    halted: set[psutil.Process] = set()
    while True:
        found = {root, *_below(root)} - ({root} if spare_root else set())
        if found <= halted:
            break
        for process in found - halted:
            _send(process, signal.SIGSTOP)
        halted |= found
    for process in halted:
        _send(process, signal.SIGKILL)


def _below(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def end(identities: Iterable[Identity]) -> None:
    """Kill processes that should not be there any more."""
    found = [process for identity in identities if (process := identity.find()) is not None]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in found:
            _send(process, number)
        _, found = psutil.wait_procs(found, timeout=3.0)


def _runs(service: subprocess.Popen[bytes]) -> bool:
    return service.poll() is None and psutil.pid_exists(service.pid)


def free_ports(count: int) -> tuple[int, ...]:
    """Return ports of loopback that nothing listens on; all are held at once, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for probe in held:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in held)
    finally:
        for probe in held:
            probe.close()


def environment() -> dict[str, str]:
    """Return what a service inherits: nothing that would lead it to another Airflow, Hub or bucket than the demo's."""
    foreign = ("AIRFLOW", "AWS_", "HF_", "HUGGINGFACE_", "ONNX_FLEET_STORE", "S3_", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
    direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1,localhost"]))
    return {**kept, "NO_PROXY": direct, "no_proxy": direct}
