"""
# Rebuild the feed

After publications, writes `feed/index.json` anew from the manifests in the store: the one document from which a model
registry mirrors the fleet. Several publications that come close together share a run, and a run that finds nothing new
leaves the document as it is.

**When it fails**, the store could not be read or written; the log says why. The next publication rebuilds the feed
as a whole, and so does a run that is triggered by hand: nothing is lost. It takes no parameters.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import dag, task

from onnx_fleet.airflow import assets, connections, retries, run_notes, run_params, settings
from onnx_fleet.bundles import feed

SETTINGS = settings.read()


@dag(
    schedule=[assets.FLEET],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # it runs after publications alone, and the feed would fall behind them
    doc_md=__doc__,
    tags=["onnx-fleet"],
)
def registry_feed() -> None:
    @task(**retries.options(SETTINGS))
    def rebuild() -> dict[str, int]:
        with run_notes.of_failure():
            run_params.require_known()
            made = feed.rebuild(connections.store(SETTINGS), now=datetime.now(UTC))
        return {"models": len(made.models), "versions": sum(len(model.versions) for model in made.models)}

    rebuild()


registry_feed()
