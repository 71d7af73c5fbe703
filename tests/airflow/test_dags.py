"""The DAG files, as Airflow reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from fixtures.airflow import DAGS, ROOT, AirflowHome

pytestmark = pytest.mark.airflow

FILES = {
    "bundle_audit": "bundle_audit.py",
    "bundle_retention": "bundle_retention.py",
    "fleet_reexport": "fleet_reexport.py",
    "hub_watch": "hub_watch.py",
    "licence_approval": "licence_approval.py",
    "model_promote": "model_promote.py",
    "model_reexport": "model_reexport.py",
    "registry_feed": "registry_feed.py",
    "registry_sinks": "registry_sinks.py",
    "rollout_approval": "rollout_approval.py",
}
NO_GPU: dict[str, str] = {}
GPU = {"AIRFLOW__ONNX_FLEET__GPU_QUEUE": "gpu", "AIRFLOW__ONNX_FLEET__CPU_QUEUE": "cpu"}
LARGE = {
    "AIRFLOW__ONNX_FLEET__LARGE_MEMORY_BYTES": "4000000000",
    "AIRFLOW__ONNX_FLEET__LARGE_QUEUE": "large",
    "AIRFLOW__ONNX_FLEET__LARGE_POOL_SLOTS": "2",
}


@pytest.fixture(scope="module")
def found(airflow_home: AirflowHome) -> dict[str, Any]:
    return airflow_home.python("fixtures.dag_facts", str(DAGS), options={"AIRFLOW__ONNX_FLEET__SHARDS": "2"})


@pytest.fixture(scope="module")
def with_gpu(airflow_home: AirflowHome) -> dict[str, Any]:
    return airflow_home.python(
        "fixtures.dag_facts", str(DAGS), options={**GPU, **LARGE, "AIRFLOW__ONNX_FLEET__SHARDS": "1"}
    )


def test_every_file_gives_one_dag_of_its_name(found: dict[str, Any]) -> None:
    assert found["errors"] == {}
    assert {dag_id: dag["file"] for dag_id, dag in found["dags"].items()} == FILES
    assert sorted(path.name for path in DAGS.glob("*.py")) == sorted(FILES.values())


def test_a_dag_says_what_to_do_when_it_fails(found: dict[str, Any]) -> None:
    assert {dag_id for dag_id, dag in found["dags"].items() if "When it fails" in dag["doc"]} == FILES.keys()


def test_every_param_has_a_type_and_a_description(found: dict[str, Any]) -> None:
    params = {(dag_id, name): schema for dag_id, dag in found["dags"].items() for name, schema in dag["params"].items()}
    assert len(params) == 46
    for name, schema in params.items():
        assert schema.get("type"), name
        assert schema.get("description", "").endswith("."), name


def test_what_does_nothing_by_itself_is_on_from_the_start_and_what_has_a_schedule_waits(found: dict[str, Any]) -> None:
    assert {dag_id: dag["paused"] for dag_id, dag in found["dags"].items()} == {
        "bundle_audit": None,
        "bundle_retention": False,
        "fleet_reexport": None,
        "hub_watch": None,
        "licence_approval": False,
        "model_promote": False,
        "model_reexport": False,
        "registry_feed": False,
        "registry_sinks": False,
        "rollout_approval": False,
    }


def test_tasks_have_buttons_to_what_the_store_has_of_them(found: dict[str, Any]) -> None:
    tasks = found["dags"]["model_reexport"]["tasks"]
    of_model = ["Manifest", "Report", "Validation"]
    assert {name.removeprefix("model_1."): task["links"] for name, task in tasks.items() if "model_2" not in name} == {
        "plan": [],
        "finished": [],
        "announce": [],
        "model_1_items": [],
        "export": ["Report"],
        "validate": ["Report"],
        "measure": ["Report"],
        "compare": ["Report"],
        "publish": of_model,
        "record": of_model,
        "report": ["Report"],
        "gate": ["Report"],
    }
    audit = found["dags"]["bundle_audit"]["tasks"]
    assert audit["report"]["links"] == audit["gate"]["links"] == ["Report"]
    promote = found["dags"]["model_promote"]["tasks"]
    assert {name: task["links"] for name, task in promote.items()} == {
        "describe": ["Report"],
        "ask": [],
        "promote": ["Report"],
    }


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("variants", ["fp32", "int8"], ["fp17"]),
        ("providers", ["cpu", "cuda"], ["gpu"]),
        ("latency", {"batch_sizes": [1], "threads": 2}, {"batch_size": [1]}),
        ("latency", {}, {"timed_runs": 1}),
    ],
)
def test_a_wrong_value_of_a_param_is_refused_where_it_is_given(
    found: dict[str, Any], name: str, right: object, wrong: object
) -> None:
    schema = found["dags"]["model_reexport"]["params"][name]
    held = jsonschema.Draft202012Validator(schema)
    assert held.is_valid(right)
    assert not held.is_valid(wrong)


def test_reading_dags_imports_nothing_heavy(found: dict[str, Any]) -> None:
    assert found["heavy"] == []


def test_heavy_tasks_wait_in_the_pool_and_light_ones_do_not(found: dict[str, Any]) -> None:
    tasks = found["dags"]["fleet_reexport"]["tasks"]
    pools = {name: task["pool"] for name, task in tasks.items() if name.startswith("model_1")}
    assert pools == {
        "model_1_items": "default_pool",
        "model_1.export": "onnx_fleet_cpu",
        "model_1.validate": "onnx_fleet_cpu",
        "model_1.measure": "onnx_fleet_cpu",
        "model_1.compare": "onnx_fleet_cpu",
        "model_1.publish": "onnx_fleet_cpu",
        "model_1.record": "default_pool",
    }


def test_audits_wait_in_the_pool_and_are_reported_however_they_ended(found: dict[str, Any]) -> None:
    tasks = found["dags"]["bundle_audit"]["tasks"]
    assert {name: task["pool"] for name, task in tasks.items() if task["pool"] != "default_pool"} == {
        "audit_1": "onnx_fleet_cpu",
        "audit_2": "onnx_fleet_cpu",
    }
    assert tasks["report"]["rule"] == "all_done"
    assert tasks["gate"]["after"] == ["choose", "report"], "where nothing could be chosen the run fails here"


def test_nothing_waits_for_a_gpu_queue_that_is_not_configured(found: dict[str, Any]) -> None:
    queues = {dag_id: {task["queue"] for task in dag["tasks"].values()} for dag_id, dag in found["dags"].items()}
    assert queues == {dag_id: {"default"} for dag_id in FILES}


def test_only_the_gpu_task_goes_to_the_gpu_queue(with_gpu: dict[str, Any]) -> None:
    tasks = with_gpu["dags"]["model_reexport"]["tasks"]
    assert [name for name, task in tasks.items() if task["queue"] == "gpu"] == [
        "model.prove_on_gpu",
        "model_large.prove_on_gpu",
    ]
    assert tasks["model.export"]["queue"] == "cpu"
    assert tasks["model.measure"]["after"] == ["model.prove_on_gpu", "model.validate", "model_items"]
    assert tasks["model.measure"]["rule"] == "none_failed"


def test_the_heavy_tasks_of_large_models_have_a_queue_and_slots_of_their_own(
    found: dict[str, Any], with_gpu: dict[str, Any]
) -> None:
    for dag_id in ("fleet_reexport", "model_reexport"):
        assert not [name for name in found["dags"][dag_id]["tasks"] if "large" in name], "nobody asked for the group"
        tasks = with_gpu["dags"][dag_id]["tasks"]
        heavy = {"export", "validate", "measure", "compare", "publish"}
        told = {name: (task["queue"], task["pool_slots"]) for name, task in tasks.items()}
        assert {name for name, (queue, _) in told.items() if queue == "large"} == {f"model_large.{s}" for s in heavy}
        assert {name for name, (_, slots) in told.items() if slots == 2} == {
            f"model_large.{step}" for step in (*heavy, "prove_on_gpu")
        }
        assert tasks["report"]["after"] == ["model.record", "model_large.record"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"AIRFLOW__ONNX_FLEET__LARGE_QUEUE": "large"},
            "large_queue is 'large', and nothing says which models go there: set large_memory_bytes",
        ),
        (
            {**LARGE, "AIRFLOW__ONNX_FLEET__LARGE_POOL_SLOTS": "3"},
            "large_pool_slots is 3, and the pool has 2: write 2 at most, or raise cpu_pool_slots",
        ),
    ],
    ids=["no threshold", "too many slots"],
)
def test_options_that_would_leave_large_models_waiting_for_ever_are_named(
    airflow_home: AirflowHome, options: dict[str, str], told: str
) -> None:
    read = airflow_home.python("fixtures.dag_facts", str(DAGS / "model_reexport.py"), options=options)
    assert told in read["errors"]["model_reexport.py"]


def test_fused_tasks_take_the_steps_of_a_worker_in_a_row(airflow_home: AirflowHome) -> None:
    options = {"AIRFLOW__ONNX_FLEET__SHARDS": "1", "AIRFLOW__ONNX_FLEET__TASKS": "fused"}

    def tasks_of_a_model(more: Mapping[str, str]) -> dict[str, Any]:
        found = airflow_home.python("fixtures.dag_facts", str(DAGS), options={**options, **more})
        tasks = found["dags"]["model_reexport"]["tasks"]
        return {name.removeprefix("model."): task for name, task in tasks.items() if name.startswith("model.")}

    assert list(tasks_of_a_model(NO_GPU)) == ["export_to_publish", "record"]
    tasks = tasks_of_a_model(GPU)
    queues = {name: task["queue"] for name, task in tasks.items()}
    assert queues == {
        "export_to_validate": "cpu",
        "asks_for_gpu": "default",
        "prove_on_gpu": "gpu",
        "measure_to_publish": "cpu",
        "record": "default",
    }
    assert tasks["measure_to_publish"]["rule"] == "none_failed"


def test_the_record_comes_however_the_model_ended(found: dict[str, Any]) -> None:
    tasks = found["dags"]["fleet_reexport"]["tasks"]
    assert tasks["model_2.record"]["rule"] == "all_done"
    assert tasks["report"]["rule"] == "all_done"
    assert tasks["gate"]["rule"] == "all_success"
    assert tasks["gate"]["after"] == ["plan", "report"], "where there is no plan the run fails here"


def test_the_example_consumer_is_a_dag(airflow_home: AirflowHome) -> None:
    found: dict[str, Any] = airflow_home.python(
        "fixtures.dag_facts", str(ROOT / "docs" / "examples" / "mirror_to_registry.py"), options={}
    )
    assert found["errors"] == {}
    assert list(found["dags"]) == ["mirror_to_registry"]
    assert "Partitioned" in found["dags"]["mirror_to_registry"]["schedule"]


def test_more_models_than_one_mapped_task_can_take_are_dealt_to_several_groups(airflow_home: AirflowHome) -> None:
    found: dict[str, Any] = airflow_home.python(
        "fixtures.dag_expansion", "1100", options={"AIRFLOW__ONNX_FLEET__SHARDS": "2"}
    )
    assert found["max_map_length"] == 1024
    assert {group: found["instances"][f"{group}.export"] for group in ("model_1", "model_2")} == {
        "model_1": 550,
        "model_2": 550,
    }
