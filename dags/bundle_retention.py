"""
# Collect garbage

This DAG finds the versions of models that nothing keeps. A version stays while a channel points to it, while one did
within the last `history_days`, while it is among the newest `keep_last` of its model, younger than `grace_days`, or
signed. These numbers are the catalogue's `retention`, unless the run says otherwise. What killed writers and failed
runs have left, and old reports, go by their age.

**By default nothing is removed** (`dry_run`): the note and the report say what would be, and how many bytes that are.
Trigger it without `dry_run` to remove it. A version that goes leaves a tombstone under `deleted/`, with its manifest.
It runs by itself where the deployment sets `retention_schedule`, and removes something then where the deployment also
sets `retention_dry_run` to false.

**When it fails**, open the run: the note below its name says why, and the button *Report* has every version.

- `could not be removed`: the store refused it, by a policy or a legal hold. The version is gone for readers all the
  same, and the next run tries it again. Give the credentials `s3:DeleteObject`, or end the hold.
- `CatalogueInvalid`, `BundleCorrupt`: the message names the document that has to be mended first.
- Anything else, such as a worker that was lost: clear the task. It goes on where it was.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, retention_tasks, run_params, settings

SETTINGS = settings.read()


def limit(title: str, description: str) -> Param:
    """Return the field of a number that holds in the place of the catalogue's."""
    number: dict[str, Any] = {"type": ["null", "integer"], "minimum": 1}
    return Param(None, **number, title=title, description=f"{description} Empty takes what the catalogue says.")


@dag(
    schedule=SETTINGS.retention_schedule,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=None if SETTINGS.retention_schedule else False,  # without one it waits to be asked
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={
        "dry_run": Param(
            SETTINGS.retention_dry_run,
            type="boolean",
            title="Dry run",
            description="Say what would be removed, and remove nothing.",
        ),
        "only": Param(
            [],
            **run_params.ONLY,
            title="Only these models",
            description="Published models that match a pattern, such as BAAI/*, one on each line. Empty takes all.",
        ),
        "catalogue": run_params.catalogue(SETTINGS.catalogue),
        "keep_last": limit("Keep the last", "The number of the newest versions of each model to keep, such as 3."),
        "history_days": limit("History window", "Keep what a channel has left within this many days, such as 90."),
        "grace_days": limit("Grace period", "Keep what is younger than this many days, such as 14."),
    },
)
def bundle_retention() -> None:
    retention_tasks.collection(settings=SETTINGS)


bundle_retention()
