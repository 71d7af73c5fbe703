"""The demo's services, started and stopped as one: a local Hub, an embedded S3 server, Airflow's four processes.

A keeper process owns them. `demo` holds a pipe to its keeper, and the keeper ends when that pipe closes, so that
nothing outlives a `demo` that is killed; `up` leaves its keeper alone. What the keeper does stands in var/stack.json.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout

from onnx_fleet import jsonio
from onnx_fleet.errors import OnnxFleetError
from onnx_fleet_demo import airflow_home, processes, var
from onnx_fleet_demo.airflow_client import AirflowClient
from onnx_fleet_demo.airflow_home import Addresses
from onnx_fleet_demo.processes import Identity
from onnx_fleet_demo.s3_server import EmbeddedS3

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.1
DAGS = ("fleet_reexport", "model_reexport", "registry_feed")

log = logging.getLogger(__name__)


class StackFailed(Exception):
    """The services did not start, or one of them ended; the message names the log to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The content of var/stack.json."""

    phase: Literal["starting", "ready", "failed"]
    keeper: Identity
    doing: str = ""
    """A statement for people: what is being started, or why it failed."""
    addresses: Addresses | None = None
    started: tuple[Identity, ...] = ()
    """The processes below the keeper, to be ended by the next keeper should this one be killed."""


def state() -> State | None:
    """Return the stack that runs or starts now, by whichever command; None when there is none."""
    found = _read()
    return found if found is not None and found.keeper.find() is not None else None


def client(addresses: Addresses) -> AirflowClient:
    """Return a client of the demo's Airflow."""
    return AirflowClient(addresses.airflow, user=airflow_home.USER, password=airflow_home.password())


def launch(*, lifeline: int | None = None) -> subprocess.Popen[bytes]:
    """Start a keeper.

    Args:
        lifeline: the reading end of a pipe; the keeper stops everything when its other end closes.
    """
    keeper_log = _log("keeper")
    keeper_log.parent.mkdir(parents=True, exist_ok=True)
    arguments = [] if lifeline is None else ["--lifeline", str(lifeline)]
    with keeper_log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "onnx_fleet_demo", "keep", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lifeline is None else (lifeline,),
        )


def progress(keeper: subprocess.Popen[bytes]) -> Iterator[State]:
    """Iterate over the keeper's states as they change, until it is ready.

    Raises:
        StackFailed: the services do not become ready.
    """
    last: State | None = None
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = keeper.poll() is not None
        now = _read()
        if now is not None and now.keeper.pid == keeper.pid and now != last:
            last = now
            if now.phase == "failed":
                raise StackFailed(now.doing)
            yield now
            if now.phase == "ready":
                return
        if ended:
            raise StackFailed(f"the services did not start; read {_log('keeper')}")
        time.sleep(POLL_S)
    raise StackFailed(
        f"the services are not ready after {START_TIMEOUT_S:.0f} s; read the logs in {_log('keeper').parent}"
    )


def stop(found: State) -> None:
    """End the stack of another command, and wait until nothing of it runs."""
    keeper = found.keeper.find()
    if keeper is not None:
        keeper.send_signal(signal.SIGTERM)
        with contextlib.suppress(psutil.TimeoutExpired):
            keeper.wait(timeout=STOP_TIMEOUT_S)
    sweep()


def sweep() -> None:
    """End what a keeper that was killed has left."""
    left = _read()
    if left is not None and left.keeper.find() is None:
        processes.end(left.started)
        _path().unlink(missing_ok=True)


def keep(*, lifeline: int | None = None) -> int:
    """Be the keeper: start everything, stay until told to stop, stop everything.

    Returns:
        The exit status: 1 when a service failed.
    """
    var.root().mkdir(parents=True, exist_ok=True)
    lock = FileLock(var.root() / "stack.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        log.error("%s: another keeper owns this folder", var.root())
        return 1
    wakeup, signalled = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(signalled, b"x"))
    processes.adopt_orphans()
    sweep()
    keeper = _Keeper(ends=[wakeup] if lifeline is None else [wakeup, lifeline])
    try:
        with keeper.services():
            keeper.stay()
        _path().unlink(missing_ok=True)
    except _Stopped:
        _path().unlink(missing_ok=True)
    except (StackFailed, OnnxFleetError) as err:
        log.error("%s", err)
        keeper.tell(phase="failed", doing=str(err), started=())
        return 1
    return 0


class _Stopped(Exception):
    """Somebody asked the keeper to end."""


class _Keeper:
    def __init__(self, *, ends: list[int]) -> None:
        self._ends = ends
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._state = State(phase="starting", keeper=Identity.of(psutil.Process()))

    def tell(self, **changes: object) -> None:
        """Write down what the keeper does, in one step."""
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]  # fields of State
        unfinished = _path().with_suffix(".tmp")
        unfinished.write_bytes(jsonio.canonical(jsonio.to_json(self._state)))
        unfinished.replace(_path())

    @contextmanager
    def services(self) -> Iterator[None]:
        """Run all services inside the context; none of them runs afterwards."""
        with ExitStack() as running:
            self.tell(doing="starting the S3 server and the Hub")
            s3 = running.enter_context(EmbeddedS3(var.s3_dir()))
            running.callback(lambda: processes.stop(self._services.values()))
            hub_port, airflow_port = processes.free_ports(2)
            inherited = processes.environment()
            hub = ("--root", str(var.root() / "hub"), "--demo-models", "--port", str(hub_port))
            self._start("hub", [sys.executable, "-m", "onnx_fleet_demo.hub_server", *hub], inherited)
            addresses = Addresses(
                airflow=f"http://127.0.0.1:{airflow_port}", hub=f"http://127.0.0.1:{hub_port}", s3=s3.endpoint_url
            )
            environment = airflow_home.environment(inherited, addresses)
            airflow_home.password()
            if not airflow_home.is_migrated():
                self.tell(doing="making Airflow's database")
                self._migrate(environment)
            self.tell(doing="starting Airflow", addresses=addresses)
            for name, arguments in airflow_home.COMPONENTS.items():
                self._start(name, airflow_home.command(*arguments), environment)
            airflow = client(addresses)
            self._wait_until_ready(airflow)
            airflow.end_runs("fleet_reexport")
            self.tell(phase="ready", doing="", started=_below())
            yield

    def stay(self) -> None:
        """Return when asked to end.

        Raises:
            StackFailed: a service ended by itself.
        """
        while not self._asked_to_end(timeout_s=1.0):
            self._require_alive()
            below = _below()
            if below != self._state.started:
                self.tell(started=below)

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        log_file = _log(name)
        log_file.unlink(missing_ok=True)
        self._services[name] = processes.start(command, environment=environment, log=log_file, cwd=var.root())
        self.tell(started=_below())

    def _migrate(self, environment: dict[str, str]) -> None:
        try:
            airflow_home.migrate(environment, log=_log("migrate"))
        except subprocess.CalledProcessError as err:
            raise StackFailed(f"Airflow's database could not be made; read {_log('migrate')}") from err

    def _wait_until_ready(self, airflow: AirflowClient) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._asked_to_end(timeout_s=0.2):
                raise _Stopped
            self._require_alive()
            if airflow.healthy() and all(airflow.has_dag(name) for name in DAGS):
                return
        raise StackFailed(
            f"Airflow is not ready after {START_TIMEOUT_S:.0f} s; read the logs in {_log('keeper').parent}"
        )

    def _require_alive(self) -> None:
        for name, service in self._services.items():
            if service.poll() is not None:
                raise StackFailed(f"{name} ended with status {service.returncode}; read {_log(name)}")

    def _asked_to_end(self, *, timeout_s: float) -> bool:
        return bool(select.select(self._ends, [], [], timeout_s)[0])


def _below() -> tuple[Identity, ...]:
    found = []
    for process in processes.descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(Identity.of(process))
    return tuple(sorted(found, key=lambda identity: identity.pid))


def _path() -> Path:
    return var.root() / "stack.json"


def _log(name: str) -> Path:
    return var.root() / "logs" / f"{name}.log"


def _read() -> State | None:
    try:
        return jsonio.parse(State, _path().read_bytes())
    except (OSError, ValueError):
        return None
