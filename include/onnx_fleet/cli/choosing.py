"""The published models that a command takes: one, or those that its options choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from onnx_fleet.bundles import listing
from onnx_fleet.bundles.listing import PublishedModel
from onnx_fleet.cli.settings import opened_services, opened_store
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import selection
from onnx_fleet.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The published models that a command takes."""

    store: ObjectStore
    models: tuple[PublishedModel, ...]

    @property
    def model_ids(self) -> frozenset[str]:
        return frozenset(model.model_id for model in self.models)


@contextmanager
def published(
    model: str | None, *, only: list[str] | None, catalogue_file: Path | None, run: str | None, store: str | None
) -> Iterator[Chosen]:
    """The store that was asked for, and the models in it that the options choose.

    Args:
        run: a run that chooses among them by itself, so that no other option is needed.
    Raises:
        BundleNotFound: nothing that is published is chosen.
    """
    if model is None and not (only or catalogue_file or run):
        raise typer.BadParameter("name one model, or choose with --only, --catalogue or --run", param_hint="MODEL")
    if model is not None and (only or catalogue_file):
        raise typer.BadParameter("it chooses among all models; leave out MODEL", param_hint="--only")
    if catalogue_file is not None:
        with opened_services(store) as services:
            yield _required(
                services.store, selection.published(reader.load(catalogue_file), only=only or (), services=services)
            )
        return
    with opened_store(store) as opened:
        if model is not None:
            yield _required(opened, listing.list_models(opened, model_id=model), what=model)
        else:
            yield _required(opened, listing.list_models(opened, only=only or ()))


def _required(
    store: ObjectStore, models: tuple[PublishedModel, ...], *, what: str = "what these options choose"
) -> Chosen:
    if not models:
        raise BundleNotFound(f"{what}: no version of it is published in {store.address}; see `onnx-fleet list`")
    return Chosen(store=store, models=models)
