"""
# Re-export the fleet

Takes every model of the catalogue, and exports, proves, measures and publishes those whose bundle would differ from
the published one. A model that is unchanged costs one call of the Hub and one of the store.

**Trigger it** with other parameters to take part of the catalogue (`only`, `since`, `retry_failed`), to leave what is
unchanged out of the report (`changed`), to publish everything anew (`force`), or to let some models fail
(`max_failed`). A model that does not exist, is gated or cannot be read fails. What a rule of the catalogue keeps out
(licence, size, pickle, code) is refused, and any number may be, unless `max_refused` says otherwise. The DAG
`hub_watch` triggers it for models that have a new commit.

**When it fails**, open the run: the note below its name has the models that failed and why, and its link opens the
report, which lists every model with the step that failed and what to do next. The tasks `report` and `gate` have a
button to it, too. Then

- a model's fault (`ExportUnsupported`, `ValidationFailed`, `ModelNotFound`, …): change its entry in the catalogue;
  the next run takes it up. `reports/<run>/<org>--<name>/validation.json` in the store has every comparison.
- a passing fault (`HubUnavailable`, `StoreUnavailable`, …) that outlasted its retries: clear the failed tasks of that
  model, with their downstream tasks; nothing else is repeated.
- a model is held: its new version is worse than the one in use, and the channel stays where it was. The report says in
  what; `onnx-fleet channel set` moves the channel all the same.
- `plan` failed: the catalogue has faults, or the store or the Hub cannot be reached; its log says which.

Models never touch each other: those that are right are published, whatever becomes of the others.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import fleet_selection, run_params, settings
from onnx_fleet.airflow.reexport_tasks import reexport

SETTINGS = settings.read()


@dag(
    schedule=SETTINGS.schedule,
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
        "only": Param(
            [],
            **run_params.ONLY,
            title="Only these models",
            description="Repo ids such as BAAI/bge-small-en-v1.5, or patterns such as BAAI/*, one on each line. Empty"
            " takes all.",
        ),
        "force": Param(
            False,
            type="boolean",
            title="Force",
            description="Publish a new version of every model that is taken, changed or not.",
        ),
        "allow_unmatched": Param(
            False,
            type="boolean",
            title="Unmatched patterns allowed",
            description="Let a pattern that matches no model be; else it fails the run before anything is begun.",
        ),
        "since": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Since",
            description="Take models alone whose Hub repo has had a commit since this day (UTC). Empty takes all.",
        ),
        "retry_failed": Param(
            None,
            type=["null", "string"],
            title="Retry what failed in",
            description="Take models alone that failed or were held in this run: its id, such as"
            " scheduled__2026-01-31T00:00:00+00:00. Empty takes all.",
        ),
        "changed": Param(
            False,
            type="boolean",
            title="Changed models alone",
            description="Leave models that are unchanged out of the run and its report.",
        ),
        "max_failed": Param(
            0,
            type="integer",
            minimum=0,
            title="Failures allowed",
            description="The run fails when more models than this fail or are held, 0 means none may.",
        ),
        "max_refused": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Refusals allowed",
            description="The run fails when the catalogue's rules refuse more models than this, such as 5. Empty allows"
            " any number.",
        ),
    },
)
def fleet_reexport() -> None:
    reexport(fleet_selection.wanted, settings=SETTINGS)


fleet_reexport()
