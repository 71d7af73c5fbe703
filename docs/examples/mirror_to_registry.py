"""
# Mirror publications to a registry

An example of a consumer: one run for each bundle that onnx-fleet publishes, which copies that bundle, verified, to the
folder where a model registry looks for new versions. Put the file beside onnx-fleet's DAGs, and replace the copy with
what your registry asks for.

Trigger it by hand with `model_id` to mirror one model again.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import Param, PartitionedAssetTimetable, dag, get_current_context, task

from onnx_fleet.airflow import assets, connections, retries, settings
from onnx_fleet.bundles import bundle, pull

SETTINGS = settings.read()


@dag(
    schedule=PartitionedAssetTimetable(assets=assets.BUNDLE),
    catchup=False,
    doc_md=__doc__,
    tags=["onnx-fleet", "example"],
    params={
        "model_id": Param(None, type=["null", "string"], description="Of a run by hand: org/name."),
        "registry": Param("/srv/model-registry", type="string", description="The folder to copy bundles to."),
    },
)
def mirror_to_registry() -> None:
    @task(**retries.options(SETTINGS))
    def mirror() -> str:
        context = get_current_context()
        model_id = context["dag_run"].partition_key or context["params"]["model_id"]
        registry = Path(context["params"]["registry"], *model_id.split("/"))
        store = connections.store(SETTINGS)
        version = bundle.find(model_id, store=store).manifest.bundle.version
        pull.pull(f"{model_id}@{version}", store=store, to=registry / version)
        return f"{registry / version}"

    mirror()


mirror_to_registry()
