"""The Hub's word on a repo, before one of its files is read: what it says, and the rules that it decides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from huggingface_hub import ModelInfo

from onnx_fleet.entities import licence as naming
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.resolved_model import is_renamed
from onnx_fleet.errors import HubUnavailable, LicenceRefused, ModelGated, ModelRenamed
from onnx_fleet.source.hub_client import Hub

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
"""The pattern of a commit."""


def require_commit(said: str, *, subject: str) -> str:
    """Return the commit that an answer names.

    Raises:
        HubUnavailable: it names none.
    """
    if not COMMIT.fullmatch(said):
        raise HubUnavailable(f"{subject}: the answer names no commit; check HF_ENDPOINT")
    return said


def tagged_licence(tags: Iterable[str]) -> str | None:
    """Return the licence that a repo's tags name; None where they name none."""
    return next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None)


def licence(info: ModelInfo) -> str | None:
    """Return the licence that the model card names; the Hub's own tag where it names none."""
    if info.card_data is not None and isinstance(info.card_data.license, str):
        return info.card_data.license
    return tagged_licence(info.tags or ())


def base_models(info: ModelInfo) -> tuple[str, ...]:
    """Return the models that the model card says this one was made from."""
    said = info.card_data.base_model if info.card_data is not None else None
    return (said,) if isinstance(said, str) else tuple(said or ())


def require_id(repo_id: str, entry: Entry) -> None:
    """Refuse a repo that the Hub has under another id by now, where the entry does not follow.

    Args:
        repo_id: the Hub's own id of the repo.
    Raises:
        ModelRenamed: the ids differ.
    """
    if is_renamed(entry.repo_id, to=repo_id) and not entry.follow_renames:
        raise ModelRenamed(
            f"{entry.repo_id}: the Hub has renamed it to {repo_id}; write that id, or set follow_renames to true"
        )


def licence_name(info: ModelInfo) -> str | None:
    """Return what the model card calls its licence, beside the Hub's id of it."""
    said = info.card_data.license_name if info.card_data is not None else None
    return said.strip() or None if isinstance(said, str) else None


def require_licence(
    named: str | None, entry: Entry, *, subject: str, name: str | None = None, is_whole: bool = True
) -> None:
    """Refuse a licence that is not among the entry's; whether a person has approved it is not looked at.

    Args:
        named: the Hub's id of the licence that the repo names; None where it names none.
        name: what the card calls it.
        is_whole: whether the card's name of it is known.
    Raises:
        LicenceRefused: the entry allows others only.
    """
    called = naming.called(named, name)
    if (
        naming.standing(called, allowed=entry.allowed_licences, to_approve=entry.licences_to_approve, is_whole=is_whole)
        != "refused"
    ):
        return
    if named is None:
        raise LicenceRefused(
            f"{subject}: the model card names no licence, and allowed_licences is set; remove the entry, or clear"
            " allowed_licences for it"
        )
    raise LicenceRefused(f"{subject}: licence {called!r} is not in allowed_licences; add it there or remove the entry")


def require_access(repo_id: str, *, gated: bool, hub: Hub, subject: str) -> None:
    """Refuse a gated repo whose terms we did not accept: it lists its files to everyone, and serves them to others.

    Asking whether a token has access takes a request.

    Raises:
        ModelGated: the token has no access.
        HubUnavailable, HubRateLimited: see Hub.calling.
    """
    if not gated:
        return
    if not hub.settings.token:
        raise ModelGated(
            f"{subject} is gated; accept its terms on {hub.settings.endpoint}/{repo_id}, then give a token (HF_TOKEN)"
        )
    with hub.calling(subject):
        hub.api.auth_check(repo_id)
