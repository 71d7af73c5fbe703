"""docker-compose.yaml read without Docker: variables as compose puts them in, and nothing passed over."""

from __future__ import annotations

import pytest

from onnx_fleet_demo.native_stack import compose_file
from onnx_fleet_demo.native_stack.compose_file import ComposeFileInvalid

FILE = """
name: fleet
x-common: &common
  image: app:1.0
  environment: &environment
    LEVEL: ${LEVEL:-info}
services:
  web:
    <<: *common
    command: serve --port "80 81"
    environment:
      <<: *environment
      KEY: ${KEY:?is not set}
      PRICE: 5$$
    volumes: [data:/data, ./include:/include:ro]
    healthcheck: {test: [CMD-SHELL, 'ask "$${HOSTNAME}"'], timeout: 1m30s}
    depends_on:
      store: {condition: service_healthy}
    deploy:
      replicas: ${REPLICAS:-1}
  store:
    <<: *common
    command: [keep, "a word"]
    restart: on-failure:3
  extra:
    <<: *common
    profiles: [more]
volumes:
  data:
"""
VALUES = {"KEY": "a: {secret} #1", "REPLICAS": "2"}


def test_anchors_variables_and_defaults_are_as_in_compose() -> None:
    web = compose_file.services(FILE, VALUES)["web"]
    assert web.environment == {"LEVEL": "info", "KEY": "a: {secret} #1", "PRICE": "5$"}
    assert web.command == ("serve", "--port", "80 81")
    assert web.deploy.replicas == 2
    assert [(mount.source, mount.target, mount.read_only, mount.named) for mount in web.volumes] == [
        ("data", "/data", False, True),
        ("./include", "/include", True, False),
    ]
    assert web.healthcheck is not None
    assert web.healthcheck.timeout == 90.0
    assert web.healthcheck.argv == ("/bin/sh", "-c", 'ask "${HOSTNAME}"')


def test_a_service_comes_behind_those_that_it_waits_for() -> None:
    assert list(compose_file.services(FILE, VALUES)) == ["store", "web"]


def test_a_profile_brings_its_services() -> None:
    assert "extra" in compose_file.services(FILE, VALUES, profiles=["more", "other"])
    assert "extra" not in compose_file.services(FILE, VALUES, profiles=["other"])


@pytest.mark.parametrize("values", [{}, {"KEY": ""}])
def test_a_variable_that_must_have_a_value_is_named(values: dict[str, str]) -> None:
    with pytest.raises(ComposeFileInvalid, match="KEY: is not set"):
        compose_file.services(FILE, values)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("restart: on-failure:3", "shm_size: 1gb", "services.store.shm_size"),
        ("replicas: ${REPLICAS:-1}", "mode: global", "services.web.deploy.mode"),
        ("timeout: 1m30s", "start_interval: 5s", "services.web.healthcheck.start_interval"),
        ("service_healthy", "service_started", "services.web.depends_on.store.condition"),
        ("volumes:\n  data:\n", "volumes:\n  data: {driver: nfs}\n", "volumes.data"),
        ("volumes:\n  data:\n", "volumes: {}\nnetworks: {}\n", "networks"),
        ("timeout: 1m30s", "timeout: soon", "services.web.healthcheck.timeout"),
    ],
)
def test_what_a_native_run_would_pass_over_is_an_error(old: str, new: str, named: str) -> None:
    assert old in FILE
    with pytest.raises(ComposeFileInvalid, match=rf"\b{named}: "):
        compose_file.services(FILE.replace(old, new), VALUES)
