"""What a deployment configures: Airflow's ``[onnx_fleet]`` section, or AIRFLOW__ONNX_FLEET__<OPTION>; read once."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowConfigException

from onnx_fleet.entities.sizing import Capacity
from onnx_fleet.export import cache
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import Limits, machine_limits
from onnx_fleet.runs import watch

SECTION = "onnx_fleet"

C = TypeVar("C", bound=str)

_INCLUDE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSettings:
    """The pods of heavy tasks: the options ``pod_memory_bytes``, ``pod_cpus`` and so on."""

    memory_bytes: int
    """The memory that a pod asks for, which is also its limit."""
    large_memory_bytes: int
    """The same of a pod for a large model."""
    cpus: int
    """The number of cores that a pod asks for; it may use what else its node has."""
    gpu_resource: str
    """The name under which the cluster hands out GPUs, such as ``nvidia.com/gpu``."""
    gpu_image: str | None
    """The image of the GPU task's pod; None takes the image of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeModels:
    """The group of the models that need much memory: the options ``large_memory_bytes``, ``large_queue`` and so on."""

    memory_bytes: int
    """The predicted memory above which a model is large."""
    queue: str | None
    """The queue of their heavy tasks; None is that of the others."""
    pool_slots: int
    """The number of slots of the pool that each of their heavy tasks takes."""


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
    retention_schedule: str | None
    """The schedule of bundle_retention, likewise; empty unless it is set."""
    retention_dry_run: bool
    """Whether bundle_retention removes nothing where its run does not say so."""
    watch_schedule: str | None
    """The schedule of hub_watch, likewise."""
    watch_requests: int
    """The most requests to the Hub of one poll of hub_watch; the next one goes on with the rest."""
    signing_conn_id: str | None
    """The Airflow connection with the key that bundles are signed with when they are published; empty signs none."""
    webhook_conn_id: str | None
    """The Airflow connection whose password is the secret of the Hub's webhooks; empty takes no webhook."""
    sinks: Path | None
    """The file of the registries to which registry_sinks brings what happens; empty brings it to none."""
    sinks_schedule: str | None
    """The schedule of registry_sinks, beside publications, after which it runs in any case."""
    alert_notifier: str | None
    """The class of Airflow's notifiers that tells of runs which failed or are late; empty tells nobody."""
    alert_options: Mapping[str, Any]
    """The arguments of that class, a JSON object: templates that may name ``alert``."""
    deadline: timedelta | None
    """The time within which a run of fleet_reexport is to end (option ``deadline_minutes``); 0 is no limit."""
    channel: str
    """The channel that a publication moves."""
    cpu_pool: str
    cpu_pool_slots: int
    """The number of heavy tasks at the same time, over all workers."""
    cpu_queue: str | None
    """The queue of the heavy tasks; empty is the executor's default queue."""
    large: LargeModels | None
    """The group of large models; None where ``large_memory_bytes`` is 0, and there is no such group."""
    largest_worker: Capacity
    """What the largest worker has: options ``worker_memory_bytes`` and ``worker_disk_bytes``, 0 for no limit."""
    gpu_queue: str | None
    """The queue of the GPU tasks; empty means that there is no GPU worker."""
    gpu: GpuOptions
    """The GPU of the workers on that queue: options ``gpu_id`` and ``gpu_memory_bytes``, 0 for no limit."""
    tasks: Literal["staged", "fused"]
    """The tasks of a model.

    ``staged``: one for each step, any of which may be on another worker; ``fused``: one for all steps in a row, which
    one worker takes: its failed tries begin with the step that failed, too.
    """
    stages: Literal["shared", "store"]
    """How a model's stage passes from task to task.

    ``shared``: in the scratch folder, which all workers see; ``store``: through the store, each worker with a scratch
    folder of its own. Empty takes ``shared`` for the LocalExecutor, whose tasks are all on one machine, and ``store``
    for any other.
    """
    scratch: Path
    """The folder in which bundles grow: a folder of the machine, or a volume that all workers see."""
    scratch_days: int
    """The number of days for which a run's files there, and in the store, are kept."""
    scratch_bytes: int
    """The size limit of what a worker keeps there of stages that pass through the store, in bytes."""
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
    pods: PodSettings | None
    """The pods of heavy tasks; None where ``[core] executor`` names no KubernetesExecutor."""


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
        retention_schedule=_text("retention_schedule") or None,
        retention_dry_run=_flag("retention_dry_run", True),
        watch_schedule=_text("watch_schedule", "@hourly") or None,
        watch_requests=max(1, _number("watch_requests", watch.MAX_REQUESTS)),
        signing_conn_id=_text("signing_conn_id") or None,
        webhook_conn_id=_text("webhook_conn_id") or None,
        sinks=Path(_text("sinks")) if _text("sinks") else None,
        sinks_schedule=_text("sinks_schedule", "*/15 * * * *") or None,
        alert_notifier=_text("alert_notifier") or None,
        alert_options=_object("alert_options", _text("alert_options")),
        deadline=timedelta(minutes=max(0, _number("deadline_minutes", 0))) or None,
        channel=_text("channel", "latest"),
        cpu_pool=_text("cpu_pool", "onnx_fleet_cpu"),
        cpu_pool_slots=_pool_slots(),
        cpu_queue=_text("cpu_queue") or None,
        large=_large(),
        largest_worker=Capacity(
            memory_bytes=_number("worker_memory_bytes", 0) or None, disk_bytes=_number("worker_disk_bytes", 0) or None
        ),
        gpu_queue=_text("gpu_queue") or None,
        gpu=GpuOptions(device_id=_number("gpu_id", 0), memory_bytes=_number("gpu_memory_bytes", 0) or None),
        tasks=_tasks(),
        stages=_stages(),
        scratch=Path(_text("scratch", default_scratch)),
        scratch_days=max(1, _number("scratch_days", 14)),
        scratch_bytes=max(0, _number("scratch_bytes", 20 * 1024**3)),
        lock_folder=Path(_text("lock_folder", tempfile.gettempdir())),
        shards=max(1, _number("shards", 4)),
        cache_bytes=max(0, _number("cache_bytes", cache.LIMIT_BYTES)),
        retries=max(0, _number("retries", 3)),
        retry_delay=timedelta(seconds=_number("retry_delay_s", 60)),
        retry_delay_max=timedelta(seconds=_number("retry_delay_max_s", 1800)),
        limits=_limits(),
        pods=_pods(),
    )


def _tasks() -> Literal["staged", "fused"]:
    return _choice("tasks", ("staged", "fused"), usual="staged")


def _stages() -> Literal["shared", "store"]:
    is_local = conf.get("core", "executor") == "LocalExecutor"
    return _choice("stages", ("shared", "store"), usual="shared" if is_local else "store")


def _pool_slots() -> int:
    return max(1, _number("cpu_pool_slots", 2))


def _large() -> LargeModels | None:
    memory_bytes, queue = _number("large_memory_bytes", 0), _text("large_queue") or None
    if not memory_bytes and not queue:
        return None
    if not memory_bytes:
        raise AirflowConfigException(
            f"[{SECTION}] large_queue is {queue!r}, and nothing says which models go there: set large_memory_bytes"
        )
    slots, all_slots = max(1, _number("large_pool_slots", 1)), _pool_slots()
    if slots > all_slots:  # Airflow would never start such a task, and not say so
        raise AirflowConfigException(
            f"[{SECTION}] large_pool_slots is {slots}, and the pool has {all_slots}: write {all_slots} at most, or"
            " raise cpu_pool_slots"
        )
    return LargeModels(memory_bytes=memory_bytes, queue=queue, pool_slots=slots)


def _limits() -> Limits:
    usual = machine_limits()
    memory_bytes = _number("step_memory_bytes", usual.memory_bytes or 0)
    timeout_s = _number("step_timeout_s", int(usual.timeout_s or 0))
    # Every task is a new process: one that runs a single step would import torch for a server that forks only once.
    many_steps = _tasks() == "fused"
    return Limits(memory_bytes=memory_bytes or None, timeout_s=float(timeout_s) or None, may_be_forked=many_steps)


def _pods() -> PodSettings | None:
    if "KubernetesExecutor" not in conf.get("core", "executor"):
        return None
    memory_bytes = max(1, _number("pod_memory_bytes", 8 * 1024**3))
    return PodSettings(
        memory_bytes=memory_bytes,
        large_memory_bytes=max(1, _number("pod_large_memory_bytes", memory_bytes)),
        cpus=max(1, _number("pod_cpus", 2)),
        gpu_resource=_text("pod_gpu_resource", "nvidia.com/gpu"),
        gpu_image=_text("pod_gpu_image") or None,
    )


def _text(option: str, default: str = "") -> str:
    return str(conf.get(SECTION, option, fallback=default)).strip()


def _object(option: str, text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as err:
        raise AirflowConfigException(f"[{SECTION}] {option} is not JSON: {err}") from err
    if not isinstance(found, dict):
        raise AirflowConfigException(f'[{SECTION}] {option} is no JSON object: write {{"name": "value"}}')
    return found


def _choice(option: str, choices: tuple[C, ...], *, usual: C) -> C:
    chosen = _text(option) or usual
    for choice in choices:
        if choice == chosen:
            return choice
    raise AirflowConfigException(f"[{SECTION}] {option} is {chosen!r}: write {' or '.join(choices)}, or leave it empty")


def _flag(option: str, default: bool) -> bool:
    return bool(conf.getboolean(SECTION, option, fallback=default))


def _number(option: str, default: int) -> int:
    return int(conf.getint(SECTION, option, fallback=default))
