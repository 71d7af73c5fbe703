"""docker-compose.yaml as compose reads it: anchors and merges resolved, variables put in, profiles applied.

The models name every key that the file uses, those included that mean something to Docker alone. A key that they do not
name is an error, so that whoever runs the file without Docker passes over nothing that it says.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter
from typing import Annotated, Any, Final, Literal

from expandvars import ParameterNullOrNotSet, expand
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from ruamel.yaml import YAML

_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0}


class ComposeFileInvalid(Exception):
    """The file lacks a value, or says something that is not known here; the message says which."""


def _argv(command: object) -> object:
    """Split a command as compose does: a list is one word an item, a text is split as a shell would."""
    return shlex.split(command) if isinstance(command, str) else command


def _seconds(duration: object) -> object:
    """Return the seconds of a duration such as ``1m30s``."""
    if isinstance(duration, str) and re.fullmatch(r"(\d+[hms])+", duration):
        return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))
    return duration


def _mount(volume: object) -> object:
    """Split ``source:target`` and ``source:target:ro``."""
    if not isinstance(volume, str):
        return volume
    source, target, *mode = volume.split(":")
    return {"source": source, "target": target, "read_only": mode == ["ro"]}


Command = Annotated[tuple[str, ...], BeforeValidator(_argv)]
Seconds = Annotated[float, BeforeValidator(_seconds)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mount(_Closed):
    """A volume of a service."""

    source: str
    """A named volume, or a folder beside the file, which begins with a dot."""
    target: str
    read_only: bool = False

    @property
    def named(self) -> bool:
        """Say whether it is a named volume."""
        return not self.source.startswith(".")


class HealthCheck(_Closed):
    """The command that says whether a service is ready."""

    test: tuple[str, ...]
    interval: Seconds = 30.0
    timeout: Seconds = 30.0
    retries: int = 3
    start_period: Seconds = 0.0

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line.

        Raises:
            ComposeFileInvalid: the check is of a form that the file does not use.
        """
        match self.test:
            case ("CMD", *words):
                return tuple(words)
            case ("CMD-SHELL", script):
                return ("/bin/sh", "-c", script)
        raise ComposeFileInvalid(f"the health check {self.test} is neither CMD nor CMD-SHELL")


class Need(_Closed):
    """What another service waits for."""

    condition: Literal["service_healthy", "service_completed_successfully"]


class Deploy(_Closed):
    """How many containers a service has, and which devices."""

    replicas: int = 1
    resources: dict[str, Any] = {}


class Service(_Closed):
    """One service of the file."""

    name: str
    image: str
    command: Command = ()
    environment: Mapping[str, str] = {}
    volumes: tuple[Annotated[Mount, BeforeValidator(_mount)], ...] = ()
    depends_on: Mapping[str, Need] = {}
    healthcheck: HealthCheck | None = None
    deploy: Deploy = Deploy()
    restart: str = "no"
    stop_grace_period: Seconds = 10.0
    profiles: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    build: Any = None
    security_opt: tuple[str, ...] = ()


class ComposeFile(_Closed):
    """The whole file."""

    name: str
    services: Mapping[str, Service]
    volumes: Mapping[str, None]
    templates: Mapping[str, Any] = {}
    """The blocks ``x-…``, which services take over by anchors."""


def document(text: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the file's content with its variables put in.

    Raises:
        ComposeFileInvalid: a variable without a value is one that the file insists on.
    """
    made: dict[str, Any] = _filled(YAML(typ="safe", pure=True).load(text), dict(values))
    return made


def services(text: str, values: Mapping[str, str], *, profiles: Collection[str] = ()) -> dict[str, Service]:
    """Return the services that compose would start, each behind those that it waits for.

    Args:
        values: the content of .env.
        profiles: the profiles that are switched on.

    Raises:
        ComposeFileInvalid: a variable has no value, or the file says something that is not known here.
    """
    content = document(text, values)
    templates = {key: content.pop(key) for key in list(content) if key.startswith("x-")}
    for name, service in content["services"].items():
        service["name"] = name
    try:
        found = ComposeFile.model_validate({**content, "templates": templates}).services
    except ValidationError as err:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in err.errors())
        raise ComposeFileInvalid(f"the compose file has what is not known here: {faults}") from err
    started = {
        name: service
        for name, service in found.items()
        if not service.profiles or not set(service.profiles).isdisjoint(profiles)
    }
    order = TopologicalSorter({name: service.depends_on for name, service in started.items()})
    return {name: started[name] for name in order.static_order()}


def _filled(node: Any, values: dict[str, str]) -> Any:
    """Put variables into every text: ``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}``; ``$$`` is a dollar."""
    match node:
        case str():
            try:
                return "$".join(expand(part, environ=values, escape_char="") for part in node.split("$$"))
            except ParameterNullOrNotSet as err:
                raise ComposeFileInvalid(str(err.args[0])) from err
        case dict():
            return {key: _filled(value, values) for key, value in node.items()}
        case list():
            return [_filled(item, values) for item in node]
    return node
