"""What keeps a model out until a person has answered: a licence that needs approval, and one that has changed."""

from __future__ import annotations

import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

from onnx_fleet.bundles import licence_answers, model_card
from onnx_fleet.entities import licence
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.errors import BundleNotFound, LicenceRefused, LicenceUnapproved
from onnx_fleet.planning.published_state import ManifestExcerpt
from onnx_fleet.store import ObjectStore, layout


def require_approved(model: ResolvedModel, *, store: ObjectStore) -> None:
    """Refuse a model whose licence needs an approval that nobody has given.

    Raises:
        LicenceUnapproved: nobody has answered.
        LicenceRefused: a person has declined it.
        BundleCorrupt: the answers cannot be read.
    """
    entry = model.entry
    stands = licence.standing(
        model.licence_called, allowed=entry.allowed_licences, to_approve=entry.licences_to_approve
    )
    if stands == "to_approve":
        _require(model, f"licence {model.licence_called!r} is one of licences_to_approve", store=store)


def require_unchanged(model: ResolvedModel, *, since: ManifestExcerpt, version: str, store: ObjectStore) -> None:
    """Refuse a model whose licence is another than that of the version in use, until a person has approved it.

    Args:
        since: the manifest of the version in use.
        version: that version.
    Raises:
        LicenceUnapproved, LicenceRefused, BundleCorrupt: as require_approved does.
    """
    before = in_use(model.repo_id, since=since, version=version, store=store)
    if before not in (None, model.licence_called):
        _require(model, f"the licence of {version}, {before!r}, is {model.licence_called!r} by now", store=store)


def in_use(model_id: str, *, since: ManifestExcerpt, version: str, store: ObjectStore) -> str | None:
    """Return how the licence of a published version is called; None where its manifest does not say it.

    The name of one that the Hub has no id for is in the card, which is a file of the bundle.
    """
    source = since.source
    if "licence" not in source.model_fields_set:
        return None
    if (source.licence or "").lower() != licence.OTHER:
        return licence.called(source.licence)
    try:
        text = store.read(f"{layout.bundle_prefix(model_id, version)}{model_card.FILE_NAME}")
    except BundleNotFound:
        return licence.OTHER
    with TemporaryDirectory(prefix="card-") as folder:
        Path(folder, model_card.FILE_NAME).write_bytes(text)
        return licence.called(source.licence, model_card.read(Path(folder)).licence_name)


def _require(model: ResolvedModel, said: str, *, store: ObjectStore) -> None:
    answer = licence_answers.find(store, model.repo_id).in_force(model.licence_called)
    if answer is None:
        raise LicenceUnapproved(
            f"{model.at_commit}: {said}; read it, then run `{_approval(model)}`, or the same with decline"
        )
    if answer.decision == "declined":
        raise LicenceRefused(
            f"{model.at_commit}: {said}, and {answer.by} has declined it: {answer.why}; remove the entry, or approve"
            f" it: `{_approval(model)}`"
        )


def _approval(model: ResolvedModel) -> str:
    return f"onnx-fleet licence approve {model.repo_id} --licence {shlex.quote(model.licence_called)} --why …"
