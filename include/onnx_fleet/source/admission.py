"""The rules of an entry that the Hub's word on a repo decides, before one of its files is read."""

from __future__ import annotations

from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.resolved_model import is_renamed
from onnx_fleet.errors import LicenceRefused, ModelGated, ModelRenamed
from onnx_fleet.source.hub_client import Hub


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


def require_licence(licence: str | None, entry: Entry, *, subject: str) -> None:
    """Refuse a licence that is not among the entry's.

    Raises:
        LicenceRefused: the entry allows others only.
    """
    if entry.allowed_licences is None or licence in entry.allowed_licences:
        return
    if licence is None:
        raise LicenceRefused(
            f"{subject}: the model card names no licence, and allowed_licences is set; remove the entry, or clear"
            " allowed_licences for it"
        )
    raise LicenceRefused(f"{subject}: licence {licence!r} is not in allowed_licences; add it there or remove the entry")


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
