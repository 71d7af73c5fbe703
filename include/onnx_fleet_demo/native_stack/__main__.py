"""``make stack``: docker-compose.yaml's services on this machine, without Docker, until Ctrl+C."""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import Final

from rich.console import Console

from onnx_fleet_demo import var
from onnx_fleet_demo.native_stack.stack import USER, NativeStack
from onnx_fleet_demo.stack import StackFailed

_TEND_EVERY_S: Final = 1.0

console = Console(stderr=True)


def main() -> int:
    """Run the services; returns 0 when they were told to end, and 1 when they did not start."""
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    try:
        with console.status("starting") as shown, NativeStack(var.root() / "stack", tell=shown.update) as stack:
            shown.stop()
            _print_where(stack, took_s=time.monotonic() - began)
            while True:
                time.sleep(_TEND_EVERY_S)
                stack.tend()
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 0
    except StackFailed as err:
        console.print(f"[red]{type(err).__name__}[/]: {err}", highlight=False, soft_wrap=True)
        return 1


def _print_where(stack: NativeStack, *, took_s: float) -> None:
    host = stack.host
    print(f"Airflow   {host.url('airflow-apiserver')}  user {USER}  password {stack.password}")
    print(f"Hub       {host.url('hub')}")
    print(f"S3        {host.url('seaweedfs')}  bucket onnx-fleet")
    for name, container in stack.containers.items():
        if container.service.command[:2] == ("celery", "worker"):
            print(f"{name}  is {container.address} in Airflow's pages")
    print(f"logs      {stack.folder / 'logs'}")
    print(f"ready after {took_s:.0f} s; Ctrl+C ends it", flush=True)


if __name__ == "__main__":
    sys.exit(main())
