"""
# Audit what is published

This DAG takes the version that the channel of each model points to, hashes every file again, and compares the graphs
with PyTorch again, with the packages that the workers have now. So it shows what an upgrade of onnxruntime breaks,
before users notice. Bundles are not changed. Each result is written under `audits/<org>/<name>/<version>/` in the
store, with the versions of the packages then and now.

**Trigger it** after an upgrade, with `all_versions` for everything that is published, or with a `sample` of it. With
`demote`, a channel whose version failed goes back to the newest older version that passes, and is held there.
`dry_run` says which channels would move, and moves none.

**When it fails**, open the run: the note below its name has the bundles that failed and why, and its link opens the
report, which lists every bundle with its verdict and the packages that changed. The tasks `report` and `gate` have a
button to it, too.

- `failed` with files: the bytes in the store are not those that were published. Publish the model again with `force`.
- `failed` with checks: the graphs are not correct with the currently installed packages. Go back to the packages with
  which the bundle was made, or re-export the model with the new ones. `onnx-fleet channel set` releases a channel
  that was moved and held.
- `not_compared`: no fault was found, and the bundle was not compared with PyTorch; the reason says why. A model whose
  source has code or pickle weights is compared only if the catalogue lists it and names the commit.
- `broke_off`: the store or the worker failed. Clear that audit task with its downstream tasks.
- `choose` failed: the catalogue has faults, or the store cannot be reached. Its log says which.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, run_params, settings
from onnx_fleet.airflow.audit_tasks import audits

SETTINGS = settings.read()


@dag(
    schedule=SETTINGS.audit_schedule,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={
        "channel": Param(
            SETTINGS.channel,
            type="string",
            minLength=1,
            title="Channel",
            description="Audit the version that this channel points to, such as latest.",
        ),
        "all_versions": Param(
            False, type="boolean", title="All versions", description="Audit every published version instead."
        ),
        "only": Param(
            [],
            **run_params.ONLY,
            title="Only these models",
            description="Model ids such as BAAI/bge-small-en-v1.5, or patterns such as BAAI/*, one on each line. Empty"
            " takes all.",
        ),
        "sample": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Sample",
            description="Audit at most this many bundles, such as 20. Empty audits all.",
        ),
        "seed": Param(
            None,
            type=["null", "integer"],
            title="Seed",
            description="The same number, such as 7, chooses the same sample. Empty chooses another one each day.",
        ),
        "catalogue": Param(
            str(SETTINGS.catalogue),
            type=["null", "string"],
            title="Catalogue",
            description="The catalogue file that decides whose code and pickle files may be run. Empty allows none.",
        ),
        "demote": Param(
            False,
            type="boolean",
            title="Demote",
            description="If a version fails, move its channel to an older one that passes.",
        ),
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="With demote, say which channels would move."
        ),
        "max_failed": Param(
            0,
            type="integer",
            minimum=0,
            title="Failures allowed",
            description="The run fails if more bundles than this fail; 0 allows none.",
        ),
        "max_not_compared": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Not compared allowed",
            description="The run fails if more bundles than this are not compared, such as 5. Empty allows any number.",
        ),
    },
)
def bundle_audit() -> None:
    audits(settings=SETTINGS)


bundle_audit()
