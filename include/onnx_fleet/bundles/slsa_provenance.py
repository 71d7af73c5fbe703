"""Provenance: ``provenance.json``, an in-toto statement of how a bundle's files came about, with SLSA's predicate v1.

Its subjects are the files that the run made or checked against their source: graphs, weights and tokenizers. It cannot
have itself or the manifest among them, because the manifest has its digest; a signature covers all three.
https://slsa.dev/spec/v1.0/provenance defines the predicate; a test holds it to in-toto's own protobuf types.

It names the run and its time, so it differs between runs as reports do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from onnx_fleet import __version__, jsonio
from onnx_fleet.bundles.bill_of_materials import source_purl
from onnx_fleet.bundles.manifest import FileRole, Manifest
from onnx_fleet.entities.resolved_model import SourceFile

_SUBJECTS: Final[frozenset[FileRole]] = frozenset({"graph", "weights", "tokenizer"})
_BUILD_TYPE: Final = "pkg:generic/onnx-fleet#docs/bundle-format.md"
"""Where it is written how the parameters are to be read."""
_DIGESTS: Final = {"sha256": "sha256", "git-sha1": "gitBlob"}
"""The Hub's name of a digest -> in-toto's."""


def of(made: Manifest) -> bytes:
    """Return the statement about a bundle whose manifest lists everything but this file."""
    finished = f"{made.bundle.created_at:%Y-%m-%dT%H:%M:%SZ}"
    run = made.provenance
    return jsonio.canonical(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [_described(file.path, sha256=file.sha256) for file in made.files if file.role in _SUBJECTS],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": _BUILD_TYPE,
                    "externalParameters": _external_parameters(made),
                    "internalParameters": {"fingerprint": made.bundle.fingerprint, "trigger": run.trigger},
                    "resolvedDependencies": list(_dependencies(made)),
                },
                "runDetails": {
                    "builder": {"id": "pkg:generic/onnx-fleet", "version": {"onnx-fleet": __version__}},
                    "metadata": {"invocationId": f"{run.dag_id}/{run.run_id}", "finishedOn": finished},
                    "byproducts": [
                        _described(file.path, sha256=file.sha256) for file in made.files if file.role == "report"
                    ],
                },
            },
        }
    )


def _external_parameters(made: Manifest) -> dict[str, Any]:
    """Return what was asked for."""
    return {
        "repo_id": made.source.repo_id,
        "revision": made.source.requested_revision,
        "task": made.task,
        "settings": dict(made.export.settings),
        **({"recipe": made.export.recipe} if made.export.recipe else {}),
        **({"rebuild": made.bundle.rebuild} if made.bundle.rebuild else {}),
    }


def _dependencies(made: Manifest) -> Iterable[dict[str, Any]]:
    """Yield what the bundle was made from: the commit and its files, the catalogue, the recipe, the packages."""
    yield {"uri": source_purl(made), "digest": {"gitCommit": made.source.revision}}
    yield from (_source_file(file) for file in made.source.files)
    if made.provenance.catalogue_digest:
        yield _described("catalogue", sha256=made.provenance.catalogue_digest)
    if made.export.recipe_digest:
        yield _described("recipe", sha256=made.export.recipe_digest)
    for name, version in sorted(made.toolchain.items()):
        if " " not in name:  # our own export format is no package
            yield {"uri": f"pkg:pypi/{name}@{version}"}


def _source_file(file: SourceFile) -> dict[str, Any]:
    kind, _, value = file.digest.partition(":")
    return {"name": file.path, "digest": {_DIGESTS.get(kind, kind): value}}


def _described(name: str, *, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}
