"""What differs between the version in use and the wanted one, and whether that is the model's own change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from onnx_fleet.entities.entry import DECODER_FORMS
from onnx_fleet.entities.work_item import Cause, Change, WorkItem
from onnx_fleet.planning.fingerprint import fingerprint
from onnx_fleet.planning.published_state import ManifestExcerpt

TOOLCHAIN: Final = "toolchain: "
"""What the name of a change begins with that is one of a package."""
_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "family": ("task",),
    "recipe's file": ("recipe",),
    "variants": ("variants", "required_variants"),
}
"""The settings of an entry that a change follows from, where they are not called as the change is."""
_UNTOLD: Final = frozenset(
    {"calibration", "inline_max_bytes", "tokenizer_graph", "variant_gates", "trust_remote_code", "allow_pickle"}
)
"""The settings that decide a bundle and that no manifest tells, or not with all that decides."""
_OF_A_MODEL: Final = frozenset({"commit", "architecture", "weights_variant"})
"""What is a model's own, since no defaults can say it."""


def told(wanted: WorkItem, *, since: ManifestExcerpt) -> WorkItem:
    """Return a changed item with what differs from the version in use, and the cause of its export."""
    found = _differences(since, wanted)
    reason = "; ".join(map(str, found)) or "the export settings have changed"
    return replace(wanted, state="changed", reason=reason, changes=found, cause=_cause(since, wanted, found))


def _cause(old: ManifestExcerpt, new: WorkItem, found: Iterable[Change]) -> Cause:
    """Say whose change it is; what cannot be told is taken for the model's own, which waits for nothing."""
    with_the_old_packages = fingerprint(
        new.model,
        family=new.family,
        versions=old.toolchain,
        recipe_digest=new.recipe_digest,
        calibration_digest=new.calibration_digest,
        rebuild=old.bundle.rebuild,
    )
    if with_the_old_packages == old.bundle.fingerprint:
        return "toolchain"
    own = frozenset(new.model.entry.own)
    settings = [each.what for each in found if not each.what.startswith(TOOLCHAIN)]
    if any((own | _OF_A_MODEL) & {*_SETTINGS.get(what, (what,))} for what in settings):
        return "own"
    return "defaults" if settings or not own & _UNTOLD else "own"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _setting(old: ManifestExcerpt, name: str) -> str:
    return str(old.export.settings.get(name, "none"))


def _differences(old: ManifestExcerpt, new: WorkItem) -> tuple[Change, ...]:
    """Return what made the version in use and would not make this one."""
    model, entry = new.model, new.model.entry
    pairs = [
        ("commit", old.source.revision[:7], model.commit[:7]),
        ("task", old.task, model.task),
        ("family", old.family, new.family),
        ("recipe", old.export.recipe or "none", entry.recipe or "none"),
        ("recipe's file", (old.export.recipe_digest or "none")[:8], (new.recipe_digest or "none")[:8]),
        ("variants", ", ".join(old.variants), ", ".join(sorted(entry.variants))),
        ("opset", ", ".join(map(str, old.opsets)), str(entry.opset)),
        ("weights", str(old.export.settings.get("weights", "auto")), entry.weights),
        ("architecture", _setting(old, "architecture"), entry.architecture or "none"),
        ("weights_variant", _setting(old, "weights_variant"), entry.weights_variant or "none"),
        ("decoder_form", str(old.export.settings.get("decoder_form", DECODER_FORMS[0])), entry.decoder_form),
        ("tokenizer", str(old.export.settings.get("tokenizer", "exact")), entry.tokenizer),
        ("may_be_fixed", _setting(old, "may_be_fixed"), _listed(entry.may_be_fixed)),
    ]
    names = sorted({*old.toolchain, *new.toolchain})
    pairs += [
        (f"{TOOLCHAIN}{name}", old.toolchain.get(name, "none"), new.toolchain.get(name, "none")) for name in names
    ]
    return tuple(Change(what=what, before=before, after=after) for what, before, after in pairs if before != after)
