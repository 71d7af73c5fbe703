"""A promotion that a person decides on: what is proposed with the figures that decide, the answer, and what moved.

It is proposed in one process and carried out in another, days later, so that all that was shown travels with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from onnx_fleet.bundles import bundle, channel_history, channels
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.entities.channel_move import MoveReason
from onnx_fleet.entities.provider import CPU
from onnx_fleet.entities.variant import FP32
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.runs import channel_moves
from onnx_fleet.runs.channel_moves import Proposal
from onnx_fleet.runs.record import headline
from onnx_fleet.store import ObjectStore
from onnx_fleet.store.concurrency import at_once

Outcome = Literal["asked", "stays", "moved", "not moved"]
"""``asked``: a person is to decide; ``stays``: nothing is to move; ``not moved``: it was to move and could not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What decides between two versions of a model."""

    size_bytes: int
    latency_ms_p50: float | None = None
    """The median of the fp32 graph on the CPU, at the size of input that a run's report shows; None where it was not
    measured."""
    latency_at: str | None = None
    """That size, such as ``batch 1 × 128 tokens``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One model of a promotion."""

    proposal: Proposal
    verdict: str = "not compared"
    """What the gates said of the version when it was published."""
    now: Figures | None = None
    """The figures of the version in the channel; None where there is none."""
    new: Figures | None = None

    @property
    def model_id(self) -> str:
        return self.proposal.model_id

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        if self.proposal.after:
            return "moved"
        if self.proposal.failed:
            return "not moved"
        return "stays" if self.proposal.why_not else "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What one run proposes, and what became of it."""

    run_id: str
    """The label of the run."""
    source: str
    """The channel whose versions are promoted."""
    to: str
    """The channel that is to point to them."""
    candidates: tuple[Candidate, ...]
    created_at: str
    reason: MoveReason | None = None
    """Who decided, and why; None until then."""

    def of(self, outcome: Outcome) -> tuple[Candidate, ...]:
        """Return those of which this became."""
        return tuple(each for each in self.candidates if each.outcome == outcome)


def propose(store: ObjectStore, models: Iterable[str], *, source: str, to: str) -> tuple[Candidate, ...]:
    """Propose to point a channel of each model to the version that another one points to, with the figures of both.

    Raises:
        BundleNotFound: no channel can have one of the names.
        StoreUnavailable, StoreDenied: the store cannot be asked.
    """
    channels.checked_name(source)
    channels.checked_name(to)
    proposed = channel_moves.proposals(
        models, lambda name: channel_moves.to_version(store, name, to, source), channel=to
    )
    return tuple(at_once(lambda each: _candidate(store, each), map(_needed, proposed), threads="promotion"))


def carried_out(asked: Promotion, *, store: ObjectStore, reason: MoveReason, now: datetime) -> Promotion:
    """Move what was approved; what another writer has moved since stays, and says so.

    What an earlier attempt has moved, which was killed before it could tell, counts as moved.
    """
    tried = at_once(
        lambda each: _still_asked(store, each.proposal, reason),
        [each for each in asked.candidates if each.outcome == "asked"],
        threads="promotion",
    )
    done = channel_moves.carry_out(
        store, [each for each in tried if not each.after and not each.failed], reason=reason, now=now
    )
    ended = {each.model_id: each for each in (*tried, *done)}
    candidates = tuple(replace(each, proposal=ended.get(each.model_id, each.proposal)) for each in asked.candidates)
    return replace(asked, candidates=candidates, reason=reason)


def _needed(proposed: Proposal) -> Proposal:
    if proposed.why_not or proposed.before != proposed.version:
        return proposed
    return replace(proposed, why_not=f"it points to {proposed.version} already")


def _still_asked(store: ObjectStore, proposed: Proposal, reason: MoveReason) -> Proposal:
    """Return a proposal as it is, or what became of it since: a move there and back again is one, too."""
    standing = channels.find(store, proposed.model_id, proposed.channel)
    if standing == proposed.standing:
        return proposed
    if standing and standing.row and standing.version == proposed.version:
        row = channel_history.read_row(store, proposed.model_id, proposed.channel, standing.row)
        if (row.by, row.why) == (reason.by, reason.why):
            return replace(proposed, after=standing)
    what = f"{'held at' if standing.held else 'moved to'} {standing.version}" if standing else "removed"
    return replace(proposed, why_not=f"it was {what} after the question was asked", failed=True)


def _candidate(store: ObjectStore, proposed: Proposal) -> Candidate:
    new = _manifest(store, proposed.model_id, proposed.version)
    now = _manifest(store, proposed.model_id, proposed.before)
    return Candidate(
        proposal=proposed,
        verdict=new.regression.verdict if new and new.regression else "not compared",
        now=_figures(now) if now else None,
        new=_figures(new) if new else None,
    )


def _manifest(store: ObjectStore, model_id: str, version: str | None) -> Manifest | None:
    """Return a version's manifest; None where there is none to read: a channel may point to what was deleted."""
    if version is None:
        return None
    try:
        return bundle.find(Ref.parse(f"{model_id}@{version}"), store=store).manifest
    except (BundleNotFound, BundleCorrupt):
        return None


def _figures(manifest: Manifest) -> Figures:
    cpu = next((each for each in manifest.latency if each.provider == CPU), None)
    row = headline([row for row in cpu.rows if row.variant == FP32] if cpu else ())
    return Figures(
        size_bytes=manifest.size_bytes,
        latency_ms_p50=row.latency_ms_p50 if row else None,
        latency_at=row.at if row else None,
    )
