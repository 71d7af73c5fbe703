"""A process that has imported torch and transformers and done nothing else: steps that need them are forks of it.

``python -m onnx_fleet.processes.fork_server`` is started by onnx_fleet.processes.fork_client, the only one who can talk
to it: orders come through a socket that it inherits. docs/decisions/isolation.md says what makes forking safe here, and
what multiprocessing's own fork server lacks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from onnx_fleet.processes import isolation
from onnx_fleet.processes.fork_client import REFUSED

_IMPORTS = ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto")
"""What every step needs that loads a model; what only some of them need is imported when the first one is ordered."""

_ORDER_BYTES = 1 << 16


def serve(control: socket.socket, owner: int) -> None:
    """Fork a process for each order, and tell its sender how it ended; until the owner closes the socket, or is gone.

    An order that this process cannot get ready for is the last one; what was forked before runs on.

    Args:
        control: takes orders: the arguments and the modules to import, in JSON, with the file for the output and the
            socket for the answer.
        owner: the owner's pidfd.
    """
    calls: dict[int, tuple[int, socket.socket]] = {}
    open_ = is_ready = True
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(owner, selectors.EVENT_READ)
        while open_ or calls:
            for key, _ in selector.select():
                if key.fd == owner:
                    return  # the system kills what was forked
                if key.fd in calls:
                    selector.unregister(key.fd)
                    _settle(key.fd, *calls.pop(key.fd))
                    continue
                data, files, _, _ = socket.recv_fds(control, _ORDER_BYTES, 2)
                order = json.loads(data) if data else None
                is_ready = order is None or _get_ready(order["imports"])
                if order is None or not is_ready:
                    selector.unregister(control)
                    control.close()
                    for file in files:
                        os.close(file)
                    open_ = False
                    continue
                pid = _fork(order["arguments"], files)
                child = os.pidfd_open(pid)
                calls[child] = pid, socket.socket(fileno=files[1])
                selector.register(child, selectors.EVENT_READ)
    if not is_ready:
        os._exit(REFUSED)


def _get_ready(modules: Sequence[str]) -> bool:
    """Import what is not imported yet; say whether this process can be forked then."""
    if all(name in sys.modules for name in modules):
        return True
    try:
        for name in modules:
            importlib.import_module(name)
    except Exception:  # noqa: BLE001  the step's own process says it in its log
        return False
    gc.collect()
    gc.freeze()  # or a child's first collection copies every page of it
    return _is_alone()


def _settle(child: int, pid: int, caller: socket.socket) -> None:
    """Say how a process ended."""
    os.close(child)
    _, status = os.waitpid(pid, 0)
    with caller, contextlib.suppress(OSError):  # who does not listen any more has killed it
        caller.send(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode())


def _fork(arguments: Sequence[str], files: Sequence[int]) -> int:
    """Return the child's pid; the child itself never returns."""
    server = os.getpid()
    pid = os.fork()
    if pid:
        os.close(files[0])
        return pid
    status = 1
    try:
        _become_a_step(server, *files)
        isolation.answer(*arguments)
        status = 0
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else 1
    except BaseException:  # noqa: BLE001  it must not go on as a second server
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _become_a_step(server: int, output: int, caller: int) -> None:
    """Have what subprocess would have started it with: its own session, its own output, and no file of the server's."""
    os.setsid()
    isolation.die_with_parent()
    if os.getppid() != server:
        os._exit(1)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    with socket.socket(fileno=os.dup(caller)) as answers:
        answers.send(json.dumps({"pid": os.getpid()}).encode())
    os.closerange(sys.stderr.fileno() + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # noqa: PTH208


def _is_alone() -> bool:
    """Tell whether this process has one thread, once a fork has stopped those that know of forks, like OpenBLAS's."""
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208


def _main(control: str, owner: str) -> NoReturn:
    isolation.die_with_parent()  # whose thread waits for the first step's pid until all is imported
    watched = os.pidfd_open(int(owner))
    if not _get_ready(_IMPORTS) or os.getppid() != int(owner):
        os._exit(REFUSED)
    isolation.die_with_parent(from_now_on=False)
    serve(socket.socket(fileno=int(control)), watched)
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
