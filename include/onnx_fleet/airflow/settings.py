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
from onnx_fleet.runs import watch

SECTION = "onnx_fleet"

_INCLUDE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The options, each under its attribute's name unless the attribute's text says otherwise."""

    store: str
    """The store, ``s3://bucket/prefix`` or a folder; empty stops every run with a message that says so."""
    aws_conn_id: str | None
    """The Airflow connection with the store's endpoint and credentials; empty leaves both to boto3's own chain."""
    hub_conn_id: str | None
    """The Airflow connection with the Hub's address and token; empty takes HF_ENDPOINT and HF_TOKEN."""
    catalogue: Path
    """The catalogue that fleet_reexport takes where its run does not name another one."""
    schedule: str | None
    """The schedule of fleet_reexport: a cron expression or preset; empty runs it by hand only."""
    audit_schedule: str | None
    """The schedule of bundle_audit, likewise."""
    watch_schedule: str | None
    """The schedule of hub_watch, likewise."""
    watch_requests: int
    """The most requests to the Hub of one poll of hub_watch; the next one goes on with the rest."""
    channel: str
    """The channel that a publication moves."""
    cpu_pool: str
    cpu_pool_slots: int
    """The number of heavy tasks at the same time, over all workers."""
    cpu_queue: str | None
    """The queue of the heavy tasks; empty is the executor's default queue."""
    gpu_queue: str | None
    """The queue of the GPU tasks; empty means that there is no GPU worker."""
    gpu: GpuOptions
    """The GPU of the workers on that queue: options ``gpu_id`` and ``gpu_memory_bytes``, 0 for no limit."""
    scratch: Path
    """The folder in which bundles grow: a folder of the machine, or a volume that all workers see."""
    scratch_days: int
    """The number of days for which a run's files there are kept."""
    lock_folder: Path
    """The folder of the lock of measuring tasks: all workers of one machine see it, and no other machine does."""
    shards: int
    """The number of mapped groups, each for at most ``[core] max_map_length`` models."""
    cache_bytes: int
    """The size limit of the store's export cache, in bytes; 0 keeps nothing."""
    retries: int
    retry_delay: timedelta
    """The wait before a first retry (option ``retry_delay_s``); it doubles each time."""
    retry_delay_max: timedelta
    """The longest wait before a retry (option ``retry_delay_max_s``)."""
    limits: Limits
    """The limits of a process that loads a model: options ``step_memory_bytes`` and ``step_timeout_s``, 0 for none."""


def read() -> FleetSettings:
    """Return the configuration as it is now.

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
        watch_schedule=_text("watch_schedule", "@hourly") or None,
        watch_requests=max(1, _number("watch_requests", watch.MAX_REQUESTS)),
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
