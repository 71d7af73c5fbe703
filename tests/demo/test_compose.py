"""docker-compose.yaml, Dockerfile and .env: valid, closed by default, and naming only what exists; no engine needed."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fixtures import fleet_options
from onnx_fleet import recipes
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes import isolation
from onnx_fleet_demo import compose_env
from onnx_fleet_demo.native_stack import compose_file

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?:(?P<operator>:\?|:-)(?P<word>[^}]*))?\}")
ASK_AIRFLOW = """
import inspect, json, sys
UNDOCUMENTED = ["num_stuck_in_queued_retries"]
from airflow.cli.cli_parser import get_parser
from airflow.configuration import conf
conf.load_providers_configuration()
accepted = []
for command in json.load(sys.stdin):
    get_parser().parse_args(command)
    accepted.append(command)
described = conf.configuration_description
options = {f"AIRFLOW__{section}__{option}".upper() for section in described for option in described[section]["options"]}
from airflow.jobs import scheduler_job_runner
from airflow.providers.celery.executors.celery_executor import app
seen = inspect.getsource(scheduler_job_runner)
options |= {f"AIRFLOW__SCHEDULER__{name}".upper() for name in UNDOCUMENTED if f'key="{name}"' in seen}
celery = {name: app.conf[name] for name in ("task_acks_late", "worker_prefetch_multiplier", "broker_transport_options")}
print(json.dumps({"accepted": accepted, "options": sorted(options), "celery": celery}))
"""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return compose_file.document(TEXT, compose_env.read(compose_env.fill(EXAMPLE)))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="module")
def airflow(services: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed Airflow says of the commands that the services run, and all of its options."""
    home = tmp_path_factory.mktemp("airflow")
    said = services["airflow-scheduler"]["environment"]
    needed = {name: said[name] for name in said if name.startswith(("AIRFLOW__CELERY", "AIRFLOW__CORE__AUTH_MANAGER"))}
    environment = {**needed, "AIRFLOW_HOME": str(home), "PATH": "/usr/bin:/bin", "HOME": str(home)}
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK_AIRFLOW],
        input=json.dumps(airflow_commands(services)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    answered: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return answered


def airflow_commands(services: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Every airflow command line: of services, of health checks, and inside airflow-init's script."""
    commands = [
        shlex.split(service["command"]) for service in services.values() if isinstance(service.get("command"), str)
    ]
    scripts = [service["healthcheck"]["test"][-1] for service in services.values() if "healthcheck" in service]
    scripts.append(services["airflow-init"]["command"][-1])
    for script in scripts:
        commands += [shlex.split(found) for found in re.findall(r"\bairflow ([a-z][^&|<>\n]*)", script)]
    return commands


def test_it_follows_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(compose)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate({"services": {"a": {"imag": "x"}}})


def test_the_official_services_and_ours_are_there(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {
        "postgres", "redis", "seaweedfs", "airflow-init", "airflow-apiserver", "airflow-scheduler",
        "airflow-dag-processor", "airflow-triggerer", "airflow-janitor", "airflow-worker-cpu", "airflow-worker-gpu",
    }  # fmt: skip


def test_nothing_starts_without_env_and_the_message_says_what_to_run() -> None:
    with pytest.raises(compose_file.ComposeFileInvalid, match="is not set, run make env"):
        compose_file.document(TEXT, {})


def test_every_secret_comes_from_env_and_has_no_default() -> None:
    bare = set(re.findall(r"^([A-Z0-9_]+)=$", EXAMPLE, flags=re.MULTILINE))
    required = {match["name"] for match in VARIABLE.finditer(TEXT) if match["operator"] == ":?"}
    elsewhere = {match["name"] for match in VARIABLE.finditer(TEXT) if match["operator"] != ":?"}
    assert bare == required
    assert len(bare) == 8
    assert not bare & elsewhere


def test_every_variable_is_in_the_example() -> None:
    named = set(re.findall(r"^#?([A-Z0-9_]+)=", EXAMPLE, flags=re.MULTILINE))
    used = {match["name"] for match in VARIABLE.finditer(TEXT)}
    assert named == used | {"COMPOSE_PROFILES"}


def test_ports_are_bound_to_loopback_alone(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not [name for name, service in services.items() if "network_mode" in service or service.get("privileged")]


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    images = {service["image"] for service in services.values()}
    assert not [image for image in images if not re.fullmatch(r"[a-z/-]+:\d+\.\d+(\.\d+)?(-bookworm)?", image)]


def test_airflow_knows_every_command(airflow: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    lines = [" ".join(command) for command in airflow["accepted"]]
    for command in ("api-server", "scheduler", "dag-processor", "triggerer", "db migrate"):
        assert command in lines
    assert any(line.startswith("users create --username admin --role Admin") for line in lines)
    assert "celery worker --queues default,cpu --concurrency 4" in lines
    assert "celery worker --queues gpu --concurrency 1" in lines


def test_a_task_is_with_one_worker_until_it_ends(airflow: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    """A new Celery may break the provider's executor while pip finds nothing wrong: 5.7.0 did."""
    celery = airflow["celery"]
    assert celery["task_acks_late"] is True, "a message that is confirmed at its start is lost with the worker"
    assert celery["worker_prefetch_multiplier"] == 1, "a worker that is busy leaves what waits to the others"
    longest_s = 10 * (isolation.machine_limits().timeout_s or 0)
    assert celery["broker_transport_options"]["visibility_timeout"] > longest_s > 0


def test_a_worker_gives_a_task_up_no_sooner_than_the_scheduler_does(services: dict[str, dict[str, Any]]) -> None:
    """A task of which the api-server hears nothing: both sides end it, and the scheduler has to be the first."""
    environment = services["airflow-worker-cpu"]["environment"]
    timeout_s = int(environment["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"])
    shortest_interval_s = 5  # [workers] min_heartbeat_interval
    assert int(environment["AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS"]) * shortest_interval_s >= timeout_s
    assert "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL" not in environment


def test_a_task_that_begins_or_ends_outlives_a_restart_of_the_api_server(services: dict[str, dict[str, Any]]) -> None:
    """It took 32 s on two busy cores, and a task that ended meanwhile failed with Airflow's own settings."""
    environment = services["airflow-worker-cpu"]["environment"]
    longest_pause_s = float(environment["AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX"])
    # The pauses are drawn between 1 s and twice the last one's limit, up to the longest.
    pauses_s = [(1 + min(2**number, longest_pause_s)) / 2 for number in range(40)]
    calls = int(environment["AIRFLOW__WORKERS__EXECUTION_API_RETRIES"])
    assert sum(pauses_s[: calls - 1]) > 120


def test_a_task_may_wait_for_a_worker_for_days(services: dict[str, dict[str, Any]]) -> None:
    """It is sent anew each time that it has waited too long, and fails when that was done too often."""
    environment = services["airflow-scheduler"]["environment"]
    waits = int(environment["AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES"])
    assert waits * int(environment["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"]) > 5 * 24 * 3600


def test_airflow_or_onnx_fleet_knows_every_option(airflow: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    ours = {f"AIRFLOW__ONNX_FLEET__{name.upper()}" for name in fleet_options.names()}
    used = {name for service in services.values() for name in service.get("environment", {}) if "__" in name}
    assert used - set(airflow["options"]) - ours == set()
    assert {"AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API__SECRET_KEY"} <= used


def test_queues_are_those_that_tasks_are_sent_to(services: dict[str, dict[str, Any]]) -> None:
    environment = services["airflow-scheduler"]["environment"]
    served = services["airflow-worker-cpu"]["command"].split()[3].split(",")
    assert served == ["default", environment["AIRFLOW__ONNX_FLEET__CPU_QUEUE"]]
    assert environment["AIRFLOW__ONNX_FLEET__GPU_QUEUE"] in (None, "")
    values = {**compose_env.read(compose_env.fill(EXAMPLE)), "GPU_QUEUE": "gpu"}
    with_gpu = compose_file.document(TEXT, values)["services"]
    assert with_gpu["airflow-scheduler"]["environment"]["AIRFLOW__ONNX_FLEET__GPU_QUEUE"] == "gpu"


def test_the_gpu_worker_is_asked_for_and_reserves_a_device(services: dict[str, dict[str, Any]]) -> None:
    worker = services["airflow-worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert worker["profiles"] == ["gpu"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert worker["build"]["args"]["REQUIREMENTS"] == "requirements-gpu.txt"
    assert worker["image"] != services["airflow-worker-cpu"]["image"]


def test_waiting_is_for_services_that_can_become_ready(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services, name
            assert not services[needed].get("profiles"), f"{name} waits for {needed}, which may not be started"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], f"{name} waits for {needed}"
            else:
                assert (how["condition"], needed) == ("service_completed_successfully", "airflow-init")
    without = {name for name, service in services.items() if "healthcheck" not in service}
    assert without == {"airflow-init"}


def test_mounts_name_declared_volumes_and_files_that_exist(compose: dict[str, Any]) -> None:
    used = set()
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                assert (ROOT / source).is_dir(), "editors replace files, which a mounted file does not follow"
                assert mode == ["ro"]
            else:
                used.add(source)
            assert target.startswith("/")
    assert used == set(compose["volumes"])


def test_workers_share_the_hubs_cache_and_no_stages(services: dict[str, dict[str, Any]]) -> None:
    for name in ("airflow-worker-cpu", "airflow-worker-gpu"):
        environment, volumes = services[name]["environment"], services[name]["volumes"]
        assert "AIRFLOW__ONNX_FLEET__STAGES" not in environment, "they go through the store with this executor"
        assert not [volume for volume in volumes if volume.endswith(environment["AIRFLOW__ONNX_FLEET__SCRATCH"])]
        assert f"hub-cache:{environment['HF_HOME']}" in volumes


def test_tasks_reach_the_s3_server_with_its_own_keys(services: dict[str, dict[str, Any]]) -> None:
    environment, server = services["airflow-worker-cpu"]["environment"], services["seaweedfs"]["environment"]
    connection_id = environment["AIRFLOW__ONNX_FLEET__AWS_CONN_ID"]
    connection = json.loads(environment[f"AIRFLOW_CONN_{connection_id.upper()}"])
    assert (connection["conn_type"], connection["extra"]["endpoint_url"]) == ("aws", "http://seaweedfs:8333")
    assert connection["login"] == server["AWS_ACCESS_KEY_ID"] != ""
    assert connection["password"] == server["AWS_SECRET_ACCESS_KEY"] != ""
    assert environment["AIRFLOW__ONNX_FLEET__STORE"] == f"s3://{server['S3_BUCKET']}/fleet"


def test_the_first_run_makes_the_admin_and_shows_the_password_to_nobody(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Its script with a program in airflow's place that says how it was called, and what it could read."""
    init = services["airflow-init"]
    fake = tmp_path / "airflow"
    fake.write_text('#!/bin/bash\necho "airflow $*"; [ "$1" = users ] && cat\nexit 0\n')
    fake.chmod(0o755)
    done = subprocess.run(
        init["command"],
        env={"ADMIN_PASSWORD": "open sesame", "PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    migrated, created, *typed = done.stdout.splitlines()
    assert migrated == "airflow db migrate"
    assert created.startswith("airflow users create --username admin --role Admin")
    assert "sesame" not in created
    assert typed == ["open sesame"] * 2
    assert init["environment"]["AIRFLOW__CORE__AUTH_MANAGER"].endswith(".FabAuthManager")


def test_the_image_is_built_from_what_exists_and_from_the_airflow_that_is_pinned() -> None:
    pinned = re.search(r"^apache-airflow==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert re.search(rf"^FROM apache/airflow:slim-{re.escape(pinned[1])}-python3\.11$", DOCKERFILE, flags=re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    sources = [source for source, _ in copied()]
    assert {source for source in sources if not source.startswith("include/")} == set(let_in)
    made_by_others = {"README.md", "LICENSE"}
    assert [source for source in sources if not (ROOT / source).exists() and source not in made_by_others] == []


def copied() -> list[tuple[str, str]]:
    """Source and destination of everything that the Dockerfile copies."""
    lines = [line.split() for line in re.findall(r"^COPY (?:--\S+ )?(.+)$", DOCKERFILE, flags=re.MULTILINE)]
    return [(source, destination) for *sources, destination in lines for source in sources]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the Dockerfile makes, without what pip installs from the registry."""
    root = tmp_path_factory.mktemp("image")
    ignored = shutil.ignore_patterns("onnx_fleet_demo", "catalogue.demo.yaml", "__pycache__")
    for source, destination in copied():
        target = root / destination.strip("/")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=ignored, dirs_exist_ok=True)
        elif (ROOT / source).exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target)
    folders, links = re.findall(r"^RUN mkdir -p (.+?)(?: && ln -s (.+))?$", DOCKERFILE, flags=re.MULTILINE), []
    for made, linked in folders:
        for folder in made.split():
            (root / folder.strip("/")).mkdir(parents=True, exist_ok=True)
        links += [linked.split()] if linked else []
    for *sources, folder in links:
        for source in sources:
            (root / folder.strip("/") / Path(source).name).symlink_to(source)
    return root


def test_the_image_has_what_the_code_opens(
    image: Path, services: dict[str, dict[str, Any]], compose: dict[str, Any]
) -> None:
    (mounted,) = {
        volume.split(":")[1]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    }
    assert (image / mounted.strip("/") / "recipes").is_dir(), "the mount covers what the image has in the same place"
    (path,) = re.findall(r"^ENV PYTHONPATH=(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    catalogue = services["airflow-scheduler"]["environment"]["AIRFLOW__ONNX_FLEET__CATALOGUE"]
    (image / mounted.strip("/") / "corpora").mkdir()
    (image / mounted.strip("/") / "corpora" / "reviews.txt").write_text("a cat\na dog\n")
    asked = """
import json, sys
sys.path[:] = [sys.argv[1], sys.argv[2], *(place for place in sys.path if not place.endswith("/include"))]
import onnx_fleet
from onnx_fleet import recipes
from onnx_fleet.planning.calibration import source
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes import isolation
print(json.dumps([onnx_fleet.__file__, recipes.names_of_files(), source.digest("corpora/reviews.txt"),
                  len(reader.load(__import__("pathlib").Path(sys.argv[3])).entries)]))
"""
    places = [str(image / place.strip("/")) for place in (path, "/tmp/onnx-fleet/include", catalogue)]
    done = subprocess.run([sys.executable, "-c", asked, *places], capture_output=True, text=True, check=True)
    where, names, digest, models = json.loads(done.stdout)
    assert where.startswith(str(image / "tmp")), "the library is the installed one, and not the one beside the recipes"
    assert set(names) == set(recipes.names_of_files())
    assert digest is not None
    assert models == len(reader.load(ROOT / "include" / "catalogue.yaml").entries)


def test_containers_of_one_host_share_the_folder_of_the_measuring_lock(services: dict[str, dict[str, Any]]) -> None:
    for name in ("airflow-worker-cpu", "airflow-worker-gpu"):
        folder = services[name]["environment"]["AIRFLOW__ONNX_FLEET__LOCK_FOLDER"]
        assert f"machine-lock:{folder}" in services[name]["volumes"]


def test_the_janitor_removes_old_logs_and_keeps_the_others(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    script = services["airflow-janitor"]["command"][-1].replace("/opt/airflow/logs", str(tmp_path)).replace("$$", "$")
    old, new = tmp_path / "dag" / "old.log", tmp_path / "dag" / "new.log"
    for file in (old, new):
        file.parent.mkdir(exist_ok=True)
        file.write_text("said")
    os.utime(old, (0, 0))
    once = script.replace("sleep 1d; done", "break; done").replace("hf cache prune --yes", "true")
    subprocess.run(["bash", "-c", once], env={"LOG_DAYS": "30", "PATH": os.environ["PATH"]}, check=True)
    assert [path.name for path in tmp_path.rglob("*.log")] == ["new.log"]
    hf = Path(sys.executable).with_name("hf")
    assert (
        "--yes" in subprocess.run([hf, "cache", "prune", "--help"], capture_output=True, text=True, check=True).stdout
    )


def test_make_env_needs_nothing_installed(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    command = [sys.executable, "-S", "-m", "onnx_fleet_demo.compose_env", str(tmp_path)]
    environment = {"PYTHONPATH": str(ROOT / "include"), "PATH": "/usr/bin:/bin"}
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert "export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$S3_PORT" in said
    make = ["make", "--no-print-directory", "--dry-run", "env"]  # without what a make that runs the tests hands on
    recipe = subprocess.run(
        make, cwd=ROOT, env={"PATH": os.environ["PATH"]}, check=True, capture_output=True, text=True
    ).stdout
    assert recipe.split() == ["PYTHONPATH=include", "python3", "-m", "onnx_fleet_demo.compose_env"]


def test_make_env_gives_every_secret_a_value_of_its_own(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    added = compose_env.write(tmp_path)
    made = compose_env.read((tmp_path / ".env").read_text())
    secrets = [made[name] for name, value in compose_env.read(EXAMPLE).items() if not value]
    assert set(added) == set(made) == set(compose_env.read(EXAMPLE))
    assert len(set(secrets)) == len(secrets) == 8
    assert min(map(len, secrets)) >= 32
    assert len(base64.urlsafe_b64decode(made["AIRFLOW_FERNET_KEY"])) == 32
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env", ".env.example"]


def test_make_env_changes_no_value_that_is_there(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    mine = "POSTGRES_PASSWORD=mine\nexport REDIS_PASSWORD=mine-too\n"
    (tmp_path / ".env").write_text(mine)
    added = compose_env.write(tmp_path)
    text = (tmp_path / ".env").read_text()
    assert text.startswith(mine)
    assert "POSTGRES_PASSWORD" not in added
    assert text.count("POSTGRES_PASSWORD") == text.count("REDIS_PASSWORD") == 1
    assert compose_env.write(tmp_path) == ()
    assert (tmp_path / ".env").read_text() == text


def test_make_env_says_what_it_did_and_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    command = [sys.executable, "-m", "onnx_fleet_demo.compose_env", str(tmp_path)]
    first = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    made = compose_env.read((tmp_path / ".env").read_text())
    assert "AIRFLOW_FERNET_KEY" in first
    assert "docker compose up --build --detach" in first
    assert "docker compose exec airflow-scheduler airflow dags unpause fleet_reexport" in first
    assert "nothing was changed" in again
    assert not [name for name, value in made.items() if len(value) > 20 and value in first + again]
