"""Run one step in a process of its own, with a memory and a time limit.

A native crash, an out-of-memory kill or a hang of a step is then a clear error of that model alone, and what the step
imported and allocated is gone with its process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import psutil

from onnx_fleet import errors, jsonio
from onnx_fleet.errors import OnnxFleetError, StepCrashed, StepTimedOut, WorkerOutOfResources
from onnx_fleet.processes import fork_client, hardware, peak_memory, profiling, progress
from onnx_fleet.processes.profiling import Profile

Q = TypeVar("Q")
R = TypeVar("R")

_POLL_S = 0.1
_ENDING_TIMEOUT_S, _ENDING_POLL_S = 5, 0.01
"""How long a killed step's own children may take to be gone, and how often that is looked at."""
_LISTED_EVERY_S = 1.0
"""How often the processes of the machine are looked through for those that a step has started."""
_LOGGED_EVERY_S = 30
"""How often the log is told how far a step is."""
_LOG_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1
_PROGRESS = "progress.json"
_PROFILED = "--profile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one isolated call may use; None is no limit."""

    memory_bytes: int | None = None
    """The memory that the kernel cannot take back: what is mapped of files, such as a checkpoint, does not count."""
    timeout_s: float | None = None
    may_be_forked: bool = True
    """Whether a server to fork from may be made; where the next step with torch comes from another process, it would be
    made for one step."""
    imports: tuple[str, ...] = ()
    """The modules that a server to fork from imports, beside torch and transformers."""


STEP_TIMEOUT_S = 3600
STEP_MEMORY_SHARE = 0.8
"""The share of the machine's or the container's memory a step may use: past that the kernel chooses what to kill."""


def machine_limits() -> Limits:
    """Return what a step may use on this machine, or in this container of it, where nobody says otherwise."""
    memory_bytes = int(hardware.usable_memory_bytes() * STEP_MEMORY_SHARE)
    return Limits(memory_bytes=memory_bytes, timeout_s=STEP_TIMEOUT_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[R]):
    """What an isolated call returned, and what it cost."""

    value: R
    duration_s: float
    peak_memory_bytes: int
    """The most resident memory, mapped files among it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """What a process and everything that it started have in memory."""

    resident_bytes: int = 0
    file_bytes: int = 0
    """Those of the resident bytes that are pages of files."""

    def or_more(self, other: _Memory) -> _Memory:
        """Return the most of each."""
        return _Memory(
            resident_bytes=max(self.resident_bytes, other.resident_bytes),
            file_bytes=max(self.file_bytes, other.file_bytes),
        )


class _Process(Protocol):
    """What is asked of a step's process."""

    pid: int
    returncode: int | None

    def wait(self, timeout: float | None = None) -> int: ...


_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Yield an event: once it is set, calls of run that the block waits for end their processes and are interrupted.

    That is for those who wait in other threads with a copy of the block's context: only the main one is interrupted by
    Ctrl+C.
    """
    stop = threading.Event()
    token = _stop.set(stop)
    try:
        yield stop
    finally:
        _stop.reset(token)


def prepare(limits: Limits) -> None:
    """Have torch imported for calls of run that need it, while this process does something else."""
    if limits.may_be_forked:
        fork_client.prepare()


def run(function: Callable[[Q], R], request: Q, *, limits: Limits, log: Path, with_torch: bool = False) -> Outcome[R]:
    """Call ``function(request)`` in a new Python process; progress.tell() there is told here, to whoever listens.

    Args:
        function: a module's own function; its parameter and result are annotated with dataclasses.
        log: takes what the process prints; appended to.
        with_torch: where that is safe, the process starts with torch and transformers: the function needs them, or
            what they import.
    Raises:
        OnnxFleetError: whatever the function raised, as the same class.
        WorkerOutOfResources: the memory limit was passed, or the system killed the process.
        StepTimedOut: the time limit was passed, in which the time that it has waited for others does not count.
        StepCrashed: the process died, or raised something that is not ours.
        KeyboardInterrupt: it was stopped.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="onnx-fleet-") as folder, log.open("ab") as output:
        question, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        question.write_text(json.dumps(jsonio.to_json(request)))
        arguments = [name, str(question), str(answer)]
        if profiling.active():
            arguments.append(_PROFILED)
        process = _start(arguments, output=output, limits=limits, with_torch=with_torch)
        try:
            seen = _watch(process, name=name, limits=limits, log=log, told=answer.with_name(_PROGRESS))
        finally:
            _kill_group(process)
        reply = json.loads(answer.read_bytes()) if answer.exists() else None
    if reply is None:
        raise _death(process.wait(), name=name, log=log)
    if (recorder := profiling.active()) and "profile" in reply:
        recorder.take(jsonio.from_json(Profile, reply["profile"]))
    if "error" in reply:
        raise _revive(reply["error"], name=name, log=log)
    kind = typing.get_type_hints(function)["return"]
    # Between two looks it may have had more, and no more of it were files than at any look.
    peak_memory.saw_process(reply["peak_memory_bytes"] - max(seen.file_bytes, reply["file_bytes"]))
    return Outcome(
        value=jsonio.from_json(kind, reply["value"]),
        duration_s=time.monotonic() - started,
        peak_memory_bytes=max(seen.resident_bytes, reply["peak_memory_bytes"]),
    )


def _start(arguments: Sequence[str], *, output: BinaryIO, limits: Limits, with_torch: bool) -> _Process:
    """Start a process that calls ``answer(*arguments)``, as the leader of a session of its own."""
    if with_torch and limits.may_be_forked:
        with profiling.starting():
            process = fork_client.start(arguments, output=output, imports=limits.imports)
        if process:
            return process
    command = [sys.executable, "-m", "onnx_fleet.processes.isolation", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def _watch(process: _Process, *, name: str, limits: Limits, log: Path, told: Path) -> _Memory:
    """Wait for the process, pass on how far it is, and return the most memory of each kind that was seen in it."""
    looked_at, worked_s, seen, has_ended = time.monotonic(), 0.0, _Memory(), False
    passed_on, logged_at = None, looked_at
    processes, listed_at = _family(process.pid), looked_at
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            has_ended = True
        if passed_on is None or not passed_on.waits_for:
            worked_s += time.monotonic() - looked_at
        looked_at = time.monotonic()
        if (now := progress.read(told)) is not None and now != passed_on:
            passed_on = now
            progress.tell(now)
            if time.monotonic() - logged_at > _LOGGED_EVERY_S:
                logged_at = time.monotonic()
                logging.getLogger(__name__).info("%s: %s", name, now)
        if has_ended:
            return seen
        if (stop := _stop.get()) and stop.is_set():
            raise KeyboardInterrupt
        if looked_at - listed_at > _LISTED_EVERY_S:
            processes, listed_at = _family(process.pid), looked_at
        memory = _memory(processes)
        seen, own_bytes = seen.or_more(memory), memory.resident_bytes - memory.file_bytes
        peak_memory.saw_process(own_bytes)
        if limits.memory_bytes is not None and own_bytes > limits.memory_bytes:
            raise WorkerOutOfResources(
                f"{name} used {own_bytes:,} bytes of memory, more than its limit of {limits.memory_bytes:,}; "
                f"raise the limit or use a larger worker (log: {log})"
            )
        if limits.timeout_s is not None and worked_s > limits.timeout_s:
            raise StepTimedOut(f"{name} ran longer than {limits.timeout_s:g} s; raise the limit (log: {log})")


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and everything that it has started; nothing, once it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _memory(processes: Sequence[psutil.Process]) -> _Memory:
    """Return the memory of some processes together."""
    seen = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.append(peak_memory.resident(process))
    return _Memory(resident_bytes=sum(resident for resident, _ in seen), file_bytes=sum(files for _, files in seen))


def _kill_group(process: _Process) -> None:
    """End the process, which is its session's leader, and whatever it started; wait until that has ended, too.

    What comes next then has the memory to itself, and nothing writes into the step's folder any more.
    """
    started = _family(process.pid)[1:]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    give_up_at = time.monotonic() + _ENDING_TIMEOUT_S
    while not all(map(_has_ended, started)) and time.monotonic() < give_up_at:
        time.sleep(_ENDING_POLL_S)


def _has_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE  # in a container, there may be nobody to reap it
    return True


def _death(returncode: int, *, name: str, log: Path) -> OnnxFleetError:
    """Make the error to raise for a process that left no answer."""
    if returncode == -signal.SIGKILL:
        return WorkerOutOfResources(
            f"{name} was killed from outside, as the system does when memory runs out; "
            f"run fewer at the same time or use a larger worker (log: {log})"
        )
    cause = signal.Signals(-returncode).name if returncode < 0 else f"exit status {returncode}"
    return StepCrashed(f"{name} ended with {cause}; the log is {log} and ends:\n{_tail(log)}")


def _revive(error: dict[str, Any], *, name: str, log: Path) -> OnnxFleetError:
    """Make the child's exception again, of its own class where that is one of ours."""
    ours = errors.named(error["type"], error["message"], **error["attributes"])
    if ours is not None:
        return ours
    return StepCrashed(f"{name} raised {error['type']}: {error['message']}; the log is {log} and ends:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])


def die_with_parent(*, from_now_on: bool = True) -> None:
    """Have the system kill this process when its parent ends, so that no step outlives its task (Linux only).

    To Linux the parent is the thread that started the process: that one has to wait for it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if from_now_on else 0)


def answer(target: str, question: str, reply_file: str, *options: str) -> None:
    """Do a step in its own process: read the request, call the function, write the reply."""
    module, _, qualname = target.partition(":")
    function = getattr(importlib.import_module(module), qualname)
    hints = typing.get_type_hints(function)
    (request_kind,) = (kind for name, kind in hints.items() if name != "return")
    reply: dict[str, object]
    try:
        request = jsonio.parse(request_kind, Path(question).read_bytes())
        recording = profiling.recording(from_start=True) if _PROFILED in options else nullcontext()
        with recording as recorder, progress.listening(progress.writing(Path(reply_file).with_name(_PROGRESS))):
            value = function(request)
        _, file_bytes = peak_memory.resident(psutil.Process())
        reply = {
            "value": jsonio.to_json(value),
            "peak_memory_bytes": peak_memory.peak_bytes(),
            "file_bytes": file_bytes,
        }
        if recorder:
            reply["profile"] = jsonio.to_json(recorder.profile())
    except Exception as err:  # noqa: BLE001  the parent raises it again
        traceback.print_exc()
        own = vars(err) if isinstance(err, OnnxFleetError) else {}
        attributes = {name: value for name, value in own.items() if not name.startswith("_")}
        reply = {"error": {"type": type(err).__name__, "message": str(err), "attributes": attributes}}
    partial = Path(f"{reply_file}.partial")
    partial.write_text(json.dumps(reply))
    partial.rename(reply_file)


if __name__ == "__main__":
    die_with_parent()
    answer(*sys.argv[1:])
    # The answer is written, and the parent ends what is left of this process: taking torch down by the book is a wait
    # for nothing.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
