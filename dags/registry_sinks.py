"""
# Bring what happens to registries

This DAG delivers the events of the feed to the registries that the file `[onnx_fleet] sinks` lists: MLflow, an OCI
registry, the Hugging Face Hub, webhooks, and sinks of the fleet's own. It runs after publications and at
`[onnx_fleet] sinks_schedule`, because promotions, rollbacks and deletions are no publications. Each sink has a task of
its own and goes on where it stopped; a run that finds nothing new delivers nothing. Without a file of sinks it has no
schedule.

**Trigger it** with `names` for some of the sinks. With `replay_since`, what happened since that time is delivered
again, such as to a registry that was restored from an older copy. What a registry has already stays as it is.

**When it fails**, the tasks `deliver` that are red bear the names of their sinks, and the log of each says why. The
other sinks have got everything. Nothing is lost: the next run goes on at the same event.

- `SinkUnavailable`: the registry does not answer. The task is tried again, and so is the next run.
- `SinkDenied`: the registry refuses the secret, or there is no connection of its name. Correct it, and clear the task.
- `choose` failed: the file of sinks has faults, or the parameters name no sink. Its log names each fault.

`onnx-fleet sinks status` says how far each sink is, and lists the events that a registry did not take.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, run_params, settings, sink_tasks

SETTINGS = settings.read()


@dag(
    schedule=sink_tasks.schedule(SETTINGS),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # it does nothing until there is a file of sinks
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={
        "names": Param(
            [],
            **run_params.ONLY,
            title="Only these sinks",
            description="Names of sinks in the file, one on each line. Empty takes all.",
        ),
        "replay_since": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Replay since",
            description="Deliver again what happened since this time, such as 2026-11-01T00:00:00+00:00. Empty goes on"
            " where each sink stopped.",
        ),
    },
)
def registry_sinks() -> None:
    sink_tasks.delivers(settings=SETTINGS)


registry_sinks()
