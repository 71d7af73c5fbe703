"""Deployments of Airflow for benchmarks.scale: one machine with the LocalExecutor, or the compose file's services."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.processes import memory
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet_demo import airflow_home, processes, s3_server
from onnx_fleet_demo.airflow_client import AirflowClient
from onnx_fleet_demo.airflow_home import Addresses
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.native_stack.stack import NativeStack
from onnx_fleet_demo.s3_server import EmbeddedS3

READY_S = 240.0

DagDatabase = Mapping[str, float]
"""What the metadata database has done or holds: ``transactions`` since it began, ``xcom_bytes``, ``rows``."""


class Deployment(Protocol):
    """A running Airflow."""

    @property
    def client(self) -> AirflowClient: ...

    @property
    def store(self) -> ObjectStore: ...

    @property
    def services(self) -> Mapping[str, int]:
        """Service -> its first process."""

    def database(self) -> DagDatabase: ...


_XCOM_BYTES = "select coalesce(sum(length(value)), 0) from xcom"
_ROWS = "select count(*) from task_instance"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Local:
    client: AirflowClient
    store: ObjectStore
    services: Mapping[str, int]
    file: Path

    def database(self) -> DagDatabase:
        with contextlib.closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as asked:
            sums = {"xcom_bytes": _XCOM_BYTES.replace("length(value)", "length(cast(value as text))"), "rows": _ROWS}
            return {name: float(asked.execute(query).fetchone()[0]) for name, query in sums.items()}


@contextmanager
def local(folder: Path, *, hub_root: Path, settings: Mapping[str, str]) -> Iterator[Deployment]:
    """Run the LocalExecutor on SQLite, as ``make up`` does, in front of a Hub with the repos of a folder."""
    with ExitStack() as running:
        s3 = running.enter_context(EmbeddedS3(folder / "s3"))
        hub = running.enter_context(HubServer(hub_root))
        port, *_ = processes.free_ports(1)
        addresses = Addresses(airflow=f"http://127.0.0.1:{port}", hub=hub.url, s3=s3.endpoint_url)
        environment = {**airflow_home.environment(processes.environment(), addresses), **settings}
        airflow_home.migrate(environment, log=folder / "logs" / "migrate.log")
        services: dict[str, subprocess.Popen[bytes]] = {}
        running.callback(lambda: processes.stop(services.values()))
        for name, arguments in airflow_home.COMPONENTS.items():
            command, log = airflow_home.command(*arguments), folder / "logs" / f"{name}.log"
            services[name] = processes.start(command, environment=environment, log=log, cwd=folder)
        client = AirflowClient(addresses.airflow, user=airflow_home.USER, password=airflow_home.password())
        _wait(client.healthy)
        yield _Local(
            client=client,
            store=open_store(s3.address, s3=s3.settings),
            services={name: process.pid for name, process in services.items()},
            file=airflow_home.folder() / "airflow.db",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Celery:
    stack: NativeStack

    @property
    def client(self) -> AirflowClient:
        return self.stack.client()

    @property
    def store(self) -> ObjectStore:
        return open_store("s3://onnx-fleet/fleet", s3=s3_server.settings_for(self.stack.host.url("seaweedfs")))

    @property
    def services(self) -> Mapping[str, int]:
        return {name: pid for name in self.stack.containers if (pid := self.stack.pid(name)) is not None}

    def database(self) -> DagDatabase:
        transactions = "select sum(xact_commit + xact_rollback) from pg_stat_database"
        sums = {
            "transactions": transactions,
            "xcom_bytes": _XCOM_BYTES.replace("length(value)", "octet_length(value::text)"),
            "rows": _ROWS,
        }
        variables = self.stack.containers["postgres"].environment
        environment = {**variables, "PGPASSWORD": variables["POSTGRES_PASSWORD"]}
        login = ["--username", "airflow", "--dbname", "airflow", "--no-align", "--tuples-only"]
        return {
            name: float(
                subprocess.run(
                    ["psql", *login, "--command", query],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for name, query in sums.items()
        }


@contextmanager
def celery(folder: Path, *, hub_root: Path, workers: int, settings: Mapping[str, str]) -> Iterator[Deployment]:
    """Run the compose file's services with so many CPU workers and none for a GPU."""
    topology = {"CPU_WORKERS": str(workers), "COMPOSE_PROFILES": "", "GPU_QUEUE": ""}
    stack = NativeStack(folder, settings=settings, topology=topology)
    place = folder.absolute() / "hub" / "repos"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(hub_root.absolute())
    with stack:
        yield _Celery(stack=stack)


class Watch:
    """The CPU time and the most memory of services, from when it is made until it is asked."""

    def __init__(self, services: Mapping[str, int]) -> None:
        self._roots = {name: psutil.Process(pid) for name, pid in services.items()}
        self._began = {name: _cpu_s(root) for name, root in self._roots.items()}
        self.peak_bytes = dict.fromkeys(self._roots, 0)

    def look(self) -> None:
        """Look at what they use now."""
        for name, root in self._roots.items():
            used = sum(memory(process)[0] for process in _tree(root))
            self.peak_bytes[name] = max(self.peak_bytes[name], used)

    def cpu_s(self) -> dict[str, float]:
        """Return the seconds of a core since the beginning, by service; those of ended children are counted."""
        return {name: round(_cpu_s(root) - self._began[name], 2) for name, root in self._roots.items()}


def _tree(root: psutil.Process) -> Sequence[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return (root, *root.children(recursive=True))
    return ()


def _cpu_s(root: psutil.Process) -> float:
    total = 0.0
    for process in _tree(root):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Airflow is not ready after {READY_S:.0f} s")
        time.sleep(0.5)
