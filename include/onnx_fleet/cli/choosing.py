"""The published models that a command takes: one, or those that its options choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import typer

from onnx_fleet.bundles import publish
from onnx_fleet.bundles.publish import PublishedModel
from onnx_fleet.cli.settings import opened_services, opened_store
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import selection
from onnx_fleet.runs.selection import Selection
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
            wanted = selection.entries(
                reader.load(catalogue_file), Selection(only=tuple(only or ())), services=services
            )
            ids = {entry.repo_id.lower() for entry in wanted}
            yield _among(services.store, lambda name: name in ids)
        return
    patterns = [pattern.lower() for pattern in only or ()]
    with opened_store(store) as opened:
        if model is not None:
            yield _required(opened, publish.list_models(opened, model_id=model), what=model)
        else:
            yield _among(opened, lambda name: not patterns or any(fnmatchcase(name, each) for each in patterns))


def _among(store: ObjectStore, is_wanted: Callable[[str], bool]) -> Chosen:
    models = (model for model in publish.list_models(store) if is_wanted(model.model_id.lower()))
    return _required(store, tuple(models), what="what these options choose")


def _required(store: ObjectStore, models: tuple[PublishedModel, ...], *, what: str) -> Chosen:
    if not models:
        raise BundleNotFound(f"{what}: no version of it is published in {store.address}; see `onnx-fleet list`")
    return Chosen(store=store, models=models)
