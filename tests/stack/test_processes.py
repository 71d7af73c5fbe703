"""A service's processes: all of them end together, whichever way they end; and the relay that leads to logs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest
import requests
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from onnx_fleet_demo import processes
from onnx_fleet_demo.native_stack.log_relay import LogRelay

TREE = "setsid sleep 600 & (sleep 600 & exec sleep 600) & sleep 600 & "
"""A shell's children: one in a session of its own, and one whose parent is about to become another program."""
INIT = [sys.executable, "-m", "onnx_fleet_demo.native_stack.init"]


@contextmanager
def service(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running service, started as a stack starts it."""
    with subprocess.Popen([*INIT, "bash", "-c", script], stdin=subprocess.PIPE) as running:
        yield running
        if running.poll() is None:
            processes.kill_tree(psutil.Process(running.pid))


def wait_for(count: int, below: psutil.Process) -> list[psutil.Process]:
    """Every process below one, once there are so many."""
    soon = Retrying(
        retry=retry_if_result(lambda found: len(found) < count), wait=wait_fixed(0.02), stop=stop_after_delay(20)
    )
    return soon(lambda: below.children(recursive=True))


def ended(found: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(found, timeout=20)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_what_a_service_started_ends_with_it() -> None:
    with service(TREE + "read; exit 3") as running:
        below = wait_for(5, psutil.Process(running.pid))
        assert running.stdin
        running.stdin.close()
        assert running.wait(timeout=20) == 3
        assert ended(below)


def test_a_kill_ends_all_of_it() -> None:
    with service(TREE + "wait") as running:
        below = wait_for(5, psutil.Process(running.pid))
        processes.kill_tree(psutil.Process(running.pid))
        assert running.wait(timeout=20) == -signal.SIGKILL
        assert ended(below)


def test_it_ends_with_whoever_started_it() -> None:
    starter = """
import subprocess, sys, time
from pathlib import Path
from onnx_fleet_demo import processes
processes.start(sys.argv[1:], environment={"PATH": "/usr/bin:/bin"}, log=Path("/dev/null"), cwd=Path("/"))
time.sleep(600)
"""
    command = [sys.executable, "-c", starter, *INIT, "bash", "-c", "trap '' TERM; " + TREE + "wait"]
    with subprocess.Popen(command) as running:
        below = wait_for(6, psutil.Process(running.pid))
        running.kill()
        assert ended(below)


@pytest.mark.parametrize(("setsid", "told"), [("0", False), ("1", True)])
def test_a_signal_goes_where_the_image_would_send_it(setsid: str, told: bool, tmp_path: Path) -> None:
    """To the service's process alone, which may let its tasks end, or to all of its group."""
    task = "trap 'echo told' TERM; touch ready; while true; do sleep 0.1; done"
    script = f'trap "sleep 1; exit" TERM; bash -c "{task}" & wait; wait'
    environment = {"PATH": "/usr/bin:/bin", "DUMB_INIT_SETSID": setsid}
    log = tmp_path / "log"
    running = processes.start([*INIT, "bash", "-c", script], environment=environment, log=log, cwd=tmp_path)
    soon = Retrying(retry=retry_if_result(lambda there: not there), wait=wait_fixed(0.02), stop=stop_after_delay(20))
    soon((tmp_path / "ready").exists)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=20) == 0
    assert ("told" in log.read_text()) is told


def test_the_relay_leads_each_address_to_its_own_server() -> None:
    (relayed,) = processes.free_ports(1)
    servers = {address: serving(address) for address in ("127.0.1.10", "127.0.1.11")}
    routes = {(address, relayed): server.server_address for address, server in servers.items()}
    with LogRelay(routes):
        for address in servers:
            assert requests.get(f"http://{address}:{relayed}/", timeout=10).text == address * 50_000
        servers["127.0.1.10"].shutdown()
        servers["127.0.1.10"].server_close()
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.1.10:{relayed}/", timeout=10)
        assert requests.get(f"http://127.0.1.11:{relayed}/", timeout=10).ok
    servers["127.0.1.11"].shutdown()
    servers["127.0.1.11"].server_close()


def serving(answer: str) -> HTTPServer:
    """A server that gives one long answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer.encode() * 50_000
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server
