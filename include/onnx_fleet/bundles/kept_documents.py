"""What one model leaves in the store for later ones with the same graphs: latencies to take over, proofs to repeat.

latencies/<key>.json    what one variant's graphs take on one kind of machine, and the bundle that was measured
proofs/<key>.json       the whole proof of graphs with the weights of one bundle

They stand beside the bundles: every worker that sees the store finds them, and a bundle that goes by one says so in its
own report. They are never trusted: figures are confirmed by a few calls, and proofs are repeated in part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from pydantic import ValidationError

from onnx_fleet import jsonio
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.entities.kept_proof import KeptProof
from onnx_fleet.errors import BundleNotFound, OnnxFleetError, StoreDenied
from onnx_fleet.store import ObjectStore, layout, swaps

log = logging.getLogger(__name__)


class _Document(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def model_id(self) -> str: ...


D = TypeVar("D", bound=_Document)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Generic[D]):
    """One kind of such documents."""

    kind: type[D]
    place: Callable[[str], str]
    """Where the document of a key lies."""
    called: str
    """Its name for people, in the plural."""

    def keep(self, document: D, *, store: ObjectStore) -> None:
        """Keep a document in place of the one that stands there; what hinders that is logged: the next one is made."""
        try:
            swaps.put(store, self.place(document.key), jsonio.canonical(jsonio.to_json(document)))
        except OnnxFleetError as err:
            log.warning("%s: its %s are not kept for models like it: %s", document.model_id, self.called, err)

    def find(self, keys: Iterable[str], *, store: ObjectStore) -> tuple[D, ...]:
        """Return what is kept under some keys; one that is torn, or is of something else, is left alone and logged.

        Raises:
            StoreUnavailable: the store cannot be asked.
        """
        return tuple(found for key in keys if (found := self._find(key, store=store)) is not None)

    def _find(self, key: str, *, store: ObjectStore) -> D | None:
        place = self.place(key)
        try:
            found = jsonio.adapter(self.kind).validate_json(store.read(place), strict=True)
        except (BundleNotFound, StoreDenied):
            return None
        except ValidationError as err:
            first = err.errors(include_url=False, include_input=False)[0]["msg"]
            log.warning("%s/%s cannot be read, and its %s are made anew: %s", store.address, place, self.called, first)
            return None
        if found.key != key:
            log.warning("%s/%s is of other graphs or another machine, and is not used", store.address, place)
            return None
        return found


LATENCIES: Final = Kept(kind=KeptLatency, place=layout.latency_key, called="latencies")
PROOFS: Final = Kept(kind=KeptProof, place=layout.proof_key, called="comparisons")
