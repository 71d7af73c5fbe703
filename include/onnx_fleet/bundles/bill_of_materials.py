"""The bill of materials: ``bom.json``, a CycloneDX 1.6 document of what a bundle is made of, and what was proven of it.

cyclonedx-python-lib writes the components, tools, licences and hashes. It does not know the model card
(https://github.com/CycloneDX/cyclonedx-python-lib/issues/912), which is therefore added as JSON; a test holds the whole
to CycloneDX's own schema.

The same manifest and card give the same bytes. Reports are not listed: their bytes differ between runs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from onnx_fleet import __version__, jsonio
from onnx_fleet.bundles.manifest import BundleFile, CheckSummary, Manifest
from onnx_fleet.bundles.model_card import ModelCard
from onnx_fleet.entities.naming import ref_of

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "pkg:generic/onnx-fleet")
_MODEL: Final = "model"
"""The reference of the bundle itself in its bill of materials."""


def of(made: Manifest, *, card: ModelCard) -> bytes:
    """Return the bill of materials of a bundle whose manifest lists everything but this file.

    Args:
        card: what the model's author declares.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6

    subject = _bundle(made, card=card)
    files = [_file(file) for file in made.files if file.role != "report"]
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, ref_of(made.bundle)),
        metadata=BomMetaData(
            component=subject, timestamp=made.bundle.created_at, tools=ToolRepository(components=_tools(made))
        ),
        components=files,
    )
    bom.register_dependency(subject, files)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(made, card=card)
    return jsonio.canonical(document)


def _bundle(made: Manifest, *, card: ModelCard) -> Component:
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from packageurl import PackageURL

    group, _, name = made.bundle.model_id.rpartition("/")
    bases = [_model(base, reference=f"base:{base}") for base in card.base_models]
    source = _model(made.source.repo_id, reference="source")
    source.version = made.source.revision
    source.purl = PackageURL.from_string(source_purl(made))
    source.licenses = _licences(made, card=card)
    source.pedigree = Pedigree(ancestors=bases) if bases else None
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_MODEL,
        group=group or None,
        name=name,
        version=made.bundle.version,
        licenses=_licences(made, card=card),
        description="The model as ONNX graphs, with what is needed to use them.",
        pedigree=Pedigree(ancestors=[source]),
        properties=_properties({"fingerprint": made.bundle.fingerprint}),
    )


def source_purl(made: Manifest) -> str:
    """Return the package URL of the repo and commit that a bundle was made from."""
    return f"pkg:huggingface/{made.source.repo_id}@{made.source.revision}"


def _model(repo_id: str, *, reference: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    group, _, name = repo_id.rpartition("/")
    kind = ComponentType.MACHINE_LEARNING_MODEL
    return Component(type=kind, bom_ref=reference, group=group or None, name=name)


def _licences(made: Manifest, *, card: ModelCard) -> list[License]:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import XsUri

    if made.source.licence is None:
        return []
    known = LicenseFactory()
    if made.source.licence == "other" and card.licence_name:
        link = card.licence_link if card.licence_link and card.licence_link.startswith("https://") else None
        return [known.make_with_name(card.licence_name, url=XsUri(link) if link else None)]
    return [known.make_from_string(made.source.licence)]


def _file(file: BundleFile) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.FILE,
        bom_ref=f"file:{file.path}",
        name=file.path,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        properties=_properties({"role": file.role, "size_bytes": str(file.size_bytes)}),
    )


def _tools(made: Manifest) -> list[Component]:
    """Return onnx-fleet, and the packages that decide the graphs' bytes."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    ours = Component(
        type=ComponentType.APPLICATION, bom_ref="tool:onnx-fleet", name="onnx-fleet", version=__version__
    )  # fmt: skip
    others = [
        Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"tool:{name}",
            name=name,
            version=version,
            purl=None if " " in name else PackageURL(type="pypi", name=name, version=version),
        )
        for name, version in made.toolchain.items()
    ]
    return [ours, *others]


def _properties(values: dict[str, str]) -> list[Any]:
    from cyclonedx.model import Property

    return [Property(name=f"onnx-fleet:{name}", value=value) for name, value in values.items()]


def _model_card(made: Manifest, *, card: ModelCard) -> dict[str, Any]:
    """Return CycloneDX's ``modelCard``: what the model does, what it was trained with, and what was proven."""
    said = {
        "validation:gpu": made.validation.gpu,
        **{f"variant:{each.variant}": f"{each.status}: {each.reason}" for each in made.variants},
    }
    return {
        "modelParameters": {
            "task": made.task,
            "architectureFamily": made.family,
            "modelArchitecture": made.architecture,
            **({"datasets": [{"type": "dataset", "name": name} for name in card.datasets]} if card.datasets else {}),
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_proven(made.validation.checks))},
        "properties": [{"name": f"onnx-fleet:{name}", "value": value} for name, value in sorted(said.items())],
    }


def _proven(checks: Iterable[CheckSummary]) -> Iterable[dict[str, str]]:
    """Yield each check on each provider, over all graphs and outputs: how far the graphs are from PyTorch."""
    groups: dict[tuple[str, str], list[CheckSummary]] = {}
    for row in checks:
        groups.setdefault((row.provider, row.check), []).append(row)
    for (provider, check), rows in groups.items():
        cases, passed = sum(row.cases for row in rows), sum(row.cases_passed for row in rows)
        yield {"type": f"{check}: cases passed of {cases}", "value": str(passed), "slice": provider}
        differences = [row.max_abs_diff for row in rows if row.max_abs_diff is not None]
        if differences:
            value = f"{max(differences):g}"
            yield {"type": f"{check}: largest absolute difference from PyTorch", "value": value, "slice": provider}
