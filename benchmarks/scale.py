"""What it takes to take many models through a run, beside the work on each: seconds, memory, database, bytes.

    python -m benchmarks.scale [--models 30] [cli local-staged local-fused celery-1-fused ...]

The DAG is the product's, its steps sleep: an export copies a stage that was really made, and compare, publish and
record do what they always do. So a run's time is Airflow's and ours.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import deployments, machine, options, results, scale_plot, sleeping_steps
from benchmarks.deployments import Deployment, Watch
from benchmarks.processes import bare_environment, measured
from benchmarks.results import ScaleResult, ScaleRun, Scan
from benchmarks.tables import megabytes, table
from onnx_fleet import jsonio
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.entities.entry import Entry, LatencyGrid
from onnx_fleet.processes.isolation import machine_limits
from onnx_fleet.runs import pipeline
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.steps import Job, steps_of
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import open_store
from onnx_fleet_demo import models
from onnx_fleet_demo.hub_server import HubServer

MODELS = 30
ROOT = Path(__file__).resolve().parents[1]
DAG_ID = "fleet_reexport"
CLI = "cli"
LIMIT_S = 5400.0

_ONE_POINT = LatencyGrid(batch_sizes=(1,), sequence_lengths=(16,), warmup_runs=1, timed_runs=3, threads=1)

_CATALOGUE = """\
defaults:
  latency: {{batch_sizes: [1], sequence_lengths: [16], warmup_runs: 1, timed_runs: 3}}
models:
{models}
"""


def have_repos(root: Path, count: int) -> list[str]:
    """Make a Hub of so many repos, which differ in name alone, and return their ids."""
    models.make_repos(root / "original", repo_ids=(models.CLASSIFIER,))
    names = [f"fleet/model-{number:05d}" for number in range(count)]
    for name in names:
        if not (root / "repos" / name).is_dir():
            shutil.copytree(root / "original" / models.CLASSIFIER, root / "repos" / name, copy_function=os.link)
    return names


def have_stage(folder: Path, *, hub_root: Path, repo_id: str) -> Path:
    """Export, validate and measure one of them, and return the stage that sleeping steps copy."""
    kept = folder / "stage"
    if kept.is_dir():
        return kept
    with HubServer(hub_root) as hub:
        (folder / "template").mkdir(parents=True, exist_ok=True)
        services = Services(
            store=open_store(str(folder / "template")),
            hub=Hub(HubSettings(endpoint=hub.url, cache_dir=folder / "template-hub")),
            work_dir=folder / "template-work",
            limits=machine_limits(),
        )
        [item] = pipeline.plan([Entry(repo_id=repo_id, latency=_ONE_POINT)], services=services).items
        provenance = Provenance(dag_id="benchmark", run_id="benchmark", trigger="manual", catalogue_digest=None)
        job = Job(stage=services.stage(item), services=services, provenance=provenance)
        for step in steps_of(item):
            if step.name in ("export", "validate", "measure"):
                step.take(job)
        shutil.copytree(job.stage.folder, kept)
    return kept


def scan(place: Path, *, count: int, say: Callable[[str], None] = print) -> Scan:
    """Plan a catalogue of so many models, twice."""
    names = have_repos(place / "hub", count)
    folder = place / "scan"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "store").mkdir(parents=True)
    catalogue = _catalogue(folder, names)
    command: list[str | Path] = [
        Path(sys.executable).with_name("onnx-fleet"),
        "plan",
        "--catalogue",
        catalogue,
        "--json",
    ]
    with HubServer(place / "hub" / "repos") as hub:
        environment = _environment(folder, hub=hub.url)
        costs = []
        for turn in ("first", "again"):
            costs.append(measured(command, environment=environment, log=folder / f"{turn}.log"))
            if turn == "first":
                requests = sum(hub.log.counts().values())
    say(f"{count} models are planned in {costs[0].wall_s:.1f} s, again in {costs[1].wall_s:.1f} s")
    return Scan(models=count, first=costs[0], again=costs[1], hub_requests=requests)


def _environment(folder: Path, *, hub: str) -> dict[str, str]:
    """The variables of a command that keeps everything in a folder."""
    return {
        **bare_environment(),
        "HF_ENDPOINT": hub,
        "HF_HOME": str(folder / "hub-cache"),
        "ONNX_FLEET_STORE": str(folder / "store"),
        "ONNX_FLEET_WORK_DIR": str(folder / "work"),
    }


def _catalogue(folder: Path, names: Sequence[str]) -> Path:
    path = folder / f"catalogue-{len(names)}.yaml"
    path.write_text(_CATALOGUE.format(models="\n".join(f"  - {name}" for name in names)))
    return path.absolute()


@contextmanager
def _deployed(scenario: str, folder: Path, *, hub_root: Path, settings: Mapping[str, str]) -> Iterator[Deployment]:
    executor, *workers, tasks = scenario.split("-")
    settings = {**settings, "AIRFLOW__ONNX_FLEET__TASKS": tasks}
    opened: AbstractContextManager[Deployment]
    if executor == "local":
        os.environ["ONNX_FLEET_VAR"] = str(folder.absolute())
        opened = deployments.local(folder, hub_root=hub_root, settings=settings)
    else:
        opened = deployments.celery(folder, hub_root=hub_root, workers=int(workers[0]), settings=settings)
    with opened as deployment:
        yield deployment


def measure(scenario: str, *, place: Path, count: int, step_s: float, say: Callable[[str], None] = print) -> ScaleRun:
    """Run a fleet of so many models once."""
    names = have_repos(place / "hub", count)
    stage = have_stage(place, hub_root=place / "hub" / "repos", repo_id=names[0])
    folder = place / "deployment"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    catalogue = _catalogue(place, names)
    sleeping = {
        "PYTHONPATH": str(ROOT),
        sleeping_steps.STAGE: str(stage.absolute()),
        sleeping_steps.SECONDS: str(step_s),
    }
    if scenario == CLI:
        return _by_command(folder, catalogue, hub_root=place / "hub" / "repos", settings=sleeping, count=count, say=say)
    settings = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "benchmarks" / "scale_dags"),
        "AIRFLOW__ONNX_FLEET__SHARDS": "1",
        "AIRFLOW__ONNX_FLEET__SCHEDULE": "",
        **sleeping,
    }
    began = time.monotonic()
    with _deployed(scenario, folder, hub_root=place / "hub" / "repos", settings=settings) as deployment:
        client = deployment.client
        while not client.has_dag(DAG_ID):
            time.sleep(0.5)
        client.unpause(DAG_ID)
        ready_s = time.monotonic() - began
        say(f"{scenario}: ready after {ready_s:.0f} s")
        before, watch = deployment.database(), Watch(deployment.services)
        run_id, started, plan_s = (
            client.trigger(DAG_ID, {"catalogue": str(catalogue)}),
            time.monotonic(),
            0.0,
        )
        while (state := client.run_state(DAG_ID, run_id)) not in ("success", "failed"):
            if not plan_s and any(task.map_index >= 0 for task in client.tasks(DAG_ID, run_id)):
                plan_s = time.monotonic() - started
            watch.look()
            time.sleep(1)
            if time.monotonic() - started > LIMIT_S:
                raise TimeoutError(f"{scenario}: the run goes on after {LIMIT_S:.0f} s")
        wall_s, cpu_s, after = time.monotonic() - started, watch.cpu_s(), deployment.database()
        report = jsonio.parse(RunReport, deployment.store.read(str(client.result(DAG_ID, run_id, "report"))))
        if state != "success" or report.counts["published"] != count:
            raise RuntimeError(f"{scenario}: the run ended as {state}: {report.counts}; logs are in {folder}")
        store_bytes = sum(info.size_bytes for info in deployment.store.list(""))
    say(f"{scenario}: {count} models in {wall_s:.0f} s, {wall_s / count:.2f} s each")
    return ScaleRun(
        scenario=scenario,
        models=count,
        step_s=step_s,
        ready_s=round(ready_s, 1),
        plan_s=round(plan_s, 1),
        wall_s=round(wall_s, 1),
        cpu_s=cpu_s,
        peak_bytes=watch.peak_bytes,
        database={name: after[name] - before[name] for name in after},
        store_bytes=store_bytes,
    )


def _by_command(
    folder: Path,
    catalogue: Path,
    *,
    hub_root: Path,
    settings: Mapping[str, str],
    count: int,
    say: Callable[[str], None],
) -> ScaleRun:
    """Run the fleet by ``onnx-fleet run``: one process, one model after the other, a store in a folder."""
    (folder / "store").mkdir()
    with HubServer(hub_root) as hub:
        environment = {**_environment(folder, hub=hub.url), **settings}
        command: list[str | Path] = [sys.executable, "-m", "benchmarks.sleeping_steps", "run", "--catalogue", catalogue]
        cost = measured(command, environment=environment, log=folder / "run.log")
    say(f"{CLI}: {count} models in {cost.wall_s:.0f} s, {cost.wall_s / count:.2f} s each")
    return ScaleRun(
        scenario=CLI,
        models=count,
        step_s=float(settings[sleeping_steps.SECONDS]),
        wall_s=round(cost.wall_s, 1),
        cpu_s={CLI: cost.cpu_s},
        peak_bytes={CLI: cost.peak_bytes},
        store_bytes=sum(info.size_bytes for info in open_store(str(folder / "store")).list("")),
    )


def report(result: ScaleResult) -> str:
    """A table of the runs, and one of the plans."""
    header = (
        "deployment and tasks",
        "models",
        "wall s a model",
        "CPU s a model",
        "scheduler",
        "api-server",
        "XCom bytes",
    )
    rows = []
    for run in result.runs:
        cpu_s = {name.removeprefix("airflow-").replace("api-server", "apiserver"): s for name, s in run.cpu_s.items()}
        figures = (run.wall_s, sum(cpu_s.values()), cpu_s.get("scheduler", 0.0), cpu_s.get("apiserver", 0.0))
        rows.append(
            (
                run.scenario,
                str(run.models),
                *(f"{seconds / run.models:.2f}" for seconds in figures),
                f"{run.database.get('xcom_bytes', 0.0) / run.models:.0f}",
            )
        )
    scans = [
        (
            f"{each.models:,}",
            f"{each.first.wall_s:.1f}",
            f"{each.again.wall_s:.1f}",
            f"{each.first.cpu_s / each.models * 1e3:.0f}",
            f"{each.hub_requests / each.models:.1f}",
            megabytes(each.first.peak_bytes),
        )
        for each in sorted(result.scans, key=lambda each: each.models)
    ]
    of_scans = ("models", "plan, s", "plan again, s", "CPU ms a model", "Hub requests a model", "peak MB")
    return "\n\n".join((table(header, rows), table(of_scans, scans)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result beside what was measured before."""
    parser = options.parser("scale", __doc__, names="scenarios")
    parser.add_argument("--models", type=int, default=MODELS, help=f"how many models (default {MODELS})")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each of three steps sleeps (default 0)")
    parser.add_argument("--scans", type=int, nargs="*", default=(), help="plan catalogues of so many models")
    parser.add_argument("--picture", type=Path, help="draw what is kept into this SVG file")
    chosen = parser.parse_args(arguments)
    place, kept = chosen.folder / "scale", chosen.folder / "results" / "scale.json"
    result = results.read(ScaleResult, kept) or ScaleResult(machine=machine.facts(peer_python=None))
    for count in chosen.scans:
        scans = [each for each in result.scans if each.models != count]
        result = replace(result, scans=(*scans, scan(place, count=count)))
        results.write(result, kept)
    for scenario in chosen.names:
        run = measure(scenario, place=place, count=chosen.models, step_s=chosen.seconds)
        runs = [each for each in result.runs if (each.scenario, each.models) != (scenario, chosen.models)]
        result = replace(result, runs=(*runs, run))
        results.write(result, kept)
    if chosen.picture:
        scale_plot.draw(result, chosen.picture)
    print(f"\n{report(result)}\n\nkept in {kept}")


if __name__ == "__main__":
    main()
