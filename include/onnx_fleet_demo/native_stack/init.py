"""The first process of a service, as a container has one: ``python -m onnx_fleet_demo.native_stack.init COMMAND …``.

Whatever the service starts, however deep, stays below this process. All of it is killed when the service's own process
ends, and when whoever started this one dies. Signals are handed on as dumb-init does in the images: to the service's
process group, or with DUMB_INIT_SETSID=0 to its own process alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import Final

import psutil

from onnx_fleet_demo import processes

HANDED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(command: list[str]) -> int:
    """Run a command to its end; returns its exit status, 128 and the signal's number where one ended it."""
    starter = os.getppid()
    tell = os.kill if os.environ.get("DUMB_INIT_SETSID") == "0" else os.killpg
    service: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        if os.getppid() != starter:  # this signal is the kernel's word that the starter is dead
            processes.kill_tree(psutil.Process(), spare_root=True)
        elif service is not None:
            tell(service.pid, number)

    processes.adopt_orphans()
    for number in HANDED_ON:
        signal.signal(number, hand_on)
    service = subprocess.Popen(command, start_new_session=True)
    status = _wait(service.pid)
    processes.kill_tree(psutil.Process(), spare_root=True)
    return status


def _wait(pid: int) -> int:
    """Wait for one child, and reap every other one that was left to this process meanwhile."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
