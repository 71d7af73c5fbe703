"""docker-compose.yaml's services as processes of this machine, each of which can be stopped, killed and started again.

    with NativeStack(folder) as stack:
        stack.kill("airflow-worker-cpu-1")
        stack.start("airflow-worker-cpu-1")
        stack.wait_ready("airflow-worker-cpu-1")

All of it belongs to the thread that enters the context, and ends with it: call it from a process's main thread.
"""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil
from filelock import FileLock, Timeout

from onnx_fleet_demo import compose_env, processes
from onnx_fleet_demo.airflow_client import AirflowClient
from onnx_fleet_demo.native_stack import compose_file, differences, postgres
from onnx_fleet_demo.native_stack.differences import LISTENERS, PROJECT, Container, Host
from onnx_fleet_demo.native_stack.log_relay import LogRelay
from onnx_fleet_demo.stack import StackFailed

READY_TIMEOUT_S: Final = 300.0
POLL_S: Final = 0.5
USER: Final = "admin"

_CLOSE_TIMEOUT_S: Final = 8.0
_PROVEN_S: Final = 10.0
"""The seconds after which a service that was restarted counts as one that runs."""
_LONGEST_PAUSE_S: Final = 60.0
_FIRST_ADDRESS: Final = 10
_MOST_CONTAINERS: Final = 32


@dataclass(slots=True)
class _Run:
    """How a container is."""

    container: Container
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    began: float = 0.0
    restarts: int = 0
    """The number of times that it was started again by its policy, of late."""
    again_at: float = math.inf
    """The time at which it is started again."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        return self.container.host.folder / "logs" / f"{self.container.name}.log"


class NativeStack:
    """A context manager: inside it every service is ready; afterwards nothing of it runs."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        topology: Mapping[str, str] | None = None,
        tell: Callable[[str], object] = str,
    ) -> None:
        """Prepare a stack.

        Args:
            folder: the folder of everything that it writes; one stack at a time.
            settings: variables for Airflow's services that win over the file's, for tests that will not wait.
            topology: variables of .env that win over differences.TOPOLOGY, such as CPU_WORKERS.
            tell: takes what is being done, in words for people.
        """
        self._tell = tell
        ports = processes.free_ports(len(LISTENERS) + _MOST_CONTAINERS)
        self.folder = folder.absolute()
        self.host = Host(folder=self.folder, ports=dict(zip(LISTENERS, ports, strict=False)), settings=settings or {})
        self._log_ports = ports[len(LISTENERS) :]
        self._runs: dict[str, _Run] = {}
        self._services: dict[str, compose_file.Service] = {}
        self._topology = topology or {}
        self._closing = ExitStack()
        self._values: dict[str, str] = {}

    @property
    def password(self) -> str:
        """The password of USER."""
        return self._values["AIRFLOW_ADMIN_PASSWORD"]

    @property
    def containers(self) -> dict[str, Container]:
        """Every container by its name, in the order in which they start."""
        return {name: run.container for name, run in self._runs.items()}

    def client(self) -> AirflowClient:
        """Return a client of its Airflow."""
        return AirflowClient(self.host.url("airflow-apiserver"), user=USER, password=self.password)

    def __enter__(self) -> Self:
        require_programs()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._closing.enter_context(FileLock(self.folder / "stack.lock", timeout=0))
        except Timeout as err:
            raise StackFailed(f"{self.folder}: another stack uses this folder") from err
        try:
            self.read()
            self._closing.callback(self._end_all)
            self._closing.enter_context(LogRelay(self._log_routes()))
            self._start_all()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def start(self, name: str) -> None:
        """Start a container that does not run."""
        run = self._runs[name]
        container = run.container
        volumes = [container.place(mount.target) for mount in container.service.volumes]
        for folder in (container.folder / "home", container.folder / "tmp", *volumes):
            folder.mkdir(parents=True, exist_ok=True)
        run.process = processes.start(
            [sys.executable, "-m", "onnx_fleet_demo.native_stack.init", *container.command],
            environment=container.environment,
            log=run.log,
            cwd=container.folder,
        )
        run.wanted, run.began, run.again_at = True, time.monotonic(), math.inf

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a container, which is not started again by itself.

        SIGKILL ends everything in it at one moment; any other signal is for its first process to deal with.
        """
        run = self._runs[name]
        run.wanted = False
        if run.process is None or not run.alive:
            return
        if number == signal.SIGKILL:
            processes.kill_tree(psutil.Process(run.process.pid))
            run.process.wait()
        else:
            run.process.send_signal(number)

    def stop(self, name: str) -> None:
        """Ask a container to end, and kill it after its grace period."""
        run = self._runs[name]
        self.kill(name, _stop_signal(run.container))
        _wait(run.process, timeout_s=run.container.service.stop_grace_period)
        self.kill(name)

    def restart(self, name: str) -> None:
        """Stop a container and start it again; returns when it is ready."""
        self.stop(name)
        self.start(name)
        self.wait_ready(name)

    def pid(self, name: str) -> int | None:
        """Return the number of a container's first process; None where it does not run."""
        run = self._runs[name]
        return run.process.pid if run.process is not None and run.alive else None

    def alive(self, name: str) -> bool:
        """Say whether a container runs."""
        return self._runs[name].alive

    def ready(self, name: str) -> bool:
        """Say whether a container runs and passes its health check."""
        run = self._runs[name]
        health, check = run.container.service.healthcheck, run.container.check
        if not run.alive or health is None or check is None:
            return run.alive
        with run.log.with_suffix(".health.log").open("wb") as said:
            try:
                done = subprocess.run(
                    check,
                    env=run.container.environment,
                    cwd=run.container.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    timeout=health.timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return False
        return done.returncode == 0

    def wait_ready(self, *names: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for containers to pass their health checks.

        Raises:
            StackFailed: one does not.
        """
        for name in names:
            self.wait(partial(self.ready, name), f"{name} is not ready", timeout_s=timeout_s)

    def wait(self, condition: Callable[[], bool], complaint: str, *, timeout_s: float) -> None:
        """Wait for a condition, and meanwhile start services again as the file says.

        Raises:
            StackFailed: it does not hold in time; the message is the complaint with the place of the logs.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise StackFailed(f"{complaint} after {timeout_s:.0f} s; read the logs in {self.folder / 'logs'}")
            time.sleep(POLL_S)
            self.tend()

    def tend(self) -> None:
        """Start again what has ended by itself, where its restart policy says so: at longer and longer intervals."""
        now = time.monotonic()
        for name, run in self._runs.items():
            if not run.wanted or run.alive or run.process is None:
                continue
            if run.again_at == math.inf and _to_be_restarted(run):
                if now - run.began > _PROVEN_S and run.container.service.restart == "unless-stopped":
                    run.restarts = 0
                run.again_at = now + min(0.1 * 2**run.restarts, _LONGEST_PAUSE_S)
                run.restarts += 1
            if now >= run.again_at:
                self.start(name)

    def read(self) -> None:
        """Make a container for each replica of each service of the file."""
        compose_env.write(PROJECT, folder=self.folder)
        values = compose_env.read((self.folder / ".env").read_text())
        self._values = {**values, **self.host.variables(), **self._topology}
        text = (PROJECT / "docker-compose.yaml").read_text()
        profiles = self._values["COMPOSE_PROFILES"].split(",")
        self._services = {
            differences.HUB.name: differences.HUB,
            **compose_file.services(text, self._values, profiles=profiles),
        }
        replicas = [
            (service.name if service.deploy.replicas == 1 else f"{service.name}-{number}", service)
            for service in self._services.values()
            for number in range(1, service.deploy.replicas + 1)
        ]
        for place, (name, service) in enumerate(replicas):
            address, log_port = f"127.0.1.{_FIRST_ADDRESS + place}", self._log_ports[place]
            container = Container(name=name, service=service, address=address, log_port=log_port, host=self.host)
            self._runs[name] = _Run(container)

    def _log_routes(self) -> dict[tuple[str, int], tuple[str, int]]:
        return {
            (container.address, self.host.ports["logs"]): ("127.0.0.1", container.log_port)
            for container in self.containers.values()
            if container.service.command[:2] == ("celery", "worker")
        }

    def _start_all(self) -> None:
        for service in self._services.values():
            self._tell(f"starting {service.name}")
            for needed, need in service.depends_on.items():
                if need.condition == "service_healthy":
                    self.wait_ready(*self._replicas(needed))
                else:
                    self._wait_for_end(*self._replicas(needed))
            for name in self._replicas(service.name):
                self.start(name)
        self._tell("waiting for every service to be ready")
        self.wait_ready(*(name for name, run in self._runs.items() if run.container.service.healthcheck))

    def _wait_for_end(self, *names: str) -> None:
        for name in names:
            self.wait(partial(_done, self._runs[name]), f"{name} has not ended", timeout_s=READY_TIMEOUT_S)

    def _replicas(self, service: str) -> list[str]:
        return [name for name, run in self._runs.items() if run.container.service.name == service]

    def _end_all(self) -> None:
        """End Airflow's services, then the servers that those need in order to end by themselves."""
        airflow = {name for name, run in self._runs.items() if "airflow" in run.container.service.image}
        self._end(airflow)
        self._end(self._runs.keys() - airflow)
        postgres.forget(self.folder / "volumes" / "postgres-data" / "data")

    def _end(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            self.kill(name, _stop_signal(self._runs[name].container))
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        for name in names:
            _wait(self._runs[name].process, timeout_s=max(0.0, deadline - time.monotonic()))
            self.kill(name)


def _done(run: _Run) -> bool:
    """Say whether a service has ended well.

    Raises:
        StackFailed: it has failed for good.
    """
    if run.process is None or run.alive:
        return False
    if run.process.returncode != 0 and not _to_be_restarted(run):
        raise StackFailed(f"{run.container.name} failed; read {run.log}")
    return run.process.returncode == 0


def _stop_signal(container: Container) -> int:
    return signal.Signals[differences.STOP_SIGNALS.get(container.service.name, "SIGTERM")]


def _wait(process: subprocess.Popen[bytes] | None, *, timeout_s: float) -> None:
    if process is not None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=timeout_s)


def _to_be_restarted(run: _Run) -> bool:
    """Say whether the file wants a service that has ended to run again."""
    policy, _, most = run.container.service.restart.partition(":")
    failed = run.process is not None and run.process.returncode != 0
    return policy == "unless-stopped" or (policy == "on-failure" and failed and run.restarts < int(most))


def require_programs() -> None:
    """Refuse a machine that lacks a program.

    Raises:
        StackFailed: the message names what to install.
    """
    lacking = {package for program, package in differences.PROGRAMS.items() if shutil.which(program) is None}
    lacking |= set() if postgres.binaries() else {"postgresql"}
    if lacking:
        raise StackFailed(
            f"this machine lacks {', '.join(sorted(lacking))}: apt-get install {' '.join(sorted(lacking))}"
        )
