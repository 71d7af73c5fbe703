"""What the environment says, read once: which store, which Hub, where to work."""

from __future__ import annotations

import getpass
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from onnx_fleet.cli import terminal
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.sizing import Capacity
from onnx_fleet.errors import StoreNotFound
from onnx_fleet.export import cache
from onnx_fleet.processes import profiling
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import machine_limits
from onnx_fleet.runs.services import Services
from onnx_fleet.store import ObjectStore, S3Settings, open_store

if TYPE_CHECKING:
    from onnx_fleet.source.hub_client import HubSettings

DEFAULT_STORE = "onnx_fleet.default_store"
"""The group of entry points that name a store for when nobody names one: each gives a context with it."""


@contextmanager
def opened_store(address: str | None) -> Iterator[ObjectStore]:
    """The store that was asked for; without one, the one that an installed package gives as the default.

    Raises:
        StoreNotFound: no store is named, and no package gives one.
    """
    address = address or os.environ.get("ONNX_FLEET_STORE")
    if address:
        yield open_store(address, s3=_s3_settings())
        return
    for default in entry_points(group=DEFAULT_STORE):
        try:
            opened: Callable[[], AbstractContextManager[ObjectStore]] = default.load()
        except ImportError:  # what the package itself needs is not installed
            continue
        with opened() as store:
            terminal.say(f"no store is named; using {store.address}, the default of {default.name}")
            yield store
        return
    raise StoreNotFound(
        "no store is named; write --store s3://BUCKET/PREFIX or --store FOLDER, or set ONNX_FLEET_STORE"
    )


@contextmanager
def opened_services(address: str | None, *, many_steps: bool = False) -> Iterator[Services]:
    """Everything that the steps work with.

    Args:
        many_steps: the command runs more than one: importing torch once for all of them is worth it.
    """
    with profiling.timed("imports"):
        from onnx_fleet.source.hub_client import Hub

    with opened_store(address) as store:
        yield Services(
            store=store,
            hub=Hub(_hub_settings()),
            work_dir=_work_dir(),
            limits=replace(machine_limits(), may_be_forked=many_steps),
            cache_bytes=_cache_bytes(),
            gpu=_gpu(),
            largest_worker=_largest_worker(),
        )


def user() -> str:
    """Who runs the command: ``user@host``."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def run_actor(run_id: str) -> Actor:
    """Who moves the channels that a run of the command line moves."""
    return Actor(kind="run", name=run_id, asked_by=user())


def _hub_settings() -> HubSettings:
    """HF_TOKEN, or what `hf auth login` saved; the cache is huggingface_hub's own, HF_HOME and all."""
    from huggingface_hub import get_token

    from onnx_fleet.source.hub_client import HubSettings

    settings = HubSettings(token=get_token())
    endpoint = os.environ.get("HF_ENDPOINT")
    return HubSettings(token=settings.token, endpoint=endpoint.rstrip("/")) if endpoint else settings


def _s3_settings() -> S3Settings:
    """boto3 reads AWS_* by itself; what it has no variable for has one of ours."""
    endpoint_url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    plain = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "").lower() == "when_required"
    return S3Settings(
        endpoint_url=endpoint_url,
        checksum_mode="when_required" if plain else "when_supported",
        single_writer=os.environ.get("ONNX_FLEET_SINGLE_WRITER", "").lower() in ("1", "true"),
    )


def _cache_bytes() -> int:
    named = _number("ONNX_FLEET_CACHE_BYTES")
    return cache.LIMIT_BYTES if named is None else named


def _gpu() -> GpuOptions:
    return GpuOptions(
        device_id=_number("ONNX_FLEET_GPU_ID") or 0, memory_bytes=_number("ONNX_FLEET_GPU_MEMORY_BYTES") or None
    )


def _largest_worker() -> Capacity:
    return Capacity(
        memory_bytes=_number("ONNX_FLEET_WORKER_MEMORY_BYTES") or None,
        disk_bytes=_number("ONNX_FLEET_WORKER_DISK_BYTES") or None,
    )


def _number(name: str) -> int | None:
    """None where the variable is not set, or empty."""
    said = os.environ.get(name, "").strip()
    if said and not said.isdigit():
        raise typer.BadParameter(f"{name} is {said!r}; write a whole number, or unset it")
    return int(said) if said else None


def _work_dir() -> Path:
    named = os.environ.get("ONNX_FLEET_WORK_DIR")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"onnx-fleet-{os.getuid()}"
