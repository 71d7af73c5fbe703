"""What a deployment configures: Airflow's ``[onnx_fleet]`` section, or AIRFLOW__ONNX_FLEET__<OPTION>; read once."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from airflow.sdk.configuration import conf

from onnx_fleet.export import cache
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import Limits, machine_limits

SECTION = "onnx_fleet"

_INCLUDE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """One option an attribute, under the attribute's name unless its text says otherwise."""

    store: str
    """``s3://bucket/prefix`` or a folder; empty stops every run with a message that says so."""
    aws_conn_id: str | None
    """The Airflow connection with the store's endpoint and credentials; empty leaves both to boto3's own chain."""
    hub_conn_id: str | None
    """The Airflow connection with the Hub's address and token; empty takes HF_ENDPOINT and HF_TOKEN."""
    catalogue: Path
    """What fleet_reexport takes where its run does not name another one."""
    schedule: str | None
    """Of fleet_reexport: a cron expression or preset; empty runs it by hand only."""
    audit_schedule: str | None
    """Of bundle_audit, likewise."""
    channel: str
    """What a publication moves."""
    cpu_pool: str
    cpu_pool_slots: int
    """Heavy tasks at the same time, over all workers."""
    cpu_queue: str | None
    """Where the heavy tasks go; empty is the executor's default queue."""
    gpu_queue: str | None
    """Where the GPU tasks go; empty means that there is no GPU worker."""
    gpu: GpuOptions
    """Of the workers on that queue: options ``gpu_id`` and ``gpu_memory_bytes``, 0 for no limit."""
    scratch: Path
    """Where bundles grow: a folder of the machine, or a volume that all workers see."""
    scratch_days: int
    """How long what a run left there is kept."""
    lock_folder: Path
    """Where a task that measures keeps others off: a folder that all workers of one machine see, and no other's."""
    shards: int
    """Mapped groups, each for at most ``[core] max_map_length`` models."""
    cache_bytes: int
    """The most that what earlier exports found out takes in the store; 0 keeps nothing."""
    retries: int
    retry_delay: timedelta
    """Option ``retry_delay_s``; doubles each time."""
    retry_delay_max: timedelta
    """Option ``retry_delay_max_s``."""
    limits: Limits
    """Of each process that loads a model: options ``step_memory_bytes`` and ``step_timeout_s``, 0 for none."""


def read() -> FleetSettings:
    """The configuration as it is now.

    Raises:
        AirflowConfigException: an option is not of its type.
    """
    default_scratch = str(Path(tempfile.gettempdir()) / f"onnx-fleet-{os.getuid()}")
    return FleetSettings(
        store=_text("store"),
        aws_conn_id=_text("aws_conn_id") or None,
        hub_conn_id=_text("hub_conn_id") or None,
        catalogue=Path(_text("catalogue", str(_INCLUDE / "catalogue.yaml"))),
        schedule=_text("schedule", "@weekly") or None,
        audit_schedule=_text("audit_schedule", "@weekly") or None,
        channel=_text("channel", "latest"),
        cpu_pool=_text("cpu_pool", "onnx_fleet_cpu"),
        cpu_pool_slots=max(1, _number("cpu_pool_slots", 2)),
        cpu_queue=_text("cpu_queue") or None,
        gpu_queue=_text("gpu_queue") or None,
        gpu=GpuOptions(device_id=_number("gpu_id", 0), memory_bytes=_number("gpu_memory_bytes", 0) or None),
        scratch=Path(_text("scratch", default_scratch)),
        scratch_days=max(1, _number("scratch_days", 14)),
        lock_folder=Path(_text("lock_folder", tempfile.gettempdir())),
        shards=max(1, _number("shards", 4)),
        cache_bytes=max(0, _number("cache_bytes", cache.LIMIT_BYTES)),
        retries=max(0, _number("retries", 3)),
        retry_delay=timedelta(seconds=_number("retry_delay_s", 60)),
        retry_delay_max=timedelta(seconds=_number("retry_delay_max_s", 1800)),
        limits=_limits(),
    )


def _limits() -> Limits:
    usual = machine_limits()
    memory_bytes = _number("step_memory_bytes", usual.memory_bytes or 0)
    timeout_s = _number("step_timeout_s", int(usual.timeout_s or 0))
    # Every task is a new process, and runs one step.
    return Limits(memory_bytes=memory_bytes or None, timeout_s=float(timeout_s) or None, may_be_forked=False)


def _text(option: str, default: str = "") -> str:
    return str(conf.get(SECTION, option, fallback=default)).strip()


def _number(option: str, default: int) -> int:
    return int(conf.getint(SECTION, option, fallback=default))
