"""
# Notice new commits

This DAG asks the Hub what has changed for the models of the catalogue since the last poll: new commits, new matches of
its searches, and repos that were deleted, renamed, gated or have another licence. It starts one run of `fleet_reexport`
for the models that have to be exported, with the settings of their entries. A commit that is already published, by any
run, starts none. A webhook of the Hub starts such a run sooner, and may be missed. A change with which a run would only
fail or be refused is reported, and starts nothing.

A poll makes one request for each author with several models in the catalogue, one for each other model and one for
each search, at most `[onnx_fleet] watch_requests`; the next poll continues with the rest. Unchanged answers are not
sent again. The state is in `watch/state.json` in the store; without it, the next poll finds out from the store what
is published. `fleet_reexport` has to be unpaused too, because a run of a paused DAG waits.

**Trigger it** to poll now, or with `dry_run` to see what has changed and start nothing.

**What it finds** is in the note below the run's name and in the result of its task `note`. If there is something new,
the link of the note, and the button of the task `poll`, lead to the report:

- `gone`: the repo was deleted, made private, or lacks the revision that the entry names. Published bundles stay.
  Remove the entry, or correct it.
- `refused`: its licence, its gate or its new id excludes it. The message says what to do; when the cause is removed,
  the next poll starts the run.
- `started`: the run of `fleet_reexport` whose name begins with `watch__` exports it.
- `noted`: something has changed, and nothing has to be done.

**When it fails**, nothing is lost: the next poll finds the same changes. The note of the run says why: the Hub or the
store cannot be reached, the token is refused, or the catalogue has faults. If the Hub limits the rate, the poll waits.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, run_params, settings
from onnx_fleet.airflow.watch_tasks import watches

SETTINGS = settings.read()


@dag(
    schedule=SETTINGS.watch_schedule,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={
        "catalogue": run_params.catalogue(SETTINGS.catalogue),
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Report what has changed, and start nothing."
        ),
    },
)
def hub_watch() -> None:
    watches(settings=SETTINGS)


hub_watch()
