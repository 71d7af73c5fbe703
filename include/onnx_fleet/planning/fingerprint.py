"""Fingerprints: SHA-256 over everything that decides a bundle's graphs; and the version that follows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict

from onnx_fleet import jsonio, recipes
from onnx_fleet.entities.entry import DECODER_FORMS, Entry
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.variant import FP32
from onnx_fleet.planning.calibration import source as calibration_source


def fingerprint(
    model: ResolvedModel,
    *,
    family: str,
    versions: Mapping[str, str],
    recipe_digest: str | None = None,
    calibration_digest: str | None = None,
    rebuild: str | None = None,
) -> str:
    """Return the SHA-256 of everything that decides the bundle's graphs, 64 hexadecimal digits."""
    told = {
        **deciding(model, family=family, versions=versions, recipe_digest=recipe_digest),
        **deciding_variants(model.entry, calibration_digest=calibration_digest),
        "rebuild": rebuild,
    }
    return hashlib.sha256(jsonio.canonical(told)).hexdigest()


def deciding(
    model: ResolvedModel, *, family: str, versions: Mapping[str, str], recipe_digest: str | None = None
) -> dict[str, object]:
    """Return everything that decides the fp32 graphs of a bundle, by name.

    Tolerances, latency grid, providers and priority decide what is proven and when, not the graphs; they stay out.
    """
    entry = model.entry
    return {
        "commit": model.commit,
        "task": model.task,
        "family": family,
        "recipe": entry.recipe,
        **({"architecture": entry.architecture} if entry.architecture else {}),
        **({"weights_variant": entry.weights_variant} if entry.weights_variant else {}),
        **({"recipe_file": recipe_digest} if recipe_digest else {}),
        "opset": entry.opset,
        **({"decoder_form": entry.decoder_form} if entry.decoder_form != DECODER_FORMS[0] else {}),
        **({"may_be_fixed": sorted(entry.may_be_fixed)} if entry.may_be_fixed else {}),
        **({"tokenizer": entry.tokenizer} if entry.tokenizer != "exact" else {}),
        **({"tokenizer_graph": True} if entry.tokenizer_graph else {}),
        "weights": entry.weights,
        "inline_max_bytes": entry.inline_max_bytes,
        "trust_remote_code": entry.trust_remote_code is not None,
        "allow_pickle": entry.allow_pickle is not None,
        "toolchain": dict(versions),
    }


def deciding_variants(entry: Entry, *, calibration_digest: str | None = None) -> dict[str, object]:
    """Return everything else that decides which variants a bundle has, and their bytes, by name.

    Gates are part of it: layers that hurt too much by them are left in float32.
    """
    asked = [name for name in sorted(entry.variants) if name != FP32]
    gates = {name: asdict(gates) for name, gates in entry.variant_gates.items() if name in asked}
    return {
        "variants": [FP32, *asked],
        **({"variant_gates": gates} if gates else {}),
        **({"calibration": calibration_digest} if asked and calibration_digest else {}),
    }


def version_of(commit: str, fingerprint: str) -> str:
    """Return the name of a bundle under its model."""
    return f"{commit[:8]}-{fingerprint[:8]}"


def of_defaults(defaults: Entry, *, versions: Mapping[str, str]) -> str:
    """Return the SHA-256 of what all models of a catalogue share: the toolchain, and what its defaults decide.

    Args:
        defaults: the entry of a model that says nothing itself.
    """
    model = ResolvedModel(
        entry=defaults, repo_id="", commit="", task=defaults.task or "", architecture="", model_type="", licence=None,
        gated=False, files=(), needed=(),
    )  # fmt: skip
    return fingerprint(
        model,
        family="",
        versions=versions,
        recipe_digest=recipes.digest(defaults.recipe) if defaults.recipe else None,
        calibration_digest=calibration_source.digest(defaults.calibration) if defaults.calibration else None,
    )
