"""
# Re-export the fleet

This DAG takes every model of the catalogue, and exports, validates, measures and publishes those whose bundle would
differ from the published one. An unchanged model costs one call of the Hub and one of the store.

**Trigger it** with other parameters to take a part of the catalogue (`only`, `since`, `retry_failed`), to leave
unchanged models out of the report (`changed`), to publish everything again (`force`), or to allow some models to fail
(`max_failed`). A model that does not exist, is gated or cannot be read fails. A model that a rule of the catalogue
excludes (licence, size, pickle, code) is refused; any number may be refused, unless `max_refused` sets a limit. The DAG
`hub_watch` and the webhooks of the Hub trigger this one for models that have a new commit. A licence that a person
has to approve is refused, too, and a run of `licence_approval` asks about it.

**When it fails**, open the run: the note below its name has the models that failed and why, and its link opens the
report, which lists every model with the step that failed and what to do next. The tasks `report` and `gate` have a
button to it, too. Then

- if the fault is the model's (`ExportUnsupported`, `ValidationFailed`, `ModelNotFound`, …), change its entry in the
  catalogue; the next run uses it. `reports/<run>/<org>--<name>/validation.json` in the store has every comparison.
- if the Hub or the store was still failing after all retries (`HubUnavailable`, `StoreUnavailable`, …), clear the
  failed tasks of that model, with their downstream tasks; nothing else is repeated.
- if a model is held, its new version is worse than the one in use, and the channel was not moved. The report says
  what is worse; `onnx-fleet channel set` moves the channel nevertheless.
- if `plan` failed, the catalogue has faults, or the store or the Hub cannot be reached. Its log says which.

Models do not affect each other: those that pass are published, even if others fail.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, fleet_selection, rollout_tasks, run_params, settings
from onnx_fleet.airflow.reexport_tasks import reexport

SETTINGS = settings.read()


@dag(
    schedule=SETTINGS.schedule,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    **alerts.deadline(SETTINGS),
    params={
        "catalogue": run_params.catalogue(SETTINGS.catalogue),
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
            description="Publish a new version of every model, even if it has not changed.",
        ),
        "allow_unmatched": Param(
            False,
            type="boolean",
            title="Unmatched patterns allowed",
            description="Ignore a pattern that matches no model. Otherwise it fails the run before anything begins.",
        ),
        "since": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Since",
            description="Take only models whose Hub repo has had a commit since this day (UTC). Empty takes all.",
        ),
        "retry_failed": Param(
            None,
            type=["null", "string"],
            title="Retry failed models of",
            description="Take only models that failed or were held in this run. Give its id, such as"
            " scheduled__2026-01-31T00:00:00+00:00. Empty takes all.",
        ),
        "changed": Param(
            False,
            type="boolean",
            title="Only changed models",
            description="Leave unchanged models out of the run and its report.",
        ),
        "max_failed": Param(
            0,
            type="integer",
            minimum=0,
            title="Failures allowed",
            description="The run fails if more models than this fail or are held; 0 allows none.",
        ),
        "max_refused": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Refusals allowed",
            description="The run fails if the catalogue's rules refuse more models than this, such as 5. Empty allows"
            " any number.",
        ),
    },
)
def fleet_reexport() -> None:
    rollout_tasks.follow_up(reexport(fleet_selection.wanted, settings=SETTINGS), settings=SETTINGS)


fleet_reexport()
