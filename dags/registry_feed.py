"""
# Rebuild the feed

After publications, this DAG writes the feed again from the manifests and channels in the store: `feed/index.json` and
the shards that it names, from which a model registry mirrors the fleet. Only what has changed is read and written. It
also tells the events of channels that have moved (`onnx-fleet feed tail`). Several publications that come close
together share a run, and a run that finds nothing new does not change the feed.

**When it fails**, the store could not be read or written; the log says why. Nothing is lost: the next publication
rebuilds the whole feed, and so does a run that is triggered by hand. It takes no parameters.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import dag, task

from onnx_fleet.airflow import alerts, assets, connections, retries, run_notes, run_params, settings
from onnx_fleet.bundles import feed

SETTINGS = settings.read()


@dag(
    schedule=[assets.FLEET],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # it runs after publications alone, and the feed would fall behind them
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
)
def registry_feed() -> None:
    @task(**retries.options(SETTINGS))
    def rebuild() -> dict[str, int]:
        with run_notes.of_failure():
            run_params.require_known()
            made = feed.rebuild(connections.store(SETTINGS), now=datetime.now(UTC))
        return {"models": made.models, "versions": made.versions}

    rebuild()


registry_feed()
