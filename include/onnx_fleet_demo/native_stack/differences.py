"""What differs when docker-compose.yaml runs as processes of one machine. All else is what the file says.

| in a container | here |
| --- | --- |
| the image's entrypoint | ENTRYPOINTS: packages of this machine, and the demo's S3 server for SeaweedFS |
| the Hub, the fleet's catalogue | the demo's Hub and catalogue |
| a network, a host name for each service | loopback: free ports, and an address each that serves as host name |
| a file system of its own | a folder of its own, with all that no volume shares: working, home, temporary, Airflow's |
| a named volume | one folder for all services that mount it, but for those of SEPARATE_VOLUMES |
| what the image holds, ``./include`` | the project's folders |
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onnx_fleet_demo.native_stack import postgres
from onnx_fleet_demo.native_stack.compose_file import HealthCheck, Service

PROJECT: Final = Path(__file__).resolve().parents[3]

TOPOLOGY: Final[Mapping[str, str]] = {
    "COMPOSE_PROFILES": "gpu",
    "GPU_QUEUE": "gpu",
    "CPU_WORKERS": "2",
    "CPU_WORKER_CONCURRENCY": "2",
    "CPU_POOL_SLOTS": "2",
}
"""The variables of .env that make two CPU workers and a GPU worker, which has no GPU here."""

SEPARATE_VOLUMES: Final = frozenset({"airflow-logs", "hub-cache", "machine-lock"})
"""The volumes that containers of one host may share. Here every service has its own, as workers of several hosts have;
the api-server asks workers for their logs."""

HUB: Final = Service(
    name="hub",
    image="hub",
    restart="unless-stopped",
    healthcheck=HealthCheck(test=("CMD", "curl", "--fail", "--silent", "http://hub:80/_demo/requests")),
)
"""The demo's Hub, as a service."""

LISTENERS: Final[Mapping[str, int]] = {
    "postgres": 5432,
    "redis": 6379,
    "seaweedfs": 8333,
    "airflow-apiserver": 8080,
    "airflow-scheduler": 8974,
    "airflow-triggerer": 8794,
    "hub": 80,
    "logs": 8793,
}
"""The services that listen, and the port of each in its container; ``logs`` stands for every worker's log server."""

CHECKS: Final[Mapping[str, tuple[str, ...]]] = {
    "redis": ("/bin/sh", "-c", "redis-cli -u redis://redis:6379 ping | grep PONG"),
    "seaweedfs": ("curl", "--fail", "--silent", "http://seaweedfs:8333/_ministack/health"),
}
"""The health checks of other programs than the images', or that must be told a port."""

STOP_SIGNALS: Final[Mapping[str, str]] = {"postgres": "SIGINT"}
"""The signals that ask a service to end, where its image says another one than SIGTERM."""

PROGRAMS: Final[Mapping[str, str]] = {"redis-server": "redis-server", "redis-cli": "redis-tools", "curl": "curl"}
"""The programs that services and health checks need beside PostgreSQL, and the Debian package of each."""

_IN_IMAGE: Final = ("dags", "plugins", "include")
"""The project's folders that the image holds under /opt/airflow."""
_INHERITED: Final = re.compile(r"LANG|LC_ALL|TZ|USER|LOGNAME|LD_LIBRARY_PATH|(OMP|OPENBLAS|MKL)_\w+")
"""The variables that a process has from this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine of a native stack."""

    folder: Path
    """The folder of everything that the stack writes."""
    ports: Mapping[str, int]
    """The port of each of LISTENERS."""
    settings: Mapping[str, str]
    """The variables that Airflow's services have besides; they win over the file's."""

    def url(self, listener: str) -> str:
        """Return the address of a service."""
        return f"http://127.0.0.1:{self.ports[listener]}"

    def variables(self) -> dict[str, str]:
        """Return the variables of .env whose values are this machine's."""
        ports = {"AIRFLOW_PORT": "airflow-apiserver", "S3_PORT": "seaweedfs"}
        here = {name: str(self.ports[listener]) for name, listener in ports.items()}
        return {**TOPOLOGY, **here, "HF_ENDPOINT": self.url("hub")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One process of a service with all below it, and what it has in the place of a container."""

    name: str
    service: Service
    address: str
    """The loopback address that is its host name."""
    log_port: int
    """The port of its own log server."""
    host: Host

    @property
    def folder(self) -> Path:
        """The folder in the place of its file system."""
        return self.host.folder / self.name

    @property
    def command(self) -> list[str]:
        """The command line, with the image's entrypoint in front."""
        return ENTRYPOINTS[self.service.image.partition(":")[0]](self)

    @property
    def check(self) -> list[str] | None:
        """The command line of its health check; None where it has none."""
        if self.service.healthcheck is None:
            return None
        own = f"localhost:{LISTENERS.get(self.service.name)}"
        words = CHECKS.get(self.service.name, self.service.healthcheck.argv)
        return [self.text(word.replace(own, own.replace("localhost", self.service.name))) for word in words]

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of its processes."""
        inherited = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
        path = (Path(sys.executable).parent, os.environ.get("PATH", os.defpath), postgres.binaries() or "")
        return {
            **inherited,
            "PATH": os.pathsep.join(map(str, filter(None, path))),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "HOSTNAME": self.address,
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            **{name: self.text(value) for name, value in self.service.environment.items()},
            **_ENVIRONMENTS.get(self.service.image.partition(":")[0], _no_more)(self),
        }

    def place(self, path: str) -> Path:
        """Return what stands here for a path in the container: a volume, the project's folder or one of its own."""
        for mount in self.service.volumes:
            if mount.target == path and not mount.named:
                return PROJECT / mount.source
            if mount.target == path and mount.source not in SEPARATE_VOLUMES:
                return self.host.folder / "volumes" / mount.source
        _, _, in_image = path.partition("/opt/airflow/")
        return PROJECT / in_image if in_image in _IN_IMAGE else self.folder / path.lstrip("/")

    def text(self, value: str) -> str:
        """Put this machine's paths and addresses into a text of the file."""
        paths = {"/opt/airflow", *(f"/opt/airflow/{name}" for name in _IN_IMAGE)}
        paths |= {mount.target for mount in self.service.volumes}
        longest_first = "|".join(map(re.escape, sorted(paths, key=len, reverse=True)))
        value = re.sub(longest_first, lambda found: str(self.place(found[0])), value)
        return re.sub(
            rf"(//|@)({'|'.join(LISTENERS)})(:\d+)?(?=[/\"]|\s|$)",
            lambda found: f"{found[1]}127.0.0.1:{self.host.ports[found[2]]}",
            value,
        )


def _airflow(container: Container) -> list[str]:
    """Run a program as it is, and anything else as a command of ``airflow``: so does the image's entrypoint."""
    words = [container.text(word) for word in container.service.command]
    if words[0] in ("bash", "python", "airflow"):
        return words
    # Celery names a worker by its host.
    named = ["--celery-hostname", f"celery@{container.address}"] if words[:2] == ["celery", "worker"] else []
    return ["airflow", *words, *named]


def _postgres(container: Container) -> list[str]:
    data = container.place("/var/lib/postgresql/data") / "data"
    place = ["--data", str(data), "--port", str(container.host.ports["postgres"])]
    return [sys.executable, "-m", "onnx_fleet_demo.native_stack.postgres", *place]


def _redis(container: Container) -> list[str]:
    place = ["--dir", str(container.place("/data")), "--port", str(container.host.ports["redis"])]
    return [*container.service.command, "--bind", "127.0.0.1", *place]


def _s3(container: Container) -> list[str]:
    place = ["--data", str(container.place("/data")), "--port", str(container.host.ports["seaweedfs"])]
    bucket = container.service.environment["S3_BUCKET"]
    return [sys.executable, "-m", "onnx_fleet_demo.s3_server", *place, "--bucket", bucket]


def _hub(container: Container) -> list[str]:
    place = ["--root", str(container.place("/repos")), "--port", str(container.host.ports["hub"])]
    return [sys.executable, "-m", "onnx_fleet_demo.hub_server", *place, "--demo-models"]


ENTRYPOINTS: Final[Mapping[str, Callable[[Container], list[str]]]] = {
    "onnx-fleet-airflow": _airflow,
    "onnx-fleet-airflow-gpu": _airflow,
    "postgres": _postgres,
    "redis": _redis,
    "chrislusf/seaweedfs": _s3,
    "hub": _hub,
}
"""The command line of a service by its image."""


def _airflow_environment(container: Container) -> dict[str, str]:
    """Return where Airflow's processes listen, and the demo's Hub and catalogue."""
    ports = container.host.ports
    logs = ports["logs"] if container.service.name == "airflow-apiserver" else container.log_port
    return {
        "AIRFLOW_HOME": str(container.place("/opt/airflow")),
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "onnx_fleet_demo.native_stack.hostname.hostname",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports["airflow-apiserver"]),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(ports["airflow-scheduler"]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["airflow-triggerer"]),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(logs),
        "AIRFLOW__ONNX_FLEET__CATALOGUE": str(PROJECT / "include" / "catalogue.demo.yaml"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **container.host.settings,
    }


def _postgres_environment(container: Container) -> dict[str, str]:
    """Return where PostgreSQL's own clients find it."""
    return {"PGHOST": "127.0.0.1", "PGPORT": str(container.host.ports["postgres"])}


def _no_more(container: Container) -> dict[str, str]:
    return {}


_ENVIRONMENTS: Final[Mapping[str, Callable[[Container], dict[str, str]]]] = {
    "onnx-fleet-airflow": _airflow_environment,
    "onnx-fleet-airflow-gpu": _airflow_environment,
    "postgres": _postgres_environment,
}
"""What a service's environment has beside what the file says, by its image."""
