"""What the environment says, read once: which store, which Hub, where to work."""

from __future__ import annotations

import getpass
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from onnx_fleet.bundles import trust_policy
from onnx_fleet.bundles.signing_key import SigningKey
from onnx_fleet.bundles.trust_policy import TrustPolicy
from onnx_fleet.cli import terminal
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.sizing import Capacity
from onnx_fleet.errors import SigningKeyInvalid, SinkDenied, StoreNotFound
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


def signing_key(key: Path | None = None, certificates: Path | None = None) -> SigningKey | None:
    """The key that is named, else that of ONNX_FLEET_SIGNING_KEY; None where there is neither.

    Its passphrase is in ONNX_FLEET_SIGNING_PASSPHRASE; a person at a terminal is asked for it.
    """
    key = key or _path("ONNX_FLEET_SIGNING_KEY")
    if key is None:
        return None
    pem = _read(key)
    passphrase = os.environ.get("ONNX_FLEET_SIGNING_PASSPHRASE")
    if not passphrase and b"ENCRYPTED" in pem and sys.stdin.isatty():
        passphrase = typer.prompt(f"passphrase of {key}", hide_input=True, err=True)
    certificates = certificates or _path("ONNX_FLEET_SIGNING_CERTIFICATES")
    return SigningKey.load(
        pem,
        where=str(key),
        now=datetime.now(UTC),
        passphrase=passphrase or None,
        certificates_pem=_read(certificates) if certificates else None,
    )


def policy(named: Path | None) -> TrustPolicy | None:
    """The trust policy in the file that is named, else that of ONNX_FLEET_TRUST_POLICY; None where there is neither."""
    named = named or _path("ONNX_FLEET_TRUST_POLICY")
    return trust_policy.read(named) if named else None


def user() -> str:
    """Who runs the command: ``user@host``."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def secret(name: str) -> str:
    """The secret of a name: ONNX_FLEET_SECRET_<NAME>, or the file of that name in the folder ONNX_FLEET_SECRETS.

    Raises:
        SinkDenied: there is neither.
    """
    variable = f"ONNX_FLEET_SECRET_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"
    if found := os.environ.get(variable):
        return found
    folder = os.environ.get("ONNX_FLEET_SECRETS")
    path = Path(folder or ".") / Path(name).name
    try:
        if folder:
            return path.read_text(encoding="utf-8").strip()
    except OSError as err:
        raise SinkDenied(f"the secret {name!r}: {path} cannot be read: {err.strerror}; or set {variable}") from err
    raise SinkDenied(
        f"there is no secret {name!r}: set {variable}, or write it to a file of that name in a folder, and set"
        " ONNX_FLEET_SECRETS to the folder"
    )


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


def _path(name: str) -> Path | None:
    said = os.environ.get(name, "").strip()
    return Path(said) if said else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise SigningKeyInvalid(f"{path}: cannot be read: {err.strerror}; name another file") from err


def _number(name: str) -> int | None:
    """None where the variable is not set, or empty."""
    said = os.environ.get(name, "").strip()
    if said and not said.isdigit():
        raise typer.BadParameter(f"{name} is {said!r}; write a whole number, or unset it")
    return int(said) if said else None


def _work_dir() -> Path:
    named = os.environ.get("ONNX_FLEET_WORK_DIR")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"onnx-fleet-{os.getuid()}"
