"""Gates: which findings of a comparison with the version in use are worse, and whether the channel stays for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx_fleet.entities.entry import Gates
from onnx_fleet.entities.regression_report import ContractChange, Differences, Finding, Gate
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.measurement.output_drift import NEW_RUNS, OLD_RUNS, SOURCE

FULL_PRECISION = "fp32"
"""The variant in full precision; others have gates of their own, since rounding alone sets two versions apart."""

_SHOWN = 5


def of_contract(changes: Iterable[ContractChange], *, gates: Gates) -> tuple[Finding, ...]:
    """Return one finding for all changes that break consumers, however many there are."""
    texts = [f"{each.graph}: {each.change}" for each in changes if each.breaking]
    if not texts:
        return ()
    message = f"breaks consumers: {_listed(texts)}"
    return (Finding(gate="contract", message=message, holds=gates.breaking == "block"),)


def of_differences(found: Differences, *, gates: Gates, full: Iterable[str], alike: bool) -> tuple[Finding, ...]:
    """Return findings of what is slower, larger or off by more than the entry allows.

    Args:
        full: paths of the graphs in full precision.
        alike: both versions are made of the same weights in the same way, so that their outputs are to be equal.
    """
    blocks = gates.policy == "block"
    texts: list[tuple[Gate, str]] = [
        *(("outputs", text) for text in _of_outputs(found.outputs, gates=gates, full=set(full), alike=alike)),
        *(("size", text) for text in _of_sizes(found, gates=gates)),
        *(("latency", text) for text in _of_latency(found, gates=gates)),
    ]
    return (
        *(Finding(gate=gate, message=text, holds=blocks) for gate, text in texts),
        *(
            Finding(gate="comparison", message=f"{SOURCE} does not run here: {row.detail}", holds=False)
            for row in found.outputs
            if row.check == OLD_RUNS
        ),
    )


def of_failure(reason: str, *, holds: bool) -> Finding:
    """Return the finding of a comparison that could not be made."""
    return Finding(gate="comparison", message=reason, holds=holds)


def _of_outputs(rows: Iterable[CheckRow], *, gates: Gates, full: set[str], alike: bool) -> Iterator[str]:
    drifted: dict[tuple[str, str], list[CheckRow]] = {}
    for row in rows:
        if row.check == NEW_RUNS or row.finding == "nan" or (row.finding == "shape" and alike):
            yield f"{row.graph}: {row.output or 'it'} on {row.case}: {row.detail}"
        elif row.finding == "different" and alike and row.graph in full:
            drifted.setdefault((row.graph, row.output), []).append(row)
    for (graph, output), differing in drifted.items():
        worst = max(differing, key=lambda row: row.max_abs_diff or 0.0)
        yield (
            f"{graph}: {output} differs from {SOURCE} by up to {worst.max_abs_diff or 0.0:.1e} (on {worst.case});"
            f" allowed are {gates.max_drift:g} tolerances, {worst.atol:.1e} + {worst.rtol:.1e} of the value"
        )


def _of_sizes(found: Differences, *, gates: Gates) -> Iterator[str]:
    for row in found.sizes:
        if row.ratio > gates.max_growth:
            yield (
                f"{row.variant}: graphs and weights are {row.new_bytes:,} bytes, {row.ratio:.2f} times the"
                f" {row.old_bytes:,} of {SOURCE}; allowed are {gates.max_growth:.2f} times"
            )


def _of_latency(found: Differences, *, gates: Gates) -> Iterator[str]:
    for row in found.latency:
        if row.ratio_low > gates.max_slowdown:
            yield (
                f"{row.graph} at {row.at}: {row.new_latency_ms_p50:.2f} ms where {SOURCE} takes"
                f" {row.old_latency_ms_p50:.2f} ms, {row.ratio:.2f} times (95 % interval {row.ratio_low:.2f} to"
                f" {row.ratio_high:.2f}); allowed are {gates.max_slowdown:.2f} times"
            )


def _listed(texts: Sequence[str]) -> str:
    rest = f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + rest
