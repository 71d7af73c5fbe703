"""
# Let a rollout go on

A run of this DAG asks a person whether a rollout goes on that has stopped. `fleet_reexport` starts it when a wave was
not good. The text of the question says what broke, on which architectures, and which packages changed; the page of
the wave in the store says the same.

**Answer** in the tab *Required Actions* of the run, or by REST. *Approve*: the channels that went back point at the new
versions again, and a run of `fleet_reexport` takes the next wave. Write down why. *Reject*, or no answer for two weeks:
the rollout stays where it is, and its models wait. You may trigger this DAG again with the id of the rollout, or use
`onnx-fleet rollout continue`. A new version of a package, or another change of the defaults, ends the rollout, and
begins a new one. The waiting question takes no worker.

**When it fails**, the store cannot be read or written; the note of the run says why. Clear the failed task.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, rollout_tasks, run_params, settings

SETTINGS = settings.read()


@dag(
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,  # it does nothing until it is asked to
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={
        "rollout": Param(
            type="string",
            minLength=1,
            title="Rollout",
            description="The id of a rollout that has stopped, as `onnx-fleet rollout list` shows it.",
        ),
        "catalogue": run_params.catalogue(SETTINGS.catalogue),
    },
)
def rollout_approval() -> None:
    rollout_tasks.approvals(settings=SETTINGS)


rollout_approval()
