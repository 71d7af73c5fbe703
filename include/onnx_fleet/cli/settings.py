"""What the environment says, read once: which store, which Hub, where to work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from onnx_fleet.errors import StoreNotFound
from onnx_fleet.export import cache
from onnx_fleet.flow import Tools
from onnx_fleet.processes import profiling
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import machine_limits
from onnx_fleet.store import ObjectStore, S3Settings, open_store

if TYPE_CHECKING:
    from onnx_fleet.source.hub_client import HubSettings


@contextmanager
def opened_store(address: str | None) -> Iterator[ObjectStore]:
    """The store that was asked for; without one, the demo's own bucket for as long as the command runs.

    Raises:
        StoreNotFound: no store is named, and the demo has not run here.
    """
    address = address or os.environ.get("ONNX_FLEET_STORE")
    if address:
        yield open_store(address, s3=_s3_settings())
        return
    try:
        from onnx_fleet_demo import s3_server, var
    except ImportError as err:
        raise StoreNotFound(
            "no store is named; write --store s3://BUCKET/PREFIX or --store FOLDER, or set ONNX_FLEET_STORE"
        ) from err
    with ExitStack() as stack:
        data_dir = var.s3_dir()
        endpoint_url = s3_server.running(data_dir)
        if endpoint_url is None:
            endpoint_url = stack.enter_context(s3_server.EmbeddedS3(data_dir)).endpoint_url
        yield open_store(f"s3://{s3_server.BUCKET}", s3=s3_server.settings_for(endpoint_url))


@contextmanager
def opened_tools(address: str | None, *, many_steps: bool = False) -> Iterator[Tools]:
    """Everything that the steps work with.

    Args:
        many_steps: the command runs more than one: importing torch once for all of them is worth it.
    """
    with profiling.timed("imports"):
        from onnx_fleet.source.hub_client import Hub

    with opened_store(address) as store:
        yield Tools(
            store=store,
            hub=Hub(_hub_settings()),
            work_dir=_work_dir(),
            limits=replace(machine_limits(), may_be_forked=many_steps),
            cache_bytes=_cache_bytes(),
            gpu=_gpu(),
        )


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
    settings = S3Settings(endpoint_url=endpoint_url)
    if os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "").lower() == "when_required":
        return S3Settings(endpoint_url=endpoint_url, checksum_mode="when_required")
    return settings


def _cache_bytes() -> int:
    named = _number("ONNX_FLEET_CACHE_BYTES")
    return cache.LIMIT_BYTES if named is None else named


def _gpu() -> GpuOptions:
    return GpuOptions(
        device_id=_number("ONNX_FLEET_GPU_ID") or 0, memory_bytes=_number("ONNX_FLEET_GPU_MEMORY_BYTES") or None
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
