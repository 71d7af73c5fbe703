"""The manifest: what a bundle holds, where it comes from, and what proves it. docs/bundle-format.md explains it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.conventions.sentence_modules import Settings
from onnx_fleet.entities.export_record import Fallback, Way
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.latency_report import Footprint, GenerationRow, LatencyRow, MeasuredAnew, Noise, TakenOver
from onnx_fleet.entities.regression_report import Finding, RegressionVerdict
from onnx_fleet.entities.resolved_model import SourceFile
from onnx_fleet.entities.validation_report import FullProof
from onnx_fleet.errors import BundleCorrupt, UnsafeModel
from onnx_fleet.store import keys, layout

SCHEMA_VERSION = 1
FILE_NAME = layout.MANIFEST

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hex.")]

FileRole = Literal[
    "graph", "weights", "config", "tokenizer", "preprocessor", "sentence_transformers", "licence", "readme", "report",
    "other",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleInfo:
    """The identity of the bundle."""

    model_id: str
    """The model's id, ``org/name``."""
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{8}$")]
    """The bundle's version, ``<commit[:8]>-<fingerprint[:8]>``."""
    fingerprint: Sha256
    """The SHA-256 of everything that decides the graphs' bytes."""
    rebuild: str | None
    """The run that asked for this version although an equal one was there."""
    created_at: AwareDatetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The repo and commit that the model comes from."""

    repo_id: str
    requested_revision: str
    revision: str
    """The source's commit, 40 hex digits."""
    licence: str | None
    gated: bool
    files: tuple[SourceFile, ...]
    """The files that the bundle was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """One file of the bundle."""

    path: str
    """The file's path in the bundle, with POSIX separators."""
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256
    role: FileRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The settings and tools with which the graphs were made."""

    settings: Mapping[str, str | int | bool]
    recipe: str | None
    recipe_digest: Sha256 | None = None
    """The SHA-256 of the file that the recipe is in; None for a built-in recipe, or no recipe."""
    fallbacks: tuple[Fallback, ...]
    """The attempts that came first and failed, each with its reason."""
    traced: Way = "full"
    """The way in which the graphs were made: traced whole, traced shallow and repeated, or taken from the cache."""
    graph_key: Sha256 | None = None
    """The key of the graphs in the cache; models that have the same one have the same graphs."""
    duration_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderValidation:
    """The comparison with PyTorch on one provider, or the reason why there is none."""

    provider: str
    status: Literal["passed", "failed", "not_run"]
    reason: str
    nodes_by_provider: Mapping[str, int]
    """The number of nodes that really ran on each provider, from the session's profile."""
    rests_on: FullProof | None = None
    """The whole comparison of the same graphs with other weights that this one repeats in part; None where everything
    was compared with this bundle's own weights."""
    why_full: str = ""
    """Why everything was compared although the same graphs had been before; empty where they had not been."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSummary:
    """One check of one output of one graph, over all of its cases; the report in the bundle has every case."""

    provider: str
    check: str
    graph: str
    output: str
    passed: bool
    cases: int
    cases_passed: int
    worst_case: str
    """The case with the largest absolute difference."""
    max_abs_diff: float | None
    max_rel_diff: float | None
    atol: float
    rtol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The comparisons with PyTorch, and how close the outputs are."""

    passed: bool
    max_abs_diff: float | None
    gpu: str
    """A statement for people: ``validated on GPU``, or ``not validated on GPU: <reason>``."""
    providers: tuple[ProviderValidation, ...]
    checks: tuple[CheckSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSummary:
    """The outcome of one variant that was asked for; the report in the bundle has every graph's figures."""

    variant: str
    status: Literal["published", "missed"]
    """Whether the variant is in the bundle; ``missed``: it is not."""
    reason: str
    """A statement for people: the figures and their gates."""
    gpu: str = ""
    """A statement for people: the figures on a GPU, or why it was not run on one; empty where nobody asked."""
    layers_ratio: float | None
    """The bytes of the layers' weights as a share of their bytes in fp32; embeddings are left out of both."""
    kept: tuple[str, ...]
    """The nodes or kinds of layers that stayed in float32, since they would overflow or harm the outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLatency:
    """The latency on one provider, and the hardware."""

    provider: str
    status: Literal["measured", "not_run"]
    reason: str
    threads: int
    load_time_s: float | None
    peak_memory_bytes: int | None
    hardware: Mapping[str, str | int]
    runtime: Mapping[str, str]
    rows: tuple[LatencyRow, ...]
    generation: tuple[GenerationRow, ...] = ()
    footprints: tuple[Footprint, ...] = ()
    """The footprint of each variant; the first one's figures are repeated above."""
    noise: Noise | None = None
    """The machine's noise while the rows were taken; None in older manifests."""
    measured_at: AwareDatetime | None = None
    """When the rows were taken that are this bundle's own; None in older manifests."""
    taken_over: tuple[TakenOver, ...] = ()
    """The variants whose rows were measured on another bundle with the same graphs, and on which."""
    measured_anew: tuple[MeasuredAnew, ...] = ()
    """The variants of which there were such rows, and why they were measured nevertheless."""
    values_matter: str = ""
    """Why no other bundle's rows may stand for this one's, and the other way round; empty where they may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """The comparison with the version in use at publication; the report in the bundle has every figure."""

    channel: str
    compared_with: str
    """The version that the channel pointed at."""
    verdict: RegressionVerdict
    """The gates' verdict; ``held``: no run moves a channel from another version to this one; a person may."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The run that made the bundle."""

    dag_id: str
    run_id: str
    trigger: str
    """What started the run: ``scheduled``, ``manual``, ``asset``, ``cli``, …"""
    catalogue_digest: str | None
    """SHA-256 of the catalogue; None for a model that was asked for by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A bundle, described."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    bundle: BundleInfo
    source: Source
    task: str
    family: str
    architecture: str
    graphs: tuple[GraphInfo, ...]
    files: tuple[BundleFile, ...]
    """Every file but the manifest itself, in order of their paths."""
    sentence_transformers: Settings | None = None
    """What a consumer without that library has to do before and behind the graph; None for other sources."""
    toolchain: Mapping[str, str]
    export: Export
    validation: Validation
    variants: tuple[VariantSummary, ...] = ()
    """The variants that were asked for beside fp32."""
    latency: tuple[ProviderLatency, ...]
    regression: Regression | None = None
    """The comparison with the version in use; None where no version was in use."""
    provenance: Provenance

    @property
    def size_bytes(self) -> int:
        """The size of all files together, in bytes."""
        return sum(file.size_bytes for file in self.files)


def write(manifest: Manifest) -> bytes:
    """Return the manifest as canonical JSON: equal manifests are equal bytes."""
    return jsonio.canonical(jsonio.to_json(manifest))


def read(data: bytes, *, where: str = FILE_NAME) -> Manifest:
    """Parse a manifest's bytes; whatever is not a whole, consistent manifest is refused.

    Args:
        where: what to call the manifest in a message.

    Raises:
        BundleCorrupt: it is not a manifest, or not one that this onnx-fleet can read.
    """
    try:
        manifest = jsonio.adapter(Manifest).validate_json(data, strict=True)
    except ValidationError as err:
        raise BundleCorrupt(f"{where}: {_schema_fault(data, err)}") from err
    faults = _inconsistencies(manifest)
    if faults:
        raise BundleCorrupt(f"{where}: {'; '.join(faults)}; {remedy('MODEL')}")
    return manifest


def remedy(model_id: str) -> str:
    """Say what to do about a published bundle that is not right: it is never changed, a new one takes its place."""
    return f"make a new version: `onnx-fleet run {model_id} --force`, or `force` in Airflow"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a manifest."""
    schema = jsonio.adapter(Manifest).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "onnx-fleet bundle manifest"}


def _schema_fault(data: bytes, err: ValidationError) -> str:
    try:
        found = json.loads(data)
    except ValueError:
        return f"is not valid JSON and may be truncated: {remedy('MODEL')}"
    version = found.get("schema_version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return f"has schema_version {version}, and this onnx-fleet reads up to {SCHEMA_VERSION}; upgrade onnx-fleet"
    first = err.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"is not a manifest: {place}: {first['msg']} ({err.error_count()} faults); {remedy('MODEL')}"


def _inconsistencies(manifest: Manifest) -> tuple[str, ...]:
    """Return what contradicts itself in a manifest, which the types alone do not find."""
    bundle = manifest.bundle
    faults = []
    if bundle.version != f"{manifest.source.revision[:8]}-{bundle.fingerprint[:8]}":
        faults.append(f"version {bundle.version} does not follow from revision and fingerprint")
    for file in manifest.files:
        try:
            keys.checked(file.path)
        except UnsafeModel as err:
            faults.append(str(err))
    counts = Counter(file.path for file in manifest.files)
    faults.extend(f"{path} is listed {count} times" for path, count in counts.items() if count > 1)
    if FILE_NAME in counts:
        faults.append(f"{FILE_NAME} lists itself")
    named = [path for graph in manifest.graphs for path in (graph.path, *graph.weight_files)]
    faults.extend(f"{path} belongs to a graph and is not among the files" for path in named if path not in counts)
    return tuple(faults)
