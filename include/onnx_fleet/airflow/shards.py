"""The work of a run, dealt out to the mapped groups of its DAG: one group takes a limited number of models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import CatalogueInvalid
from onnx_fleet.jsonio import Json


def item(work: WorkItem, *, catalogue_digest: str | None, large_bytes: int | None = None) -> Json:
    """Return what a mapped task is told of its model; the work item itself is in the run's scratch folder.

    Args:
        large_bytes: the predicted memory above which a model goes to the group of large ones; None where there is no
            such group.
    """
    return {
        "model_id": work.model_id,
        "version": work.version,
        "gpu": "cuda" in work.model.entry.providers,
        "catalogue_digest": catalogue_digest,
        "large": is_large(work, large_bytes),
    }


def is_large(work: WorkItem, large_bytes: int | None) -> bool:
    """Say whether a model goes to the group of large ones, by what its steps are predicted to need."""
    return large_bytes is not None and work.estimate is not None and work.estimate.memory_bytes > large_bytes


def deal(items: Sequence[Json], *, shards: int, shard: int) -> list[Json]:
    """Return the items of one group: every n-th, so that each group begins with the most wanted models."""
    return list(items[shard::shards])


def require_room(models: int, *, shards: int, per_shard: int, instead: str = "split the catalogue") -> None:
    """Refuse a plan that is larger than the DAG can map over, before anything is begun.

    Args:
        instead: the remedy that the message names.
    Raises:
        CatalogueInvalid: there are too many models.
    """
    if models > shards * per_shard:
        raise CatalogueInvalid(
            f"{models} models need work and the DAG has room for {shards * per_shard} in a run: set [onnx_fleet]"
            f" shards (AIRFLOW__ONNX_FLEET__SHARDS) to at least {math.ceil(models / per_shard)}, or {instead}"
        )


def require_room_for_large(models: int, *, per_shard: int) -> None:
    """Refuse a plan with more large models than their one group can map over.

    Raises:
        CatalogueInvalid: there are too many.
    """
    if models > per_shard:
        raise CatalogueInvalid(
            f"{models} large models need work and their group has room for {per_shard} in a run: raise [onnx_fleet]"
            " large_memory_bytes (AIRFLOW__ONNX_FLEET__LARGE_MEMORY_BYTES), or split the catalogue"
        )
