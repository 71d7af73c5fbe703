"""
# Notice new commits

Asks the Hub what has changed for the models of the catalogue since the last poll: new commits, new matches of its
searches, and repos that were deleted, renamed, gated or have another licence. For those that are to be exported it
starts one run of `fleet_reexport` that takes them alone, with their entries' own settings; a commit that is published
already, by whichever run, starts none. What a run would only fail or refuse is reported, and starts nothing.

A poll takes one request for each author with several models in the catalogue, one for each other model and one for each
search, at most `[onnx_fleet] watch_requests`; the next poll goes on with the rest. What has not changed is not sent
again. The state of it is `watch/state.json` in the store: without it the next poll finds out from the store what is
published. `fleet_reexport` has to be switched on too: a run of a DAG that is paused waits.

**Trigger it** to look now, or with `dry_run` to see what has changed and start nothing.

**What it finds** is in the note below the run's name and in the result of its task `note`. Where there is something
new, the note's link, and the button of the task `poll`, lead to the report:

- `gone`: deleted, made private, or without the revision that the entry names. What is published stays; take the entry
  out, or correct it.
- `refused`: its licence, its gate or its new id keep it out. The message says what to do; as soon as the cause is
  gone, the next poll starts the run.
- `started`: the run of `fleet_reexport` whose name begins with `watch__` has it.
- `noted`: something changed, and there is nothing to do.

**When it fails**, nothing is lost: the next poll finds the same. The note of the run says why: the Hub or the store
cannot be reached, the token is refused, or the catalogue has faults. A Hub that limits the rate is waited for.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import settings
from onnx_fleet.airflow.watch_tasks import watches

SETTINGS = settings.read()


@dag(
    schedule=SETTINGS.watch_schedule,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["onnx-fleet"],
    params={
        "catalogue": Param(
            str(SETTINGS.catalogue),
            type="string",
            minLength=1,
            title="Catalogue",
            description="The catalogue file, as workers see it.",
        ),
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Say what has changed, and start nothing."
        ),
    },
)
def hub_watch() -> None:
    watches(settings=SETTINGS)


hub_watch()
