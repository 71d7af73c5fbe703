"""
# Audit what is published

Takes what the channel of each model points at, hashes every file again, and proves the graphs again beside PyTorch with
the packages that the workers have now: an upgrade of onnxruntime shows what it breaks before users do. Bundles are left
as they are; each result stands under `audits/<org>/<name>/<version>/` in the store, with the versions of the packages
then and now.

**Trigger it** after an upgrade, with `all_versions` for everything that is published, or with a `sample` of it; with
`demote` a channel whose version failed goes back to the newest older version that passes, and is held there. `dry_run`
says which would, and moves none.

**When it fails**, open the log of `report`: it lists every bundle with its verdict and the packages that changed.

- `failed` with files named: the store's bytes are not the published ones; publish the model again with `force`.
- `failed` with checks named: the graphs are not right with what is installed now. Go back to the packages that the
  bundle was made with, or re-export the model with the new ones. `onnx-fleet channel set` releases a channel that was
  moved and held.
- `not_compared`: nothing is wrong with the bundle, and PyTorch was not asked; the reason says why. A model whose source
  runs code or pickles is compared only when the catalogue lists it and names the commit.
- `broke_off`: the store or the worker gave up; clear that audit task with its downstream tasks.
- `choose` failed: the catalogue has faults, or the store cannot be reached; its log says which.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import settings
from onnx_fleet.airflow.audit_tasks import audits

SETTINGS = settings.read()


@dag(
    schedule=SETTINGS.audit_schedule,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["onnx-fleet"],
    params={
        "channel": Param(
            SETTINGS.channel, type="string", minLength=1, description="Audit what this channel points at."
        ),
        "all_versions": Param(False, type="boolean", description="Audit every version instead."),
        "only": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            description="Take these models alone: ids, or patterns such as BAAI/*. Empty takes all.",
        ),
        "sample": Param(
            None, type=["null", "integer"], minimum=1, description="Audit at most so many. Empty audits all."
        ),
        "seed": Param(
            None, type=["null", "integer"], description="Draws the sample. Empty draws another one each day."
        ),
        "catalogue": Param(
            str(SETTINGS.catalogue),
            type=["null", "string"],
            description="Says whose source may run code or pickles. Empty lets none.",
        ),
        "demote": Param(
            False, type="boolean", description="Move the channel off a version that failed, to one that passes."
        ),
        "dry_run": Param(False, type="boolean", description="With demote: say which channels would move."),
        "max_failed": Param(
            0, type="integer", minimum=0, description="The run fails when more bundles than this fail."
        ),
        "max_not_compared": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            description="The run fails when more bundles than this are not compared. Empty lets any number be.",
        ),
    },
)
def bundle_audit() -> None:
    audits(settings=SETTINGS)


bundle_audit()
