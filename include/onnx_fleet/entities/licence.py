"""A model's licence as a catalogue and an answer name it, and what a catalogue says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from onnx_fleet.entities.naming import matches

OTHER: Final = "other"
"""The Hub's id of every licence that it has no id for; the card may give such a licence a name."""
NONE: Final = "none"
"""What the licence of a model is called whose card names none."""

Standing = Literal["allowed", "to_approve", "refused"]


def called(licence: str | None, name: str | None = None) -> str:
    """Return how a licence is called: ``apache-2.0``, ``other/acme-community``, ``none``.

    Args:
        licence: the Hub's id.
        name: what the card calls a licence whose id is ``other``.
    """
    said = licence or NONE
    if said.lower() == OTHER and name:
        said = f"{OTHER}/{name}"
    return "-".join(said.lower().split())


def standing(
    licence: str, *, allowed: Sequence[str] | None, to_approve: Sequence[str] | None, is_whole: bool = True
) -> Standing:
    """Return what a catalogue says of a licence.

    Args:
        licence: how it is called.
        allowed: ids that are allowed; None allows every one that is not to be approved.
        to_approve: patterns of ids that a person has to approve; what ``allowed`` names needs no approval.
        is_whole: whether the licence has its name where its id is ``other``; without it, a list that tells such
            licences apart refuses none of them.
    """
    names = (licence, OTHER) if licence.startswith(f"{OTHER}/") else (licence,)
    if allowed is not None and any(name in allowed for name in names):
        return "allowed"
    if any(matches(name, to_approve or ()) for name in names):
        return "to_approve"
    told_apart = any(each.lower().startswith(f"{OTHER}/") for each in (*(allowed or ()), *(to_approve or ())))
    if licence == OTHER and told_apart and not is_whole:
        return "allowed"
    return "allowed" if allowed is None else "refused"
