"""The pods of heavy tasks: what a task says to the KubernetesExecutor, where that one runs it.

A light task takes the pod as the executor's pod template has it. All instances of a mapped task have one pod between
them, since Airflow keeps it with the task and not with the instance: its size is that of the largest model, and large
models, which have a mapped group of their own, have pods of their own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowConfigException

from onnx_fleet.airflow.settings import FleetSettings, PodSettings

if TYPE_CHECKING:
    from kubernetes.client import V1Affinity, V1Pod

HEAVY: Final = "onnx-fleet/heavy"
"""The label of the pods of heavy tasks, by which one that measures keeps the others off its node."""
NODE: Final = "kubernetes.io/hostname"
CONTAINER: Final = "base"
"""The container in which the KubernetesExecutor runs a task."""
IN_POD: Final = "AIRFLOW_IS_K8S_EXECUTOR_POD"
"""The variable that the executor sets in the pods it makes."""


def options(settings: FleetSettings, *, alone: bool, on_gpu: bool = False, is_large: bool = False) -> dict[str, Any]:
    """Return the pod of a heavy task, as arguments of ``@task``; empty where the task's executor runs no pods.

    Args:
        alone: no other heavy task may be on its node meanwhile, since it measures.
        on_gpu: the task needs a GPU.
        is_large: the task is of the group of large models.
    Raises:
        AirflowConfigException: the package ``kubernetes`` is not installed.
    """
    # The pod reads the DAG file once more, when its task is on the way already; importing the client takes a second.
    if settings.pods is None or os.environ.get(IN_POD):
        return {}
    return {"executor_config": {"pod_override": _pod(settings.pods, alone=alone, on_gpu=on_gpu, is_large=is_large)}}


def _pod(wanted: PodSettings, *, alone: bool, on_gpu: bool, is_large: bool) -> V1Pod:
    try:
        from kubernetes import client
    except ModuleNotFoundError as err:
        raise AirflowConfigException(
            "[core] executor names the KubernetesExecutor, and the package kubernetes is not installed: install"
            " requirements-kubernetes.txt wherever Airflow runs"
        ) from err
    memory = {"memory": str(wanted.large_memory_bytes if is_large else wanted.memory_bytes)}
    devices = {wanted.gpu_resource: "1"} if on_gpu else {}
    container = client.V1Container(
        name=CONTAINER,
        image=wanted.gpu_image if on_gpu else None,
        # The whole of it: nothing of the template's own resources is left where a task says some.
        resources=client.V1ResourceRequirements(
            requests={"cpu": str(wanted.cpus), **memory, **devices}, limits={**memory, **devices}
        ),
    )
    toleration = client.V1Toleration(key=wanted.gpu_resource, operator="Exists", effect="NoSchedule")
    return client.V1Pod(
        metadata=client.V1ObjectMeta(labels={HEAVY: "true"}),
        spec=client.V1PodSpec(
            containers=[container],
            affinity=_alone_on_its_node() if alone else None,
            tolerations=[toleration] if on_gpu else None,
        ),
    )


def _alone_on_its_node() -> V1Affinity:
    """Keep a pod off nodes with heavy ones; as long as it runs, Kubernetes keeps those off its node, too."""
    from kubernetes import client

    others = client.V1LabelSelector(match_expressions=[client.V1LabelSelectorRequirement(key=HEAVY, operator="Exists")])
    term = client.V1PodAffinityTerm(label_selector=others, topology_key=NODE)
    return client.V1Affinity(
        pod_anti_affinity=client.V1PodAntiAffinity(required_during_scheduling_ignored_during_execution=[term])
    )
