"""
# Re-export one model

Exports, proves, measures and publishes one model, whether or not the catalogue has it. Trigger it from the form, or
by REST with the same parameters as `conf`:

    POST /api/v2/dags/model_reexport/dagRuns
    {"logical_date": null, "conf": {"model": "BAAI/bge-small-en-v1.5", "force": true}}

A model whose bundle is published already is left as it is, unless `force` asks for a new version.

**When it fails**, open the log of `report`: it says which step failed or refused the model, why, and what to do next.
A passing fault (the Hub or the store did not answer) that outlasted its retries: clear the failed task with its
downstream tasks.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import run_params, settings
from onnx_fleet.airflow.reexport_tasks import Wanted, reexport
from onnx_fleet.airflow.run_context import Run
from onnx_fleet.entities.entry import OPSET_DEFAULT
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.planning.catalogue import reader, schema
from onnx_fleet.recipes import RECIPES, names_of_files

SETTINGS = settings.read()


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=4,
    doc_md=__doc__,
    tags=["onnx-fleet"],
    params={
        "model": Param(
            type="string",
            minLength=1,
            title="Model",
            description="The Hub's id, org/name, such as BAAI/bge-small-en-v1.5.",
        ),
        "revision": Param(
            "main", type="string", minLength=1, title="Revision", description="A branch, a tag or a commit SHA."
        ),
        "task": Param(
            None,
            title="Task",
            type=["null", "string"],
            enum=[None, *TASKS],
            description="What it is exported for. Empty takes the Hub's pipeline tag, then the architecture.",
        ),
        "recipe": Param(
            None,
            title="Recipe",
            type=["null", "string"],
            enum=[None, *RECIPES, *names_of_files()],
            description="What changes the export: a built-in recipe, or one of recipes/. Empty leaves it as it is.",
        ),
        "variants": Param(
            ["fp32"],
            **run_params.VARIANTS,
            title="Precisions",
            description="What to make; one that is not good enough is left out of the bundle, which says so.",
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
            description="Where to validate and measure; cuda needs a worker on the GPU queue.",
        ),
        "latency": Param(
            {},
            **{
                **run_params.LATENCY,
                "title": "Latency",
                "description": 'The points to measure, such as {"batch_sizes": [1, 8], "sequence_lengths": [128]}; what'
                " is left out is as in a catalogue.",
            },
        ),
        "force": Param(False, type="boolean", title="Force", description="Publish a new version, changed or not."),
    },
)
def model_reexport() -> None:
    def wanted(run: Run) -> Wanted:
        named = ("revision", "task", "recipe", "variants", "opset", "providers", "latency")
        values = {"repo_id": run.params["model"], **{name: run.params[name] for name in named}}
        return Wanted(entries=(reader.entry(values, source="the run's parameters"),))

    reexport(wanted, settings=SETTINGS, max_refused=0)


model_reexport()
