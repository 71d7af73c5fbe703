"""
# Re-export one model

This DAG exports, validates, measures and publishes one model, whether or not the catalogue lists it. Trigger it from
the form, or by REST with the same parameters as `conf`:

    POST /api/v2/dags/model_reexport/dagRuns
    {"logical_date": null, "conf": {"model": "BAAI/bge-small-en-v1.5", "force": true}}

A model whose bundle is already published is not exported again, unless `force` asks for a new version.

**When it fails**, open the run: the note below its name has the model, the step that failed or refused it, and why.
The model's name in it opens the report, which says what to do next. The tasks of the model have buttons to the
report, the manifest of what was published, and the picture of the validation.

If the Hub or the store was still failing after all retries, clear the failed task with its downstream tasks.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, run_params, settings
from onnx_fleet.airflow.reexport_tasks import reexport
from onnx_fleet.airflow.run_context import Run
from onnx_fleet.entities.entry import OPSET_DEFAULT
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.planning.catalogue import reader, schema
from onnx_fleet.recipes import RECIPES, names_of_files
from onnx_fleet.runs.selection import Wanted

SETTINGS = settings.read()


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,  # it does nothing until it is asked to
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={
        "model": Param(
            type="string",
            minLength=1,
            title="Model",
            examples=["BAAI/bge-small-en-v1.5"],
            description="The Hub's id, org/name, such as BAAI/bge-small-en-v1.5.",
        ),
        "revision": Param(
            "main", type="string", minLength=1, title="Revision", description="A branch, a tag or a commit SHA."
        ),
        "task": Param(
            None,
            **run_params.choice(TASKS, empty="as the Hub says"),
            title="Task",
            description="The task to export for. Empty uses the Hub's pipeline tag, then the architecture.",
        ),
        "recipe": Param(
            None,
            **run_params.choice([*RECIPES, *names_of_files()], empty="none"),
            title="Recipe",
            description="A change to the export: a built-in recipe, or one of recipes/. Empty changes nothing.",
        ),
        "variants": Param(
            ["fp32"],
            **run_params.VARIANTS,
            title="Precisions",
            description="The precisions to make. One that misses its gates is left out of the bundle, which says so.",
        ),
        "opset": Param(
            OPSET_DEFAULT,
            title="Opset",
            type="integer",
            minimum=schema.OPSET_MIN,
            maximum=schema.OPSET_MAX,
            description="The ONNX operator set of the graphs.",
        ),
        "providers": Param(
            ["cpu"],
            **run_params.PROVIDERS,
            title="Providers",
            description="Where the model is validated and measured; cuda needs a worker on the GPU queue.",
        ),
        "latency": Param(
            {},
            **{
                **run_params.LATENCY,
                "title": "Latency",
                "description": 'The points to measure, such as {"batch_sizes": [1, 8], "sequence_lengths": [128]}; what'
                " is left out is as in a catalogue. Empty leaves out all.",
            },
        ),
        "force": Param(
            False, type="boolean", title="Force", description="Publish a new version, even if nothing has changed."
        ),
    },
)
def model_reexport() -> None:
    def wanted(run: Run) -> Wanted:
        named = ("revision", "task", "recipe", "variants", "opset", "providers", "latency")
        given = {name: run.params[name] for name in named}
        values = {**given, "repo_id": run.params["model"], "latency": given["latency"] or {}}
        return Wanted(entries=(reader.entry(values, source="the run's parameters"),))

    reexport(wanted, settings=SETTINGS, max_refused=0)


model_reexport()
