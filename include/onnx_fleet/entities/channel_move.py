"""Who moves a channel, and why: what every row of a channel's history says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MoveKind = Literal["published", "repointed", "set", "promoted", "rolled_back", "demoted", "taken_back", "restored"]
"""What moved a channel.

``published``: a run, to the version that it published; ``repointed``: a run, to a version that it found published;
``set``, ``promoted``, ``rolled_back``: a person; ``demoted``: an audit; ``taken_back``, ``restored``: a rollout.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who moves a channel."""

    kind: Literal["person", "run", "audit", "rollout"]
    name: str
    """A person as ``user@host``; a run or an audit as its report calls it; the id of a rollout."""
    asked_by: str | None = None
    """The person who started the run or the audit, or decided on the rollout, where that is known."""

    def __str__(self) -> str:
        named = self.name if self.kind == "person" else f"{self.kind} {self.name}"
        return f"{named}, asked by {self.asked_by}" if self.asked_by else named


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReason:
    """Why a channel is moved, and by whom."""

    kind: MoveKind
    by: Actor
    why: str
    """A sentence for those who read the history later."""
