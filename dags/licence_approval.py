"""
# Answer about licences

A run of this DAG asks a person about the models of a catalogue that wait for an answer about their licence: because
`licences_to_approve` of the catalogue says so, or because the licence has changed since the version in use. It asks
once for all of them (100 at most). `fleet_reexport` starts it when it has refused such models; it asks about the same
models and licences only once by itself, and you may trigger it at any time.

**Answer** in the tab *Required Actions* of the run, or by REST. The question has a row for each model: its licence, and
that of the version in use. *Approve*: a run of `fleet_reexport` exports the models. *Decline*: they stay refused. In
both cases the store keeps who answered, when and why, for each model and its licence; `only` restricts the answer to
some of them. *Leave open*, or no answer for two weeks: nothing is kept, and the models wait. The waiting question takes
no worker.

**When it fails**, open the run: the note below its name says why.

- `keep` failed: `only` names no model of the question, or the store cannot be written. Trigger the DAG again.
- `describe` failed: the catalogue has faults, or the Hub or the store cannot be read. Clear it when that is mended.

`onnx-fleet licence decline MODEL --licence X --why …` withdraws an approval.
"""

from __future__ import annotations

from airflow.sdk import dag

from onnx_fleet.airflow import alerts, licence_tasks, run_params, settings

SETTINGS = settings.read()


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,  # a second question would be about the same models
    is_paused_upon_creation=False,  # it does nothing until it is asked to
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={"catalogue": run_params.catalogue(SETTINGS.catalogue)},
)
def licence_approval() -> None:
    licence_tasks.approvals(settings=SETTINGS)


licence_approval()
