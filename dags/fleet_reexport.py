"""
# Re-export the fleet

Takes every model of the catalogue, and exports, proves, measures and publishes those whose bundle would differ from
the published one. A model that is unchanged costs one call of the Hub and one of the store.

**Trigger it** with other parameters to take part of the catalogue (`only`), to publish everything anew (`force`), or
to let some models fail (`max_failed`). A model that does not exist, is gated or cannot be read fails. What a rule of
the catalogue keeps out (licence, size, pickle, code) is refused, and any number may be, unless `max_refused` says
otherwise.

**When it fails**, open the log of `report`: it lists every model with the step that failed and what to do next. Then

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

from pathlib import Path

from airflow.sdk import Param, dag

from onnx_fleet.airflow import settings
from onnx_fleet.airflow.reexport_tasks import Wanted, reexport
from onnx_fleet.airflow.run_context import Run
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.source import search

SETTINGS = settings.read()


@dag(
    schedule=SETTINGS.schedule,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["onnx-fleet"],
    params={
        "catalogue": Param(
            str(SETTINGS.catalogue), type="string", minLength=1, description="The catalogue file, as workers see it."
        ),
        "only": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            description="Take these models alone: repo ids, or patterns such as BAAI/*. Empty takes all.",
        ),
        "force": Param(False, type="boolean", description="Publish a new version of every model, changed or not."),
        "max_failed": Param(
            0, type="integer", minimum=0, description="The run fails when more models than this fail or are held."
        ),
        "max_refused": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            description="The run fails when the catalogue's rules refuse more models than this. Empty lets any number.",
        ),
    },
)
def fleet_reexport() -> None:
    def wanted(run: Run) -> Wanted:
        file = reader.load(Path(str(run.params["catalogue"])))
        entries = reader.expand(file, lambda discover: search.search(discover, hub=run.services.hub))
        only = [str(pattern) for pattern in run.params["only"]]  # type: ignore[attr-defined]  # held by its schema
        return Wanted(entries=reader.select(entries, only), catalogue_digest=file.digest)

    reexport(wanted, settings=SETTINGS)


fleet_reexport()
