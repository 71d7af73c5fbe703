"""What became of every variant that an entry wanted: figures, gates, sizes, verdict -> reports/variants.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import report_name
from onnx_fleet.errors import ValidationFailed

REPORT_NAME = "variants"

Status = Literal["published", "missed", "not_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure, and what it has to be."""

    name: str
    """The figure's name: ``weights``, ``finite``, ``masked``, ``cosine``, ``top1``, ``perplexity_ratio``, ``size``;
    docs/decisions/variants.md says what they are."""
    value: float
    threshold: float
    """The least that the value may be; the most, where less is better."""
    passed: bool
    count: int
    """How many weights, values, vectors, choices, tokens or bytes the figure is taken of."""
    of: str = ""
    """The name of what missed, where it has one."""

    @property
    def less_is_better(self) -> bool:
        return self.name in ("weights", "masked", "perplexity_ratio", "size")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """What the weights of one graph take."""

    layers: int
    embeddings: int
    """The bytes of tables that are looked up in, and of what an output layer that shares one with them takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphVerdict:
    """One graph of one variant, beside the fp32 graph of the same role."""

    role: str
    path: str
    """The file's path in the bundle, where the variant is published."""
    measures: tuple[Measure, ...]
    fault: str
    """Why nothing could be measured, or what the two graphs have not alike; empty where all is well."""
    samples: int
    kept: tuple[str, ...]
    """What stayed in float32, since it would overflow or harm the outputs."""
    weights: WeightBytes
    fp32_weights: WeightBytes

    @property
    def passed(self) -> bool:
        return not self.fault and all(measure.passed for measure in self.measures)

    @property
    def ratio(self) -> float:
        """The share that the layers' weights take of their bytes in fp32."""
        return self.weights.layers / max(self.fp32_weights.layers, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantVerdict:
    """One variant of a model."""

    variant: str
    status: Status
    """What became of it. ``missed``: the bundle is without it. ``not_run``: it is not for this provider."""
    required: bool
    reason: str
    """The figures, or what was missed, for people."""
    graphs: tuple[GraphVerdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """Every variant that the entry wanted."""

    schema_version: int = 1
    model_id: str
    version: str
    provider: str = "cpu"
    verdicts: tuple[VariantVerdict, ...]
    duration_s: float


def require(report: VariantReport) -> None:
    """Stop a model that misses a variant which its entry requires.

    Raises:
        ValidationFailed: names the variants, and what they missed.
    """
    missed = [verdict for verdict in report.verdicts if verdict.required and verdict.status == "missed"]
    if missed:
        raise ValidationFailed(
            "\n".join(
                (
                    f"{ref_of(report)} on {report.provider}: a required variant is not good "
                    f"enough; every figure is in the stage's reports/{report_name(REPORT_NAME, report.provider)}.json",
                    *(f"  {verdict.variant}: {verdict.reason}" for verdict in missed),
                    "take it out of required_variants, or give it gates that its users accept (variant_gates)",
                )
            )
        )


def said(graphs: tuple[GraphVerdict, ...]) -> str:
    """Say the worst graph's figures, ``cosine 0.9962 (at least 0.97)``; only those that were missed, where any was."""
    faults = [f"{graph.role}: {graph.fault}" for graph in graphs if graph.fault]
    if faults:
        return "; ".join(faults)
    worst: dict[str, Measure] = {}
    for measure in (measure for graph in graphs for measure in graph.measures):
        if measure.name not in worst or _slack(measure) < _slack(worst[measure.name]):
            worst[measure.name] = measure
    missed = [measure for measure in worst.values() if not measure.passed]
    return ", ".join(map(_figure, missed or worst.values()))


def _slack(measure: Measure) -> float:
    distance = measure.value - measure.threshold
    return -distance if measure.less_is_better else distance


def _figure(measure: Measure) -> str:
    bound = "at most" if measure.less_is_better else "at least"
    of = f" of {measure.of}" if measure.of else ""
    return f"{measure.name} {measure.value:.4f}{of} ({bound} {measure.threshold:g})"
