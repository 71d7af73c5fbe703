"""The pods of tasks under the KubernetesExecutor, as its own code makes them of our DAGs and of the pod template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures import kubernetes_files
from fixtures.airflow import DAGS, AirflowHome

pytestmark = pytest.mark.airflow

GIB = 1024**3
KUBERNETES = {
    "AIRFLOW__CORE__EXECUTOR": "KubernetesExecutor",
    "AIRFLOW__ONNX_FLEET__SHARDS": "1",
    "AIRFLOW__ONNX_FLEET__GPU_QUEUE": "gpu",
    "AIRFLOW__ONNX_FLEET__POD_MEMORY_BYTES": str(24 * GIB),
    "AIRFLOW__ONNX_FLEET__LARGE_MEMORY_BYTES": str(20 * GIB),
    "AIRFLOW__ONNX_FLEET__POD_LARGE_MEMORY_BYTES": str(96 * GIB),
    "AIRFLOW__ONNX_FLEET__POD_CPUS": "6",
    "AIRFLOW__ONNX_FLEET__POD_GPU_RESOURCE": "example.com/gpu",
    "AIRFLOW__ONNX_FLEET__POD_GPU_IMAGE": "fleet-gpu:1",
}
STEPS = ("export", "validate", "prove_on_gpu", "measure", "compare", "publish")
LARGE = {f"{dag_id}.model_large.{step}" for dag_id in ("model_reexport", "fleet_reexport") for step in STEPS}
HEAVY = {*(name.replace("model_large", "model") for name in LARGE), *LARGE, "bundle_audit.audit"}
ALONE = {"prove_on_gpu", "measure", "compare"}


@pytest.fixture(scope="module")
def pods(airflow_home: AirflowHome, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every task's pod, with the template that is deployed."""
    template = tmp_path_factory.mktemp("template") / "pod.yaml"
    template.write_text(kubernetes_files.pod_template())
    options = {**KUBERNETES, "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template)}
    found: dict[str, Any] = airflow_home.python("fixtures.worker_pods", str(DAGS), options=options)
    assert found["errors"] == {}
    made: dict[str, dict[str, Any]] = found["pods"]
    return made


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["spec"]["containers"]
    assert only["name"] == "base"
    found: dict[str, Any] = only
    return found


def test_heavy_tasks_have_the_memory_and_cores_that_are_configured(pods: dict[str, dict[str, Any]]) -> None:
    sized = {name: container(pod)["resources"]["limits"]["memory"] for name, pod in pods.items()}
    assert {name for name, memory in sized.items() if memory == str(24 * GIB)} == HEAVY - LARGE
    assert {name for name, memory in sized.items() if memory == str(96 * GIB)} == LARGE
    for name in HEAVY:
        resources = container(pods[name])["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"], "what it asks for is what it may use"
        assert resources["requests"]["cpu"] == "6"
        assert "cpu" not in resources["limits"], "a limit of cores would be in what the step measures"


def test_light_tasks_have_what_the_template_says(pods: dict[str, dict[str, Any]]) -> None:
    template = kubernetes_files.parsed(kubernetes_files.pod_template())[0]["spec"]["containers"][0]["resources"]
    light = pods.keys() - HEAVY
    assert "fleet_reexport.plan" in light
    assert "model_reexport.model.record" in light
    for name in light:
        assert container(pods[name])["resources"] == template, name


def test_the_gpu_task_alone_has_a_gpu_and_its_image(pods: dict[str, dict[str, Any]]) -> None:
    for name, pod in pods.items():
        resources = container(pod)["resources"]
        on_gpu = name.endswith(".prove_on_gpu")
        assert container(pod)["image"] == ("fleet-gpu:1" if on_gpu else "fleet:1"), name
        assert ("example.com/gpu" in resources["limits"]) == ("example.com/gpu" in resources["requests"]) == on_gpu
        if on_gpu:
            assert resources["limits"]["example.com/gpu"] == "1"
            tolerated = [(taint["key"], taint["effect"]) for taint in pod["spec"]["tolerations"]]
            assert tolerated == [("example.com/gpu", "NoSchedule")]


def test_a_pod_that_measures_and_other_heavy_pods_keep_off_each_others_node(pods: dict[str, dict[str, Any]]) -> None:
    """Kubernetes holds new pods to the anti-affinity of those that run, so one side of it is enough."""
    for name, pod in pods.items():
        labels, spec = pod["metadata"]["labels"], pod["spec"]
        assert (labels.get("onnx-fleet/heavy") == "true") == (name in HEAVY), name
        assert ("affinity" in spec) == (name in HEAVY and name.rpartition(".")[2] in ALONE), name
        if "affinity" in spec:
            (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert term["topologyKey"] == "kubernetes.io/hostname"
            (kept_off,) = term["labelSelector"]["matchExpressions"]
            assert kept_off == {"key": "onnx-fleet/heavy", "operator": "Exists"}


def test_a_task_takes_nothing_from_the_template_but_its_size(pods: dict[str, dict[str, Any]]) -> None:
    """Privileges, volumes, account and environment are the template's in every pod, heavy or light."""
    light, heavy = pods["model_reexport.model.record"], pods["model_reexport.model.prove_on_gpu"]
    mine = ("resources", "image", "env")
    assert {key: value for key, value in container(light).items() if key not in mine} == {
        key: value for key, value in container(heavy).items() if key not in mine
    }
    assert container(light)["env"] == container(heavy)["env"]
    theirs = ("containers", "affinity", "tolerations")
    assert {key: value for key, value in light["spec"].items() if key not in theirs} == {
        key: value for key, value in heavy["spec"].items() if key not in theirs
    }


@pytest.mark.parametrize("executor", ["LocalExecutor", "CeleryExecutor"])
def test_other_executors_are_told_nothing(airflow_home: AirflowHome, executor: str) -> None:
    options = {**KUBERNETES, "AIRFLOW__CORE__EXECUTOR": executor}
    found: dict[str, Any] = airflow_home.python("fixtures.dag_facts", str(DAGS), options=options)
    assert found["errors"] == {}
    assert {task["executor_config"] for dag in found["dags"].values() for task in dag["tasks"].values()} == {"{}"}
    assert found["kubernetes"] is False, "reading DAGs imports the client only where it is needed"


def test_a_pod_that_reads_the_dag_to_run_a_task_needs_no_client(airflow_home: AirflowHome) -> None:
    options = {**KUBERNETES, "AIRFLOW_IS_K8S_EXECUTOR_POD": "True"}
    found: dict[str, Any] = airflow_home.python("fixtures.dag_facts", str(DAGS), options=options)
    assert found["errors"] == {}
    assert found["kubernetes"] is False


def test_a_missing_client_is_named_where_dags_are_read(airflow_home: AirflowHome, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['kubernetes'] = None\n")
    path = f"{tmp_path}:{airflow_home.python_path}"
    found: dict[str, Any] = airflow_home.python(
        "fixtures.dag_facts", str(DAGS), options={**KUBERNETES, "PYTHONPATH": path}
    )
    assert sorted(found["errors"]) == ["bundle_audit.py", "fleet_reexport.py", "model_reexport.py"]
    for text in found["errors"].values():
        assert "install requirements-kubernetes.txt wherever Airflow runs" in text
