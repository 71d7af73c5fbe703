"""What a publication tells other DAGs.

An event with a partition key never triggers a DAG that is scheduled on the plain asset, hence the two of them:
``schedule=PartitionedAssetTimetable(assets=BUNDLE)`` makes one run per model, with the model id in
``dag_run.partition_key``; ``schedule=[FLEET]`` makes a run after publications, one run for
several of them when they come close together.
"""

from __future__ import annotations

from airflow.sdk import Asset
from airflow.sdk.types import OutletEventAccessorsProtocol

from onnx_fleet import jsonio
from onnx_fleet.bundles.publish import Publication

BUNDLE = Asset(name="onnx_fleet_bundle", group="onnx-fleet")
"""The asset of one bundle, partitioned by model id."""
FLEET = Asset(name="onnx_fleet", group="onnx-fleet")
"""The asset of everything that is published."""


def emit(publication: Publication, events: OutletEventAccessorsProtocol) -> None:
    """Add the events that go out when the task succeeds; their ``extra`` is the publication."""
    events[BUNDLE].add_partitions(publication.model_id)
    for asset in (BUNDLE, FLEET):
        events[asset].extra = jsonio.to_json(publication)
