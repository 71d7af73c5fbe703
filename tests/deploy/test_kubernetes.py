"""deploy/kubernetes, its image and docs/kubernetes.md, held to whatever there is without a cluster."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import chart_schema, fleet_options, kubernetes_files
from fixtures.airflow import AirflowHome
from onnx_fleet.airflow import pod_overrides

ROOT = Path(__file__).parents[2]
MANIFESTS = kubernetes_files.FOLDER / "manifests"
DOCUMENT = (ROOT / "docs" / "kubernetes.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
RELEASES = tuple(kubernetes_files.RELEASES)
SECRET_NAMED = re.compile("TOKEN|PASSWORD|SECRET|_CONN|KEY")
"""What the name of a variable has whose value nobody may read."""

CELERY = kubernetes_files.values("celery")
GPU = kubernetes_files.values("celery-gpu")
KUBERNETES = kubernetes_files.values("kubernetes")
(POD,) = kubernetes_files.parsed(kubernetes_files.pod_template())


def manifest(name: str) -> list[dict[str, Any]]:
    return kubernetes_files.parsed((MANIFESTS / name).read_text())


def worker_sets() -> dict[str, dict[str, Any]]:
    """Every Celery worker set as the chart makes it: its own keys over those of workers.celery."""
    shared = {key: value for key, value in CELERY["workers"]["celery"].items() if key != "sets"}
    sets = [*CELERY["workers"]["celery"]["sets"], *GPU["workers"]["celery"]["sets"]]
    return {"default": shared} | {made["name"]: {**shared, **made} for made in sets}


def environments() -> Iterator[dict[str, Any]]:
    """Every variable of every container that we describe."""
    yield from POD["spec"]["containers"][0]["env"]
    for made in worker_sets().values():
        yield from made["env"]


@pytest.fixture(scope="module")
def airflow(airflow_home: AirflowHome) -> dict[str, Any]:
    commands = [shlex.split(made["args"][-1])[2:] for made in worker_sets().values()]
    return airflow_home.python("fixtures.airflow_options", json.dumps(commands), options={})


def test_every_value_is_one_that_the_charts_schema_was_seen_to_take() -> None:
    seen = chart_schema.SEEN.read_text().splitlines()
    assert seen[1:] == chart_schema.used(), "hold the values to the schema: " + (chart_schema.__doc__ or "")


def test_manifests_have_what_the_api_has_and_nothing_else() -> None:
    assert {path.name: len(manifest(path.name)) for path in MANIFESTS.iterdir()} == {
        "executor-rbac.yaml": 4,
        "namespace.yaml": 1,
        "network-policy.yaml": 2,
    }
    with pytest.raises(AssertionError, match="misspelt"):
        kubernetes_files.parsed("kind: Namespace\napiVersion: v1\nmetadata: {name: misspelt, label: {a: b}}")


@pytest.mark.airflow
@pytest.mark.parametrize("release", RELEASES)
def test_airflow_or_onnx_fleet_knows_every_option(airflow: dict[str, Any], release: str) -> None:
    known = {tuple(option) for option in airflow["options"]} | {("onnx_fleet", name) for name in fleet_options.names()}
    config = kubernetes_files.values(release)["config"]
    assert {(section, option) for section, options in config.items() for option in options} - known == set()
    variables = {variable["name"] for variable in environments() if variable["name"].startswith("AIRFLOW__")}
    assert {tuple(name.lower().split("__")[1:]) for name in variables} - known == set()


@pytest.mark.parametrize("release", RELEASES)
def test_options_are_text_since_helm_writes_large_numbers_as_fractions(release: str) -> None:
    config = kubernetes_files.values(release)["config"]
    assert [option for options in config.values() for option in options.items() if not isinstance(option[1], str)] == []


@pytest.mark.parametrize("release", RELEASES)
def test_every_secret_is_a_reference(release: str) -> None:
    values = kubernetes_files.values(release)
    named = {"fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"}
    assert named <= values.keys()
    assert {key for key in values if re.search("secret|fernet|jwt|token|password", key, re.IGNORECASE)} == {
        *named, "secret",
    }  # fmt: skip
    assert {key for key in values["data"] if not key.endswith("SecretName")} == set()
    assert all(entry.keys() == {"envName", "secretName", "secretKey"} for entry in values["secret"])


def test_no_variable_has_a_secret_for_its_value() -> None:
    secret = [variable for variable in environments() if SECRET_NAMED.search(variable["name"])]
    assert {variable["name"] for variable in secret} == {"HF_TOKEN"}
    assert all(set(variable["valueFrom"]) == {"secretKeyRef"} for variable in secret)


def secrets_used() -> set[tuple[str, str]]:
    """Name and key of every Secret that is referred to; the chart decides the keys of its own."""
    found = {
        (CELERY["fernetKeySecretName"], "fernet-key"),
        (CELERY["apiSecretKeySecretName"], "api-secret-key"),
        (CELERY["jwtSecretName"], "jwt-secret"),
        *((name, "connection") for name in CELERY["data"].values()),
        *((entry["secretName"], entry["secretKey"]) for entry in CELERY["secret"]),
    }
    references = [variable["valueFrom"]["secretKeyRef"] for variable in environments() if "valueFrom" in variable]
    return found | {(reference["name"], reference["key"]) for reference in references}


def test_the_document_makes_every_secret_with_its_key() -> None:
    text = DOCUMENT.replace("\\\n", " ")
    made = re.findall(r"kubectl create secret generic (\S+)[^\n]*?--from-(?:file|literal)=([\w-]+)=", text)
    assert set(made) == secrets_used()


def test_the_document_builds_the_images_as_the_dockerfile_lets_it() -> None:
    known = set(re.findall(r"^ARG (\w+)=", DOCKERFILE, flags=re.MULTILINE))
    given = re.findall(r"--build-arg (\w+)=(\S*)", DOCUMENT)
    assert {name for name, _ in given} <= known
    files = {value for name, value in given if name.endswith("REQUIREMENTS")}
    assert files == {"requirements-gpu.txt", "requirements-kubernetes.txt"}
    for file in files:
        assert f"!{file}" in (ROOT / ".dockerignore").read_text().splitlines()
    repository = CELERY["images"]["airflow"]["repository"]
    built = {f"{repository}:{CELERY['images']['airflow']['tag']}", KUBERNETES["config"]["onnx_fleet"]["pod_gpu_image"]}
    assert built == {f"{GPU['images']['airflow']['repository']}:{GPU['images']['airflow']['tag']}"} | {
        f"{repository}:0.1.0"
    }
    assert set(re.findall(r"docker build [^\n]*?--tag (\S+)", DOCUMENT.replace("\\\n", " "))) == built


def test_what_kubernetes_adds_to_the_pins_is_not_in_them() -> None:
    def names(file: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+)==", (ROOT / file).read_text(), flags=re.MULTILINE))

    added = names("requirements-kubernetes.txt")
    assert "apache-airflow-providers-cncf-kubernetes" in added
    assert added & names("requirements.txt") == added & names("requirements-gpu.txt") == set()


@pytest.mark.airflow
def test_every_queue_that_tasks_are_sent_to_has_workers(airflow: dict[str, Any]) -> None:
    assert airflow["options"], "Airflow's parser takes the command of every worker set"
    served = {}
    for name, made in worker_sets().items():
        words = shlex.split(made["args"][-1])
        served[name] = words[words.index("--queues") + 1]
        assert served[name] == made["queue"], "KEDA counts the tasks of this queue"
    assert served == {
        "default": "default",
        "cpu": CELERY["config"]["onnx_fleet"]["cpu_queue"],
        "gpu": GPU["config"]["onnx_fleet"]["gpu_queue"],
    }
    assert CELERY["config"]["onnx_fleet"]["gpu_queue"] == "", "without a second release nobody serves it"
    assert "cpu_queue" not in KUBERNETES["config"]["onnx_fleet"]


def test_heavy_workers_take_one_task_at_a_time_and_a_node_each() -> None:
    """Then 80 % of the container's memory is that one step's, and whoever measures has the machine."""
    sets = worker_sets()
    assert str(sets["cpu"]["replicas"]) == CELERY["config"]["onnx_fleet"]["cpu_pool_slots"]
    for name in ("cpu", "gpu"):
        made = sets[name]
        assert shlex.split(made["args"][-1])[-2:] == ["--concurrency", "1"]
        assert made["labels"][pod_overrides.HEAVY] == "true"
        (term,) = made["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == pod_overrides.NODE
        assert term["labelSelector"]["matchExpressions"] == [{"key": pod_overrides.HEAVY, "operator": "Exists"}]
        assert made["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}, (
            "the new one may need its node"
        )
        assert made["safeToEvict"] is False
    assert pod_overrides.HEAVY not in sets["default"]["labels"]


def test_containers_ask_for_the_memory_that_they_are_limited_to() -> None:
    described = [made["resources"] for made in worker_sets().values()]
    described += [CELERY[name]["resources"] for name in ("scheduler", "dagProcessor", "triggerer", "apiServer")]
    described += [POD["spec"]["containers"][0]["resources"]]
    for resources in described:
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert resources["requests"]["cpu"]
        assert "cpu" not in resources["limits"]


def test_every_release_and_pod_is_as_restricted_as_the_namespace_asks() -> None:
    (namespace,) = manifest("namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod, containers = CELERY["securityContexts"]["pod"], CELERY["securityContexts"]["containers"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] != 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert containers == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["spec"]["securityContext"] == pod
    assert [container["securityContext"] for container in POD["spec"]["containers"]] == [containers]
    for release in RELEASES:
        text = json.dumps(kubernetes_files.values(release))
        assert not re.search("hostPath|hostNetwork|hostPID|privileged", text)
        assert text.count('"securityContext') == 1, "nothing takes the place of the common one"


def test_a_pod_has_no_rights_and_none_of_the_keys() -> None:
    spec = POD["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert KUBERNETES["workers"]["kubernetes"]["serviceAccount"] == {
        "create": True, "name": spec["serviceAccountName"], "automountServiceAccountToken": False,
    }  # fmt: skip
    assert {variable["name"] for variable in spec["containers"][0]["env"]} == {
        "HF_HOME", "HF_TOKEN", "MPLCONFIGDIR", "XDG_CACHE_HOME",
    }  # fmt: skip
    assert {name for volume in spec["volumes"] for name in volume} == {"name", "configMap", "emptyDir", "ephemeral"}


def test_only_the_executor_has_rights_in_the_cluster() -> None:
    objects = manifest("executor-rbac.yaml")
    roles = {made["metadata"]["name"]: made["rules"] for made in objects if made["kind"] == "Role"}
    bound = {made["roleRef"]["name"]: made["subjects"] for made in objects if made["kind"] == "RoleBinding"}
    assert {role: [subject["name"] for subject in subjects] for role, subjects in bound.items()} == {
        "onnx-fleet-pod-launcher": [KUBERNETES["scheduler"]["serviceAccount"]["name"]],
        "onnx-fleet-pod-log-reader": [KUBERNETES["apiServer"]["serviceAccount"]["name"]],
    }
    assert {resource for rules in roles.values() for rule in rules for resource in rule["resources"]} == {
        "pods", "pods/log",
    }  # fmt: skip
    accounts = {release: kubernetes_files.values(release) for release in RELEASES}
    for release, values in accounts.items():
        assert values["rbac"] == {"create": False}
        tokens = {name for name in ("scheduler", "dagProcessor", "triggerer", "apiServer", "migrateDatabaseJob")
                  if values[name]["serviceAccount"]["automountServiceAccountToken"]}  # fmt: skip
        assert tokens == ({"scheduler", "apiServer"} if release == "kubernetes" else set())


def selected(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    return bool(policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items())


@pytest.mark.airflow
def test_nobody_connects_to_workers_but_the_api_server_for_logs(airflow: dict[str, Any]) -> None:
    every, celery = manifest("network-policy.yaml")
    of_chart = {"tier": "airflow", "component": "worker"}
    assert selected(every, POD["metadata"]["labels"])
    assert not selected(celery, POD["metadata"]["labels"]), "their logs are read by the cluster's API"
    for made in worker_sets().values():
        assert selected(every, of_chart | made["labels"])
        assert selected(celery, of_chart | made["labels"])
    assert every["spec"]["ingress"] == []
    (logs,) = celery["spec"]["ingress"]
    assert [port["port"] for port in logs["ports"]] == [airflow["log_port"]]
    assert logs["from"] == [{"podSelector": {"matchLabels": {"tier": "airflow", "component": "api-server"}}}]
    assert CELERY["networkPolicies"]["enabled"]
    assert CELERY["apiServer"]["networkPolicy"]["ingress"]["from"] == [{"podSelector": {"matchLabels": of_chart}}]


def test_workers_reach_nothing_inside_but_names_and_the_api_server() -> None:
    every, celery = manifest("network-policy.yaml")
    for policy in (every, celery):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    ports = {port["port"] for rule in every["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 8080, 443}
    outside = {
        block["ipBlock"]["cidr"]: block["ipBlock"]["except"]
        for rule in every["spec"]["egress"]
        for block in rule["to"]
        if "ipBlock" in block
    }
    assert set(outside) == {"0.0.0.0/0", "::/0"}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(outside["0.0.0.0/0"])
    assert all(rule["to"] and rule["ports"] for policy in (every, celery) for rule in policy["spec"]["egress"])


def test_what_workers_write_to_has_a_volume_with_a_size() -> None:
    common = {mount["mountPath"] for mount in CELERY["volumeMounts"]} | {"/opt/airflow/logs"}
    sizes = [CELERY["volumes"][0]["emptyDir"], CELERY["logs"]["emptyDirConfig"]]
    described = [
        (made["env"], made["extraVolumeMounts"], made["extraVolumes"], common) for made in worker_sets().values()
    ]
    (base,) = POD["spec"]["containers"]
    described.append((base["env"], base["volumeMounts"], POD["spec"]["volumes"], set()))
    for env, mounts, volumes, others in described:
        written = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} | others
        home = next(variable["value"] for variable in env if variable["name"] == "HF_HOME")
        assert written == {"/tmp", "/opt/airflow/logs", home, CELERY["config"]["onnx_fleet"]["scratch"]}
        assert {mount["name"] for mount in mounts} == {volume["name"] for volume in volumes}
        sizes += [volume["emptyDir"] for volume in volumes if "emptyDir" in volume]
        for volume in volumes:
            if "ephemeral" in volume:
                claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
                assert claim["resources"]["requests"]["storage"].endswith("Gi")
                assert claim["accessModes"] == ["ReadWriteOnce"], "nothing is shared"
    assert all(volume["sizeLimit"] for volume in sizes)
    assert "persistentVolumeClaim" not in json.dumps([CELERY, GPU, KUBERNETES])
