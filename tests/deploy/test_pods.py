"""A run under the KubernetesExecutor in which every pod is a process with an empty disk: nothing leans on a shared one.

Airflow's api-server, scheduler and dag-processor are real, and so are the pods' template, size and command: the
scheduler's executor makes them of ``deploy/kubernetes`` through the cluster's API. Only the cluster is not one.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from fixtures import kubernetes_files
from fixtures.airflow import DAGS, ROOT
from fixtures.fleet_options import LATENCY
from fixtures.models import RepoMaker
from fixtures.pod_cluster import PodCluster, PodEnd
from onnx_fleet.bundles import channels, listing
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet_demo import processes
from onnx_fleet_demo.airflow_client import AirflowClient, NotReady, TaskState
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.s3_server import EmbeddedS3

pytestmark = [pytest.mark.airflow, pytest.mark.clusters, pytest.mark.timeout(900)]

MODEL = "acme/sound"
PASSWORD = "sesame"
COMPONENTS = (("api-server", "--workers", "1"), ("scheduler", "--skip-serve-logs"), ("dag-processor",))
STEPS = ("export", "validate", "measure", "compare", "publish")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a run has left."""

    state: str
    tasks: list[TaskState]
    cluster: PodCluster
    store: ObjectStore
    logs: ObjectStore

    def pods(self, task_id: str) -> list[PodEnd]:
        return [pod for pod in self.cluster.ended if pod.task_id == task_id]


def airflow_cfg(s3: EmbeddedS3, address: str, *, port: int, home: Path) -> str:
    """The configuration that the chart writes, but for what is elsewhere in a test."""
    sections: dict[str, dict[str, str]] = {
        section: dict(options) for section, options in kubernetes_files.values("kubernetes")["config"].items()
    }
    for section, option, value in (
        ("core", "executor", "KubernetesExecutor"),
        ("core", "dags_folder", str(DAGS)),
        ("core", "plugins_folder", str(ROOT / "plugins")),
        ("core", "execution_api_server_url", f"http://127.0.0.1:{port}/execution/"),
        ("core", "dags_are_paused_at_creation", "False"),
        ("core", "simple_auth_manager_users", "admin:admin"),
        ("core", "simple_auth_manager_passwords_file", str(home / "passwords.json")),
        ("api", "base_url", f"http://127.0.0.1:{port}"),
        ("api", "host", "127.0.0.1"),
        ("api", "port", str(port)),
        ("logging", "remote_base_log_folder", f"{address}/logs"),
        ("onnx_fleet", "store", f"{address}/fleet"),
        ("onnx_fleet", "schedule", ""),
        ("onnx_fleet", "audit_schedule", ""),
        ("onnx_fleet", "shards", "1"),
        ("onnx_fleet", "retry_delay_s", "1"),
        ("scheduler", "scheduler_idle_sleep_time", "0.3"),
        ("dag_processor", "min_file_process_interval", "300"),
        ("database", "load_default_connections", "False"),
        ("usage_data_collection", "enabled", "False"),
        ("kubernetes_executor", "namespace", "onnx-fleet"),
        ("kubernetes_executor", "worker_container_repository", "fleet"),
        ("kubernetes_executor", "worker_container_tag", "1"),
    ):
        sections.setdefault(section, {})[option] = value
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(sections)
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, s3_server: EmbeddedS3, small_repo: Path) -> Iterator[Deployment]:
    """One model made by a run of which the pod of one step was killed in the middle."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "hub").mkdir()
    RepoMaker(folder / "hub", small_repo).sound(MODEL)
    home = folder / "control-plane"
    home.mkdir()
    (port,) = processes.free_ports(1)
    address = f"{s3_server.address}/pods-{uuid.uuid4().hex}"
    cfg = airflow_cfg(s3_server, address, port=port, home=home)
    (home / "airflow.cfg").write_text(cfg)
    (home / "passwords.json").write_text(json.dumps({"admin": PASSWORD}))
    (home / "pod_template.yaml").write_text(kubernetes_files.pod_template())
    with HubServer(folder / "hub") as hub:
        image = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "include"),
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_ENDPOINT": hub.url,
        }
        with PodCluster(
            folder=folder / "pods",
            secrets={"onnx-fleet-hub": {"token": ""}},
            config_maps={"onnx-fleet-config": {"airflow.cfg": cfg}},
            image=image,
            evict={"model.validate"},
        ) as cluster:
            (folder / "pods").mkdir()
            (home / "kubeconfig").write_text(cluster.kubeconfig())
            connection = {
                "conn_type": "aws",
                "login": "onnx-fleet",
                "password": "onnx-fleet",
                "extra": {"endpoint_url": s3_server.endpoint_url, "region_name": "us-east-1"},
            }
            environment = {
                **image,
                "HOME": str(home),
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
                "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
                "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
                "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
                "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(home / "kubeconfig"),
                "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(home / "pod_template.yaml"),
                "AIRFLOW_CONN_ONNX_FLEET_S3": json.dumps(connection),
            }
            command = [sys.executable, "-m", "airflow"]
            subprocess.run([*command, "db", "migrate"], env=environment, check=True, capture_output=True)
            services = [
                processes.start([*command, *words], environment=environment, log=home / f"{words[0]}.log", cwd=home)
                for words in COMPONENTS
            ]
            try:
                client = AirflowClient(f"http://127.0.0.1:{port}", user="admin", password=PASSWORD)

                def wait_for(true: Callable[[], bool], *, seconds: float) -> None:
                    """Until something is so; a service that ends meanwhile is what is wrong."""
                    deadline = time.monotonic() + seconds
                    while time.monotonic() < deadline:
                        for service, words in zip(services, COMPONENTS, strict=True):
                            assert service.poll() is None, (home / f"{words[0]}.log").read_text()[-5000:]
                        with suppress(NotReady):
                            if true():
                                return
                        time.sleep(0.5)
                    raise AssertionError(f"not within {seconds} s")

                wait_for(lambda: client.has_dag("model_reexport"), seconds=180)
                run_id = client.trigger("model_reexport", {"model": MODEL, "latency": LATENCY})
                wait_for(lambda: client.run_state("model_reexport", run_id) in ("success", "failed"), seconds=600)
                yield Deployment(
                    state=client.run_state("model_reexport", run_id),
                    tasks=client.tasks("model_reexport", run_id),
                    cluster=cluster,
                    store=open_store(f"{address}/fleet", s3=s3_server.settings),
                    logs=open_store(f"{address}/logs", s3=s3_server.settings),
                )
            finally:
                for service in services:  # and nothing else below this process: other tests have servers there
                    processes.kill_tree(psutil.Process(service.pid))
                    service.wait()


def test_a_model_is_published_by_pods_that_share_no_disk(deployed: Deployment) -> None:
    assert deployed.state == "success", [pod.log[-3000:] for pod in deployed.cluster.ended if pod.status]
    (model,) = listing.list_models(deployed.store)
    assert model.model_id == MODEL
    assert channels.read(deployed.store, MODEL, "latest").version
    for step in STEPS:
        assert deployed.pods(f"model.{step}"), "each step had a pod of its own"
    names = [pod.pod["metadata"]["name"] for pod in deployed.cluster.ended]
    assert len(names) == len(set(names))
    assert {pod.found for pod in deployed.cluster.ended} == {()}, "every disk was empty at the start"


def test_a_pod_that_is_killed_is_made_again_with_an_empty_disk(deployed: Deployment) -> None:
    first, second = deployed.pods("model.validate")
    assert (first.status < 0, second.status) == (True, 0)
    assert [task.tries for task in deployed.tasks if task.task_id == "model.validate"] == [2]
    assert {task.tries for task in deployed.tasks if task.task_id == "model.export"} == {1}


def test_a_pod_writes_to_its_volumes_alone(deployed: Deployment) -> None:
    """The root file system of a container is read-only; here whatever is beside the volumes gives it away."""
    assert {pod.task_id: pod.elsewhere for pod in deployed.cluster.ended if pod.elsewhere} == {}


def test_a_pod_needs_neither_the_database_nor_the_keys_nor_the_store_s_secret(deployed: Deployment) -> None:
    variables = {
        variable["name"] for pod in deployed.cluster.ended for variable in pod.pod["spec"]["containers"][0]["env"]
    }
    assert variables == {"HF_HOME", "HF_TOKEN", "MPLCONFIGDIR", "XDG_CACHE_HOME", "AIRFLOW_IS_K8S_EXECUTOR_POD"}


def test_the_logs_of_pods_that_are_gone_are_in_the_bucket(deployed: Deployment) -> None:
    keys = [info.key for info in deployed.logs.list("")]
    for step in STEPS:
        (log,) = [key for key in keys if f"task_id=model.{step}/" in key and key.endswith("attempt=1.log")] or [""]
        assert log or step == "validate", "that one's first pod was killed"


def test_the_executor_asks_for_what_its_role_allows(deployed: Deployment) -> None:
    roles = kubernetes_files.parsed((kubernetes_files.FOLDER / "manifests" / "executor-rbac.yaml").read_text())
    (rules,) = [
        role["rules"] for role in roles if role["metadata"]["name"] == "onnx-fleet-pod-launcher" and "rules" in role
    ]
    allowed = {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    assert deployed.cluster.asked <= allowed
    assert {verb for verb, _ in deployed.cluster.asked} >= {"create", "list", "watch", "delete"}
