"""What the steps of a model took when it was last published: the next plan predicts from it.

costs/<org>/<name>.json    memory, disk and seconds of each step, and the facts that they are of

It stands beside the bundles and not in them: two runs that make the same bytes do not take the same time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.entities.sizing import SizingFacts, StepCost
from onnx_fleet.errors import BundleNotFound, OnnxFleetError, StoreDenied
from onnx_fleet.store import ObjectStore, layout, swaps

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierCosts:
    """What the steps of a model took when a run last published it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    version: str
    facts: SizingFacts
    steps: Mapping[str, StepCost]
    """The cost of each step, by its name in records; a step that an earlier try had done is missing."""


def keep(costs: EarlierCosts, *, store: ObjectStore) -> None:
    """Keep what a model took, in place of what it took before; what hinders that is logged, since it only predicts."""
    try:
        swaps.put(store, layout.costs_key(costs.model_id), jsonio.canonical(jsonio.to_json(costs)))
    except OnnxFleetError as err:
        log.warning("%s: what its steps took is not kept for the next plan: %s", costs.model_id, err)


def find(store: ObjectStore, model_id: str) -> EarlierCosts | None:
    """Return what a model took; None where nothing is kept that this onnx-fleet can read, or may read."""
    try:
        return jsonio.adapter(EarlierCosts).validate_json(store.read(layout.costs_key(model_id)), strict=True)
    except (BundleNotFound, StoreDenied, ValidationError):
        return None
