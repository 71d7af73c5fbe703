"""docker-compose.yaml as processes: what each has of its own, and what all of them share."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from onnx_fleet_demo.native_stack import differences
from onnx_fleet_demo.native_stack.differences import Container
from onnx_fleet_demo.native_stack.stack import NativeStack

WORKERS = ("airflow-worker-cpu-1", "airflow-worker-cpu-2", "airflow-worker-gpu")


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Container]:
    stack = NativeStack(tmp_path_factory.mktemp("stack"), settings={"AIRFLOW__CORE__PARALLELISM": "3"})
    stack.read()
    return stack.containers


def folders(container: Container) -> set[Path]:
    """Every path below the stack's folder that a container is told of, by its environment, command or volumes."""
    words = " ".join([*container.environment.values(), *container.command, str(container.folder)])
    told = {Path(word) for word in words.replace(":", " ").split() if word.startswith(str(container.host.folder))}
    return told | {container.place(mount.target) for mount in container.service.volumes if mount.named}


def test_it_is_the_topology_that_the_file_has(containers: dict[str, Container]) -> None:
    assert set(containers) == {
        "hub", "postgres", "redis", "seaweedfs", "airflow-init", "airflow-apiserver", "airflow-scheduler",
        "airflow-dag-processor", "airflow-triggerer", "airflow-janitor", *WORKERS,
    }  # fmt: skip
    command = containers["airflow-worker-cpu-1"].command
    assert command[:6] == ["airflow", "celery", "worker", "--queues", "default,cpu", "--concurrency"]
    assert containers["airflow-worker-gpu"].command[3:5] == ["--queues", "gpu"]
    assert containers["airflow-scheduler"].command == ["airflow", "scheduler"]


def test_no_two_services_have_a_folder_in_common(containers: dict[str, Container]) -> None:
    """But for the volumes that the file has them share, and there is none of those by now."""
    for one, other in combinations(containers.values(), 2):
        for mine in folders(one):
            for theirs in folders(other):
                assert not mine.is_relative_to(theirs), f"{one.name}, {other.name}: {mine}"
                assert not theirs.is_relative_to(mine), f"{one.name}, {other.name}: {theirs}"


@pytest.mark.parametrize(
    "name",
    ["HOME", "TMPDIR", "AIRFLOW_HOME", "HF_HOME", "AIRFLOW__ONNX_FLEET__SCRATCH", "AIRFLOW__ONNX_FLEET__LOCK_FOLDER"],
)
def test_each_worker_has_its_own(containers: dict[str, Container], name: str) -> None:
    values = {containers[worker].environment[name] for worker in WORKERS}
    assert len(values) == len(WORKERS)
    for worker in WORKERS:
        assert Path(containers[worker].environment[name]).is_relative_to(containers[worker].folder)


def test_no_text_has_a_name_or_a_path_of_a_container(containers: dict[str, Container]) -> None:
    hosts = [f"//{name}" for name in differences.LISTENERS] + [f"@{name}" for name in differences.LISTENERS]
    for container in containers.values():
        for text in [*container.environment.values(), *container.command, *(container.check or ())]:
            assert not [host for host in hosts if host in text], text
            assert "/opt/airflow" not in text.replace(f"{container.folder}/opt", ""), text


def test_the_files_variables_reach_every_service(containers: dict[str, Container]) -> None:
    for worker in WORKERS:
        container = containers[worker]
        said = container.service.environment
        kept = {name: value for name, value in said.items() if container.environment[name] == value}
        changed = set(said) - set(kept)
        assert changed == {
            "AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__PLUGINS_FOLDER", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CELERY__RESULT_BACKEND", "AIRFLOW__CELERY__BROKER_URL",
            "AIRFLOW__ONNX_FLEET__CATALOGUE", "AIRFLOW__ONNX_FLEET__SCRATCH", "AIRFLOW__ONNX_FLEET__LOCK_FOLDER",
            "AIRFLOW_CONN_ONNX_FLEET_S3", "HF_HOME",
        }  # fmt: skip
        assert container.environment["AIRFLOW__CORE__PARALLELISM"] == "3"


def test_nothing_of_this_process_leads_a_service_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW__CORE__EXECUTOR", "AWS_PROFILE", "HF_TOKEN", "PYTHONPATH", "HTTP_PROXY"):
        monkeypatch.setenv(name, "elsewhere")
    stack = NativeStack(tmp_path)
    stack.read()
    for container in stack.containers.values():
        assert "elsewhere" not in container.environment.values()
