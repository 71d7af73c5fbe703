"""Reuse: which variants of a bundle take over figures that the store keeps, and which figures it keeps of a bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.entities.latency_report import Confirmation, LatencyReport, MeasuredAnew, TakenOver
from onnx_fleet.measurement import value_dependence
from onnx_fleet.measurement.confirmation import Confirming

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a bundle takes over, and why it does not take over the rest."""

    figures: tuple[KeptLatency, ...] = ()
    origins: tuple[TakenOver, ...] = ()
    """Where they come from, and what confirms them: one for each of the figures."""
    refused: tuple[MeasuredAnew, ...] = ()
    values_matter: str = ""

    @property
    def variants(self) -> frozenset[str]:
        """The variants that need not be measured."""
        return frozenset(each.variant for each in self.figures)


def take_over(
    kept: Sequence[KeptLatency],
    *,
    graphs: Sequence[GraphInfo],
    confirming: Confirming,
    now: datetime,
    max_age_days: int,
) -> Taken:
    """Take over what is young enough and is confirmed.

    Args:
        kept: the figures under the keys of this bundle's own variants.
        graphs: the stage's.
    Raises:
        GpuUnavailable, ValidationFailed: a graph does not load or run.
    """
    values_matter = value_dependence.reason(confirming.stage_dir, graphs)
    if values_matter:
        return Taken(
            values_matter=values_matter,
            refused=tuple(MeasuredAnew(variant=each.variant, reason=values_matter) for each in kept),
        )
    figures, origins, refused = [], [], []
    for each in kept:
        if not _is_whole(each, graphs):
            log.warning("%s: the figures that are kept of %s are not of all its graphs", each.variant, _origin(each))
            continue
        if now - each.measured_at > timedelta(days=max_age_days):
            reason = f"the figures of {_origin(each)} are more than {max_age_days} days old"
            refused.append(MeasuredAnew(variant=each.variant, reason=reason))
            continue
        confirmations = () if each.left_out else confirming.confirm(each, graphs=graphs)
        if differing := [row for row in confirmations if not row.agrees]:
            reason = f"the figures of {_origin(each)} were not confirmed: {'; '.join(map(_told, differing))}"
            log.warning("%s: %s", each.variant, reason)
            refused.append(MeasuredAnew(variant=each.variant, reason=reason, confirmations=confirmations))
            continue
        figures.append(each)
        origins.append(_taken(each, confirmations))
    return Taken(figures=tuple(figures), origins=tuple(origins), refused=tuple(refused))


def to_keep(
    report: LatencyReport, *, keys: Mapping[str, str], standing: Iterable[KeptLatency] = ()
) -> Iterator[KeptLatency]:
    """Yield what a report has measured itself, for models with the same graphs.

    Args:
        keys: the key of each variant that others may take over.
        standing: what the store keeps under these keys. Figures of a quiet machine are not given up for a noisy one's
            because a few calls there did not agree with them.
    """
    if report.status != "measured" or report.values_matter or report.measured_at is None:
        return
    taken = {each.variant for each in report.taken_over}
    differed = {each.variant for each in report.measured_anew if each.confirmations}
    quiet = {each.variant for each in standing if each.noise is not None and each.noise.verdict == "quiet"}
    is_noisy = report.noise is not None and report.noise.verdict == "noisy"
    left_out = {each.variant: each.reason for each in report.left_out}
    for variant, key in keys.items():
        if variant in taken or (is_noisy and variant in differed & quiet):
            continue
        yield KeptLatency(
            key=key,
            model_id=report.model_id,
            version=report.version,
            variant=variant,
            provider=report.provider,
            measured_at=report.measured_at,
            rows=tuple(row for row in report.rows if row.variant == variant),
            generation=tuple(row for row in report.generation if row.variant == variant),
            skipped=report.skipped,
            left_out=left_out.get(variant, ""),
            footprint=next((each for each in report.footprints if each.variant == variant), None),
            noise=report.noise,
            hardware=report.hardware,
        )


def _is_whole(kept: KeptLatency, graphs: Iterable[GraphInfo]) -> bool:
    """Say whether there are figures of each of a variant's graphs, or a reason why there are none."""
    own = {info.path for info in graphs if info.variant == kept.variant}
    return bool(kept.left_out) or (kept.footprint is not None and own == {row.graph for row in kept.rows})


def _taken(kept: KeptLatency, confirmations: tuple[Confirmation, ...]) -> TakenOver:
    return TakenOver(
        variant=kept.variant,
        model_id=kept.model_id,
        version=kept.version,
        measured_at=kept.measured_at,
        hardware=kept.hardware,
        noise=kept.noise,
        confirmations=confirmations,
    )


def _origin(kept: KeptLatency) -> str:
    return _taken(kept, ()).origin


def _told(row: Confirmation) -> str:
    low, high = row.latency_ms_p50_interval
    return (
        f"{row.graph} at {row.at} took {row.latency_ms_p50:.2f} ms ({low:.2f} to {high:.2f}) where they say"
        f" {row.measured_ms_p50:.2f} ms; a factor of {row.allowed_ratio:.2f} was allowed"
    )
