"""A rollout: how the models of a catalogue follow one change of the toolchain or of the defaults, wave by wave.

rollouts/<id>.json    the waves with their models, how each model ended, and what people decided

The document is moved by compare-and-swap, so that it holds for every run, whatever started it, and survives all of
them. The id follows from the toolchain, the defaults and the channel: a run finds the rollout that it belongs to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore, layout, swaps

RolloutState = Literal["running", "stopped", "done", "superseded"]
"""``stopped``: a wave was not good, or a person stopped it; ``superseded``: the toolchain or defaults changed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model of a wave."""

    model_id: str
    repo_id: str
    """The id of its entry, which may be another where the Hub has renamed the repo."""
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a model of a wave ended."""

    verdict: Literal["passed", "failed", "left"]
    """``left``: it says nothing about the change, such as a repo that is gone, or one with a new commit."""
    version: str | None = None
    """The version that was published."""
    step: str | None = None
    error: str | None = None
    """The error class's name."""
    message: str = ""
    """A statement of why it failed, was held or is left out."""
    findings: tuple[str, ...] = ()
    """What is worse than in the version before, ``latency: …``, also where that holds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Models that follow at the same time."""

    members: tuple[Member, ...]
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """The outcomes so far, by model id."""
    attempts: int = 0
    """The number of runs after which models were still undecided."""
    reason: str = ""
    """A statement of why the wave is good, or why it stopped the rollout; empty while it is neither."""

    @property
    def undecided(self) -> tuple[str, ...]:
        """The models without an outcome."""
        return tuple(each.model_id for each in self.members if each.model_id not in self.outcomes)

    def ended(self, verdict: Literal["passed", "failed", "left"]) -> tuple[str, ...]:
        """Return the models with a verdict, in the order of the wave."""
        found = self.outcomes
        return tuple(each.model_id for each in self.members if _verdict(found.get(each.model_id)) == verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """A channel that went back because of a wave."""

    version: str
    """The version of the wave."""
    to: str
    """The version before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person decided."""

    what: Literal["continued", "stopped"]
    by: str
    reason: str
    at: AwareDatetime
    wave: int
    """The wave that the rollout was at, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One change, and how far the models have followed it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    rollout_id: str
    channel: str
    began_at: AwareDatetime
    changes: Mapping[str, int]
    """What changed, ``toolchain: torch 2.13.0 -> 2.14.0``, with the number of models of which that is true."""
    waves: tuple[Wave, ...]
    current: int = 0
    """The index of the wave that is under way; of a rollout that is through, of the last."""
    state: RolloutState = "running"
    decisions: tuple[Decision, ...] = ()
    taken_back: Mapping[str, TakenBack] = field(default_factory=dict)
    """The channels that go back and are held there, by model id."""
    channels_moved: bool = True
    """Whether all channels are where this state wants them; else whoever comes next moves them."""

    @property
    def wave(self) -> Wave:
        """The wave that is under way."""
        return self.waves[self.current]

    @property
    def models(self) -> int:
        """The number of models of all waves."""
        return sum(len(wave.members) for wave in self.waves)

    @property
    def open(self) -> frozenset[str]:
        """The models of the waves that have begun."""
        return frozenset(each.model_id for wave in self.waves[: self.current + 1] for each in wave.members)

    def with_wave(self, wave: Wave) -> Rollout:
        """Return the rollout with another state of the wave that is under way."""
        return replace(self, waves=(*self.waves[: self.current], wave, *self.waves[self.current + 1 :]))

    def label_of(self, wave: int) -> str:
        """Return the name of a wave, counted from 1, among all runs; the same change may be rolled out twice."""
        return f"rollout__{self.rollout_id}__{self.began_at:%Y%m%dT%H%M%SZ}__wave_{wave}"


def id_of(channel: str, fingerprint: str) -> str:
    """Return the id of the rollout to what all models share.

    Args:
        fingerprint: that of the catalogue's defaults with the toolchain.
    """
    return hashlib.sha256(f"{channel}\n{fingerprint}".encode()).hexdigest()[:12]


def find(store: ObjectStore, rollout_id: str) -> tuple[Rollout | None, str | None]:
    """Return a rollout and its tag; None where there is none.

    Raises:
        BundleCorrupt: the document is not a rollout's.
    """
    key = layout.rollout_key(rollout_id)
    try:
        data, etag = store.read_tagged(key)
    except BundleNotFound:
        return None, None
    try:
        return jsonio.adapter(Rollout).validate_json(data, strict=True), etag
    except ValidationError as err:
        raise BundleCorrupt(
            f"{store.address}/{key}: is not a rollout's document; delete it, and the next run begins the rollout again"
        ) from err


def read(store: ObjectStore, rollout_id: str) -> Rollout:
    """Return a rollout.

    Raises:
        BundleNotFound: there is none with this id.
        BundleCorrupt: the document is not a rollout's.
    """
    found, _etag = find(store, rollout_id)
    if found is None:
        raise BundleNotFound(
            f"{store.address} has no rollout {rollout_id!r}; `onnx-fleet rollout list` shows those that there are"
        )
    return found


def listed(store: ObjectStore) -> tuple[Rollout, ...]:
    """Return all rollouts, the newest first.

    Raises:
        BundleCorrupt: a document is not a rollout's.
    """
    keys = [info.key for info in store.list(layout.ROLLOUTS) if info.key.endswith(".json")]
    found = [read(store, key.removeprefix(layout.ROLLOUTS).removesuffix(".json")) for key in keys]
    return tuple(sorted(found, key=lambda each: each.began_at, reverse=True))


def put(store: ObjectStore, rollout: Rollout, *, etag: str | None) -> None:
    """Put a rollout where the one with this tag is; None says that there is none.

    Raises:
        VersionConflict: another writer came between.
    """
    store.replace(layout.rollout_key(rollout.rollout_id), jsonio.canonical(jsonio.to_json(rollout)), etag=etag)


def update(store: ObjectStore, rollout_id: str, change: Callable[[Rollout], Rollout]) -> Rollout:
    """Change a rollout, and return it as it is then; nothing is written where the change makes no difference.

    Args:
        change: is called again with what stands there, where another writer comes between.
    Raises:
        BundleNotFound: there is no such rollout.
        VersionConflict: other writers keep coming between.
    """

    def changed() -> Rollout:
        standing, etag = find(store, rollout_id)
        if standing is None:
            return read(store, rollout_id)
        wanted = change(standing)
        if wanted != standing:
            put(store, wanted, etag=etag)
        return wanted

    return swaps.repeated(changed)


def _verdict(outcome: Outcome | None) -> str | None:
    return outcome.verdict if outcome else None
