"""What a store already holds of a model, for planning: where a channel points, and what made that version.

It reads the few fields that it compares, from a manifest of any schema version, and takes what it cannot read as
absent: planning never fails on an old bundle, it makes a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnx_fleet.bundles import channels, tombstones
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.store import ObjectStore, layout


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class Channel(_Document):
    """A named pointer to a version."""

    version: str


class _Bundle(_Document):
    fingerprint: str = ""
    rebuild: str | None = None


class _Source(_Document):
    revision: str = ""
    licence: str | None = None


class _Export(_Document):
    recipe: str | None = None
    recipe_digest: str | None = None
    settings: Annotated[Mapping[str, object], Field(default_factory=dict)]


class _Variant(_Document):
    variant: str = ""


class _Graph(_Variant):
    opset: int = 0


class ManifestExcerpt(_Document):
    """The part of a manifest that says what made the bundle."""

    bundle: Annotated[_Bundle, Field(default_factory=_Bundle)]
    source: Annotated[_Source, Field(default_factory=_Source)]
    task: str = ""
    family: str = ""
    export: Annotated[_Export, Field(default_factory=_Export)]
    graphs: Annotated[tuple[_Graph, ...], Field(default_factory=tuple)]
    asked: Annotated[tuple[_Variant, ...], Field(default_factory=tuple, validation_alias="variants")]
    toolchain: Annotated[Mapping[str, str], Field(default_factory=dict)]

    @property
    def variants(self) -> tuple[str, ...]:
        """Each precision that was asked for, sorted, those that missed their gates too."""
        return tuple(sorted({each.variant for each in [*self.graphs, *self.asked]}))

    @property
    def opsets(self) -> tuple[int, ...]:
        """The operator sets of the graphs, each once and sorted."""
        return tuple(sorted({graph.opset for graph in self.graphs}))


Kind = TypeVar("Kind", bound=_Document)


def channel(store: ObjectStore, model_id: str, name: str) -> Channel | None:
    """Return where a channel of a model points."""
    return _read(store, channels.key_of(model_id, name), Channel)


def manifest(store: ObjectStore, model_id: str, *, version: str) -> ManifestExcerpt | None:
    """Return what made a version."""
    return _read(store, layout.manifest_key(model_id, version), ManifestExcerpt)


def exists(store: ObjectStore, model_id: str, *, version: str) -> bool:
    """Tell whether a version is published."""
    return store.stat(layout.manifest_key(model_id, version)) is not None


def is_deleted(store: ObjectStore, model_id: str, *, version: str) -> bool:
    """Tell whether a version was removed, so that no bundle can be published under its name."""
    return tombstones.find(store, model_id, version) is not None


def _read(store: ObjectStore, key: str, kind: type[Kind]) -> Kind | None:
    try:
        return kind.model_validate_json(store.read(key))
    except (BundleNotFound, ValidationError):
        return None
