"""
# Promote models to a channel

A run of this DAG asks a person whether a channel (`to`, such as `stable`) is pointed to the version that another one
points to (`from`, such as `latest`): of one `model`, of those that match `only`, of those of a `catalogue`, or of all
that are published. It asks once for all of them.

**Answer** in the tab *Required Actions* of the run, or by REST. The question has a row for each model that would move:
the version now and the new one, what the gates said of the new one when it was published, latency and size of both.
*Approve*: the channels are moved; the history of each has your name and your reason. *Reject*, or no answer for two
weeks: nothing moves. The waiting question takes no worker. Models whose channel points there already, or that have no
version in `from`, stay as they are; where that is so of all, nobody is asked, and the run ends well and says so.

**When it fails**, open the run: the note below its name says why, and the button *Report* of its tasks has every model.

- `promote` failed: a channel was moved by somebody else after the question was asked. It stays where that one put it;
  the others have moved. Look at `onnx-fleet history`, and trigger the DAG again.
- `describe` failed: the parameters name no published model or no possible channel, the catalogue has faults, or the
  store cannot be read.

`onnx-fleet rollback --channel stable MODEL` undoes it.
"""

from __future__ import annotations

from airflow.sdk import Param, dag

from onnx_fleet.airflow import alerts, promotion_tasks, run_params, settings

SETTINGS = settings.read()


@dag(
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,  # it does nothing until it is asked to
    doc_md=__doc__,
    tags=["onnx-fleet"],
    **alerts.options(SETTINGS),
    params={
        "model": Param(
            None,
            type=["null", "string"],
            title="Model",
            description="The model to promote, such as BAAI/bge-small-en-v1.5. Empty takes those chosen below.",
        ),
        "only": Param(
            [],
            **run_params.ONLY,
            title="Only these models",
            description="Published models that match a pattern, such as BAAI/*, one on each line. Empty takes all.",
        ),
        "catalogue": Param(
            None,
            type=["null", "string"],
            title="Catalogue",
            description="Only models of this catalogue file. Empty takes all that are published.",
        ),
        "from": Param(
            SETTINGS.channel,
            type="string",
            minLength=1,
            title="From channel",
            description="Promote the version that this channel points to, such as latest.",
        ),
        "to": Param(
            "stable",
            type="string",
            minLength=1,
            title="To channel",
            description="The channel to move, such as stable. It is made where there is none.",
        ),
    },
)
def model_promote() -> None:
    promotion_tasks.promotions(settings=SETTINGS)


model_promote()
