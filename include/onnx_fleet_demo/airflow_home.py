"""The demo's Airflow: SQLite, LocalExecutor, four processes on loopback, and all that it writes under ``var/``."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from onnx_fleet_demo import s3_server, var

USER = "admin"
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server", "--workers", "1"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
"""The arguments of ``airflow`` by process. The api-server reads logs from the disk, so no other process serves them."""

_ROOT = Path(__file__).resolve().parents[2]
_PARALLELISM = 4
_POOL_SLOTS = 3
"""The slots of the pool: all of the demo's models at once.

While one waits to measure alone, the others keep both cores busy.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The addresses of the demo's services."""

    airflow: str
    hub: str
    s3: str


def folder() -> Path:
    """Return AIRFLOW_HOME."""
    return var.root() / "airflow"


def password() -> str:
    """Return the login's password, made once and kept where Airflow's SimpleAuthManager looks for it."""
    return str(_kept("simple_auth_manager_passwords.json.generated", {USER: secrets.token_urlsafe(12)})[USER])


def environment(inherited: Mapping[str, str], addresses: Addresses) -> dict[str, str]:
    """Return the environment of every process of Airflow."""
    keys = _kept("keys.json", {"jwt": secrets.token_hex(32), "api": secrets.token_hex(32)})
    home = folder()
    connection = {
        "conn_type": "aws",
        "login": s3_server.LOGIN,
        "password": s3_server.LOGIN,
        "extra": {"endpoint_url": addresses.s3, "region_name": s3_server.REGION},
    }
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": _ROOT / "dags",
            "plugins_folder": _ROOT / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": _PARALLELISM,
            "dags_are_paused_at_creation": False,
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": home / "simple_auth_manager_passwords.json.generated",
            "execution_api_server_url": f"{addresses.airflow}/execution/",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}", "load_default_connections": False},
        "api": {
            "host": "127.0.0.1",
            "port": addresses.airflow.rpartition(":")[2],
            "base_url": addresses.airflow,
            "secret_key": keys["api"],
        },
        "api_auth": {"jwt_secret": keys["jwt"]},
        "logging": {"base_log_folder": home / "logs"},
        "scheduler": {"scheduler_idle_sleep_time": 0.3},
        # Reading the DAG files takes seconds of a core, which the models need.
        "dag_processor": {"min_file_process_interval": 300},
        "usage_data_collection": {"enabled": False},
        "onnx_fleet": {
            "store": f"s3://{s3_server.BUCKET}",
            "aws_conn_id": "onnx_fleet_demo",
            "catalogue": _ROOT / "include" / "catalogue.demo.yaml",
            "schedule": "",
            "audit_schedule": "",
            "watch_schedule": "",
            "scratch": var.root() / "work",
            "cpu_pool_slots": _POOL_SLOTS,
            "shards": 1,
            "retry_delay_s": 2,
        },
    }
    options = {
        f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
        for section, values in sections.items()
        for option, value in values.items()
    }
    return {
        **inherited,
        **options,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_ONNX_FLEET_DEMO": json.dumps(connection),
        "HF_ENDPOINT": addresses.hub,
        "HF_HOME": str(var.root() / "hub-cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }


def is_migrated() -> bool:
    """Say whether the database has this Airflow's schema; asking Airflow itself takes seconds."""
    stamp = folder() / "schema.txt"
    return stamp.exists() and stamp.read_text() == _version() and (folder() / "airflow.db").exists()


def migrate(environment: Mapping[str, str], *, log: Path) -> None:
    """Bring the database to this Airflow's schema.

    Raises:
        CalledProcessError: the migration failed; the log says why.
    """
    folder().mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        subprocess.run(command("db", "migrate"), env=dict(environment), stdout=output, stderr=output, check=True)
    (folder() / "schema.txt").write_text(_version())


def _version() -> str:
    return metadata.version("apache-airflow-core")


def command(*arguments: str) -> list[str]:
    """Return the command ``airflow …`` of this environment."""
    return [sys.executable, "-m", "airflow", *arguments]


def _kept(name: str, fresh: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a private JSON file, made with these when it is not there."""
    path = folder() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(dict(fresh)))
    found: dict[str, str] = json.loads(path.read_text())
    return found
