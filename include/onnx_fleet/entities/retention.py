"""How long the versions of a model are kept, and why one is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

Keeper = Literal["channel", "history", "moving", "rollout", "newest", "young", "signed", "unreadable"]
"""What keeps a version; WORDS has what people are told."""

WORDS: Final[dict[Keeper, str]] = {
    "channel": "a channel points to it, or would go back to it first",
    "history": "a channel pointed to it, or did not follow it, within the history window",
    "moving": "a move of a channel to it may be under way",
    "rollout": "a rollout may move a channel to it",
    "newest": "it is among the newest of its model",
    "young": "it is younger than the grace period",
    "signed": "it is signed",
    "unreadable": "a document that decides on it cannot be read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What stays of a model, beside what its channels point to and what is signed."""

    keep_last: int = 3
    """The number of the newest versions that stay."""
    history_days: int = 90
    """For how many days a version stays after a channel has left it, or has not followed it."""
    grace_days: int = 14
    """For how many days a version stays after it was put there; what killed writers have left, likewise."""
    release_keys: tuple[str, ...] | None = None
    """The ids of the keys whose signature keeps a version; None takes any, also that of a key that signs each run."""

    def limited(
        self, *, keep_last: int | None = None, history_days: int | None = None, grace_days: int | None = None
    ) -> Retention:
        """Return the same with other numbers, where they are given."""
        return replace(
            self,
            keep_last=keep_last or self.keep_last,
            history_days=history_days or self.history_days,
            grace_days=grace_days or self.grace_days,
        )
